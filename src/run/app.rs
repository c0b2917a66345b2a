//! What one run knows of one app: its circuit breaker, the proof of its credentials, and the rejected rows that wait for it.

use crate::{
    domain::{circuit_breaker::CircuitBreaker, integration::IntegrationKey, proof::Proof},
    refresh::Rejected,
};

/// How many possible witnesses are remembered of those that the scan reads: more than are asked, as some may be rejected
/// themselves.
const REMEMBERED_WITNESSES: usize = 8;

/// What one run knows of one app.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) breaker: CircuitBreaker,
    pub(super) proof: Proof,
    /// How many active rows of the app the scan has read.
    pub(super) active_rows: u64,
    pub(super) witnesses: Witnesses,
    /// Whether the message says that a scan of the whole table found only one active row of the app.
    pub(super) is_only_one: bool,
    /// How many of the app's refreshes are not done yet.
    pub(super) unfinished: u64,
    /// How many of the app's refreshes are in the worker pool.
    pub(super) in_flight: usize,
    /// Rejected rows that wait for proof.
    pub(super) undecided: Vec<Rejected>,
    /// Rows that were left unmarked for want of proof.
    pub(super) suspects: Vec<IntegrationKey>,
    /// TikTok's last answer that was not a grant.
    pub(super) last_error: String,
}

/// Active rows whose access tokens may prove the app's credentials: a random sample of those that the scan reads.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    pub(super) state: Asked,
    sample: Vec<IntegrationKey>,
    offered: u64,
}

/// Whether the witnesses were asked: once per app and run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    No,
    Pending,
    Yes,
    /// There was no time.
    OutOfTime,
}

impl App {
    /// Whether the app has only one active integration, so that no other could prove its credentials.
    pub(super) fn has_only_one(&self, is_full_scan: bool) -> bool {
        self.is_only_one || (is_full_scan && self.active_rows == 1)
    }
}

impl Witnesses {
    /// Offers a row, which stays in the sample with the same probability as every other.
    pub(super) fn offer(&mut self, key: &IntegrationKey) {
        self.offered += 1;
        if self.sample.len() < REMEMBERED_WITNESSES {
            self.sample.push(key.clone());
            return;
        }
        let at = usize::try_from(fastrand::u64(0..self.offered)).unwrap_or(usize::MAX);
        if let Some(place) = self.sample.get_mut(at) {
            place.clone_from(key);
        }
    }

    /// The sample in random order, without the rows that were rejected themselves.
    pub(super) fn except(&self, rejected: &[Rejected]) -> Vec<IntegrationKey> {
        let is_rejected = |key: &IntegrationKey| rejected.iter().any(|rejected| rejected.key() == key);
        let mut sample: Vec<_> = self.sample.iter().filter(|key| !is_rejected(key)).cloned().collect();
        fastrand::shuffle(&mut sample);
        sample
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sample.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_witness_with_the_same_probability() {
        fastrand::seed(7);
        let mut chosen = [0_u32; 40];
        for _ in 0..2_000 {
            let mut witnesses = Witnesses::default();
            for id in 0..40 {
                witnesses.offer(&IntegrationKey { team_id: "1".into(), integration_id: id.to_string() });
            }
            let sample = witnesses.except(&[]);
            assert_eq!(sample.len(), REMEMBERED_WITNESSES);
            for key in sample {
                chosen[key.integration_id.parse::<usize>().unwrap()] += 1;
            }
        }
        // 2,000 × 8 / 40 = 400 on average.
        assert!(chosen.iter().all(|times| (300..500).contains(times)), "{chosen:?}");
    }
}
