//! Limits the calls per second to TikTok for each app. Callers proceed in the order in which they started to wait.

use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

/// Rate limiters by app.
pub struct RateLimiter {
    quota: Quota,
    apps: Mutex<HashMap<String, Arc<Queue>>>,
}

/// The callers of an app queue for this lock. Without it, all of them would wake up for each slot and only one would get it.
/// The first in the queue sleeps on Tokio's timer, because governor's own timer runs on a thread.
type Queue = tokio::sync::Mutex<DefaultDirectRateLimiter>;

impl RateLimiter {
    /// Limiters of `per_second` calls per second for each app.
    pub fn new(per_second: NonZeroU32) -> Self {
        // A small burst compensates for late timers. A large one would double the rate in the first second.
        let burst = NonZeroU32::new(per_second.get().div_ceil(10)).unwrap_or(NonZeroU32::MIN);
        Self { quota: Quota::per_second(per_second).allow_burst(burst), apps: Mutex::default() }
    }

    /// Waits until the app may make one more call. Cancel-safe: a caller that stops waiting uses no slot.
    pub async fn until_ready(&self, app_key: &str) {
        let limiter = self.of_app(app_key);
        let limiter = limiter.lock().await;
        while let Err(too_early) = limiter.check() {
            tokio::time::sleep(too_early.wait_time_from(DefaultClock::default().now())).await;
        }
    }

    fn of_app(&self, app_key: &str) -> Arc<Queue> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Queue::new(DefaultDirectRateLimiter::direct(self.quota)));
        apps.entry(app_key.to_owned()).or_insert_with(new).clone()
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
        sync::atomic::{AtomicUsize, Ordering},
    };
    use tokio::task::JoinSet;

    /// A limiter without a burst, so that the second call has to wait.
    fn limiter(per_second: u32) -> Arc<RateLimiter> {
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap()).allow_burst(NonZeroU32::MIN);
        Arc::new(RateLimiter { quota, apps: Mutex::default() })
    }

    #[tokio::test]
    async fn one_app_does_not_wait_for_another() {
        let limiter = limiter(1);
        assert!(limiter.until_ready("a").now_or_never().is_some());
        assert!(limiter.until_ready("a").now_or_never().is_none(), "the second call has to wait");
        assert!(limiter.until_ready("b").now_or_never().is_some());
    }

    #[tokio::test]
    async fn callers_proceed_in_order_and_wake_up_only_for_their_own_slot() {
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
