//! How long one refresh waits, and for what.

use std::time::Duration;

/// The time-outs and waits of one integration's refresh.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// One call to TikTok: `TIKTOK_TIMEOUT`.
    pub call_timeout: Duration,
    /// The time at the end of an invocation that is kept free to save a response.
    pub save_reserve: Duration,
    /// The wait before the first retry of a call on which TikTok cannot have acted; each further wait is twice as long.
    pub call_backoff: Duration,
    /// The shortest wait before asking again after a response was lost; the longest is twice this.
    pub lost_response_wait: Duration,
    /// The wait before the first retry of a save.
    pub save_backoff: Duration,
    /// How long a save is retried before the token pair also goes to the rescue queue.
    pub rescue_after: Duration,
    /// How long a save is retried once the rescue queue holds the token pair.
    pub retries_after_rescue: Duration,
}

impl RetryPolicy {
    /// The policy in production, with the provider's time-out from the settings.
    pub fn with_call_timeout(call_timeout: Duration) -> Self {
        Self {
            call_timeout,
            save_reserve: Duration::from_secs(5),
            call_backoff: Duration::from_millis(500),
            lost_response_wait: Duration::from_secs(1),
            save_backoff: Duration::from_millis(50),
            rescue_after: Duration::from_secs(1),
            retries_after_rescue: Duration::from_secs(10),
        }
    }
}
