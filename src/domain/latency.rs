//! The latency of a run's calls to TikTok.

use std::time::Duration;

/// The maximum number of values of a metric in one line of CloudWatch's Embedded Metric Format.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
const MAX_VALUES: usize = 100;

/// A duration in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An evenly spaced sample of a run's call latencies, of at most 100 values.
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
    /// The sampled latencies, in milliseconds.
    pub fn samples(&self) -> &[u64] {
        &self.samples
    }

    /// Records the latency of one call.
    pub fn record(&mut self, latency: Duration) {
        if self.seen.is_multiple_of(self.every) {
            if self.samples.len() == MAX_VALUES {
                // Keep every other sample, and take half as many from now on.
                let mut keep = false;
                self.samples.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.every *= 2;
            }
            if self.seen.is_multiple_of(self.every) {
                self.samples.push(millis(latency));
            }
        }
        self.seen += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_evenly_spaced_and_never_exceeds_the_formats_limit() {
        let mut latency = Latency::default();
        for n in 0..100_000 {
            latency.record(Duration::from_millis(n));
            assert!(latency.samples.len() <= MAX_VALUES);
        }
        assert!(latency.samples.len() >= MAX_VALUES / 2);
        let steps: Vec<u64> = latency.samples.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| *step == steps[0]), "the sample is evenly spaced");
    }
}
