//! Limits the calls per second to TikTok for each app. Callers proceed in the order in which they started to wait. The rate
//! adapts: HTTP 429 lowers it.

use crate::domain::adaptive_rate::AdaptiveRate;
use governor::{
    DefaultDirectRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tracing::warn;

/// Rate limiters by app.
pub struct RateLimiter {
    max: NonZeroU32,
    apps: Mutex<HashMap<String, Arc<App>>>,
}

struct App {
    rate: Mutex<AdaptiveRate>,
    /// The callers of an app queue for this lock. Without it, all of them would wake up for each slot and only one would get it.
    /// The first in the queue sleeps on Tokio's timer, because governor's own timer runs on a thread.
    queue: tokio::sync::Mutex<Limiter>,
}

/// A limiter for one rate: governor's is fixed, so a new one replaces it when the rate changes.
struct Limiter {
    per_second: u32,
    governor: DefaultDirectRateLimiter,
}

impl Limiter {
    fn new(per_second: u32) -> Self {
        // A small burst compensates for late timers. A large one would double the rate in the first second.
        let of = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(of(per_second)).allow_burst(of(per_second.div_ceil(10)));
        Self { per_second, governor: DefaultDirectRateLimiter::direct(quota) }
    }

    /// A limiter whose burst is used up, so that a change of the rate grants no extra calls.
    fn without_burst(per_second: u32) -> Self {
        let limiter = Self::new(per_second);
        while limiter.governor.check().is_ok() {}
        limiter
    }
}

impl RateLimiter {
    /// Limiters of at most `per_second` calls per second for each app.
    pub fn new(per_second: NonZeroU32) -> Self {
        Self { max: per_second, apps: Mutex::default() }
    }

    /// Waits until the app may make one more call. Cancel-safe: a caller that stops waiting uses no slot.
    pub async fn until_ready(&self, app_key: &str) {
        let app = self.of_app(app_key);
        let mut limiter = app.queue.lock().await;
        loop {
            let per_second = app.rate().at(Instant::now());
            if per_second != limiter.per_second {
                *limiter = Limiter::without_burst(per_second);
            }
            let Err(too_early) = limiter.governor.check() else { return };
            tokio::time::sleep(too_early.wait_time_from(DefaultClock::default().now())).await;
        }
    }

    /// Records that TikTok answered a call of this app with HTTP 429, or a code for it.
    pub fn slow_down(&self, app_key: &str) {
        if let Some(requests_per_second) = self.of_app(app_key).rate().slow_down(Instant::now()) {
            warn!(app_key, requests_per_second, "TikTok limits the rate of requests: slowing down");
        }
    }

    fn of_app(&self, app_key: &str) -> Arc<App> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let max = self.max.get();
        let new = || {
            let (rate, queue) = (AdaptiveRate::new(max), Limiter::new(max));
            Arc::new(App { rate: Mutex::new(rate), queue: tokio::sync::Mutex::new(queue) })
        };
        apps.entry(app_key.to_owned()).or_insert_with(new).clone()
    }
}

impl App {
    fn rate(&self) -> MutexGuard<'_, AdaptiveRate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter").field("max", &self.max).finish_non_exhaustive()
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

    fn limiter(per_second: u32) -> Arc<RateLimiter> {
        Arc::new(RateLimiter::new(NonZeroU32::new(per_second).unwrap()))
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

    #[tokio::test]
    async fn a_429_slows_down_its_own_app_alone_and_grants_no_burst() {
        let limiter = limiter(10);
        limiter.slow_down("a");
        assert!(limiter.until_ready("a").now_or_never().is_none(), "a change of the rate grants no call");
        assert_eq!(limiter.of_app("a").rate().at(Instant::now()), 5);
        assert!(limiter.until_ready("b").now_or_never().is_some());
        assert_eq!(limiter.of_app("b").rate().at(Instant::now()), 10);
    }
}
