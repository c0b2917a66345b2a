//! The timeouts and waits of a refresh.

use std::time::Duration;

/// The timeouts and waits of one integration's refresh.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// `TIKTOK_TIMEOUT`: the timeout of one call to TikTok.
    pub call_timeout: Duration,
    /// The time at the end of an invocation that is reserved for saving token pairs.
    pub save_reserve: Duration,
    /// The upper bound of the wait before the first retry of a call on which TikTok cannot have acted. It doubles with each
    /// further retry.
    pub call_backoff: Duration,
    /// The minimum wait before the call is repeated after a lost response. The maximum is twice as long.
    pub lost_response_wait: Duration,
    /// The base wait before the first retry of a save. It grows exponentially.
    pub save_backoff: Duration,
    /// How long a save is retried before the token pair also goes to the rescue queue.
    pub rescue_after: Duration,
    /// How long a save is retried once the rescue queue holds the token pair.
    pub save_time_after_rescue: Duration,
}

impl RetryPolicy {
    /// The production policy, with the timeout of a call from the settings.
    pub fn with_call_timeout(call_timeout: Duration) -> Self {
        Self {
            call_timeout,
            save_reserve: Duration::from_secs(5),
            call_backoff: Duration::from_millis(500),
            lost_response_wait: Duration::from_secs(1),
            save_backoff: Duration::from_millis(50),
            rescue_after: Duration::from_secs(1),
            save_time_after_rescue: Duration::from_secs(10),
        }
    }
}
