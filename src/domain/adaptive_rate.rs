//! How many requests per second an app sends: fewer when TikTok answers HTTP 429, then gradually more. This is the additive
//! increase and multiplicative decrease (AIMD) of TCP's congestion control.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// The rate of one app's requests. Times come from a monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct AdaptiveRate {
    max: u32,
    current: u32,
    halved_at: Option<Instant>,
    /// The last 429 or the last increase: the next increase comes a second after it.
    changed_at: Option<Instant>,
}

impl AdaptiveRate {
    /// Starts at the upper bound, `max` requests per second. 0 counts as 1.
    pub fn new(max: u32) -> Self {
        let max = max.max(1);
        Self { max, current: max, halved_at: None, changed_at: None }
    }

    /// The requests per second at `now`: one more after each second without a 429.
    pub fn at(&mut self, now: Instant) -> u32 {
        if let Some(changed_at) = self.changed_at {
            let seconds = now.saturating_duration_since(changed_at).as_secs();
            let increase = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.current = self.current.saturating_add(increase).min(self.max);
            self.changed_at = (self.current < self.max).then(|| changed_at + Duration::from_secs(seconds));
        }
        self.current
    }

    /// Records a 429 at `now`. It halves the rate, but at most once per second, as the requests in flight were sent at the old
    /// rate. Returns the new rate if it is lower than before.
    pub fn slow_down(&mut self, now: Instant) -> Option<u32> {
        let before = self.at(now);
        self.changed_at = Some(now);
        if self.halved_at.is_some_and(|at| now.saturating_duration_since(at) < SECOND) {
            return None;
        }
        self.halved_at = Some(now);
        self.current = (before / 2).max(1);
        (self.current < before).then_some(self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(max: u32, busy_at_ms: &[u64], until_seconds: u64) -> Vec<u32> {
        let start = Instant::now();
        let mut rate = AdaptiveRate::new(max);
        let mut rates = Vec::new();
        for second in 0..=until_seconds {
            for ms in busy_at_ms.iter().filter(|ms| **ms / 1_000 == second) {
                rate.slow_down(start + Duration::from_millis(*ms));
            }
            rates.push(rate.at(start + Duration::from_secs(second) + Duration::from_millis(999)));
        }
        rates
    }

    #[test]
    fn many_429s_within_a_second_halve_the_rate_once() {
        assert_eq!(rates(50, &[0, 10, 20, 500], 0), [25]);
        assert_eq!(rates(50, &[0, 999, 1_000, 2_000], 2), [25, 12, 6]);
    }

    #[test]
    fn it_never_falls_below_one_per_second() {
        assert_eq!(rates(5, &[0, 1_000, 2_000, 3_000, 4_000], 4), [2, 1, 1, 1, 1]);
        assert_eq!(AdaptiveRate::new(0).at(Instant::now()), 1);
    }

    #[test]
    fn each_second_without_a_429_adds_one_up_to_the_bound() {
        assert_eq!(rates(8, &[0], 6), [4, 5, 6, 7, 8, 8, 8]);
    }

    #[test]
    fn a_429_that_halves_nothing_still_holds_the_rate_for_a_second() {
        let (start, mut rate) = (Instant::now(), AdaptiveRate::new(8));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((rate.slow_down(at(0)), rate.slow_down(at(900))), (Some(4), None));
        assert_eq!((rate.at(at(1_899)), rate.at(at(1_900))), (4, 5));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_whatever_comes(
            max in 0..10_000_u32,
            steps in proptest::collection::vec((0..5_000_u64, any::<bool>()), 0..100),
        ) {
            let mut rate = AdaptiveRate::new(max);
            let mut now = Instant::now();
            for (ms, is_busy) in steps {
                now += Duration::from_millis(ms);
                let before = rate.at(now);
                if is_busy {
                    rate.slow_down(now);
                    prop_assert!(rate.at(now) >= before / 2);
                }
                prop_assert!((1..=max.max(1)).contains(&rate.at(now)));
            }
        }
    }
}
