//! How often TikTok is asked: so many times a second for each app, and in the order in which the calls were wanted.

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// The rate toward TikTok, of each app by itself.
pub struct RateLimiter {
    quota: Quota,
    apps: Mutex<HashMap<String, Arc<Line>>>,
}

/// Who waits for an app's next free moment stands in line for it: were all to wait for the moment itself, each would wake
/// for it and one would have it. The head waits by tokio's timer, as governor's own is a thread beside it.
type Line = tokio::sync::Mutex<DefaultDirectRateLimiter>;

impl RateLimiter {
    /// So many calls for each app.
    pub fn new(quota: Quota) -> Self {
        Self { quota, apps: Mutex::default() }
    }

    /// Waits until an app may be asked once more. Whoever gives up waiting takes nothing with him.
    pub async fn until_ready(&self, app_key: &str) {
        let limiter = self.line(app_key);
        let limiter = limiter.lock().await;
        while let Err(too_early) = limiter.check() {
            tokio::time::sleep(too_early.wait_time_from(DefaultClock::default().now())).await;
        }
    }

    fn line(&self, app_key: &str) -> Arc<Line> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = apps.get(app_key) {
            return line.clone();
        }
        let line = Arc::new(Line::new(DefaultDirectRateLimiter::direct(self.quota)));
        apps.insert(app_key.to_owned(), line.clone());
        line
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("quota", &self.quota).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::{
        future::poll_fn,
        num::NonZeroU32,
        sync::atomic::{AtomicUsize, Ordering},
    };
    use tokio::task::JoinSet;

    fn limiter(per_second: u32) -> Arc<RateLimiter> {
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap()).allow_burst(NonZeroU32::MIN);
        Arc::new(RateLimiter::new(quota))
    }

    #[tokio::test]
    async fn one_app_does_not_wait_for_another() {
        let limiter = limiter(1);
        assert!(limiter.until_ready("a").now_or_never().is_some());
        assert!(limiter.until_ready("a").now_or_never().is_none(), "the second has to wait");
        assert!(limiter.until_ready("b").now_or_never().is_some());
    }

    #[tokio::test]
    async fn calls_are_let_through_in_order_and_nobody_is_woken_for_anothers_turn() {
        const CALLS: usize = 100;
        let (limiter, polls) = (limiter(1_000), Arc::new(AtomicUsize::new(0)));
        let mut waiting = JoinSet::new();
        for call in 0..CALLS {
            let (limiter, polls) = (limiter.clone(), polls.clone());
            waiting.spawn(async move {
                let mut ready = Box::pin(limiter.until_ready("a"));
                poll_fn(|context| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    ready.as_mut().poll(context)
                })
                .await;
                call
            });
        }
        let mut order = Vec::new();
        while let Some(call) = waiting.join_next().await {
            order.push(call.unwrap());
        }
        assert!(order.is_sorted(), "{order:?}");
        let polls = polls.load(Ordering::Relaxed);
        assert!(polls < 5 * CALLS, "{polls} polls for {CALLS} calls");
    }
}
