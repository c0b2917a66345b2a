//! How long TikTok took: a bounded, even sample of a run's calls.

use std::time::Duration;

/// How many values one metric of CloudWatch's Embedded Metric Format holds at most in one line.
const MAX_VALUES: usize = 100;

/// The latencies of a run's provider calls: an even sample of at most 100, which is all that a line may hold.
#[derive(Clone, Debug)]
pub struct Latency {
    samples: Vec<u64>,
    seen: u64,
    every: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { samples: Vec::new(), seen: 0, every: 1 }
    }
}

impl Latency {
    /// The sample, in milliseconds.
    pub fn samples(&self) -> &[u64] {
        &self.samples
    }

    /// Takes one call's latency into account.
    pub fn record(&mut self, latency: Duration) {
        if self.seen.is_multiple_of(self.every) {
            if self.samples.len() == MAX_VALUES {
                // Full: keep every other sample, and from now on half as many.
                let mut keep = false;
                self.samples.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.every *= 2;
            }
            if self.seen.is_multiple_of(self.every) {
                self.samples.push(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
            }
        }
        self.seen += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_never_holds_more_values_than_the_format_allows() {
        let mut latency = Latency::default();
        for n in 0..100_000 {
            latency.record(Duration::from_millis(n));
            assert!(latency.samples.len() <= MAX_VALUES);
        }
        assert!(latency.samples.len() >= MAX_VALUES / 2);
        let steps: Vec<u64> = latency.samples.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| *step == steps[0]), "the sample is even");
    }
}
