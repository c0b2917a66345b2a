//! The backlog of one run, in the order in which it is worked off.

use super::Job;
use crate::domain::integration::Candidate;
use std::collections::VecDeque;

/// The jobs that a run has not started yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The rows to refresh, the soonest expiry last.
    pub(super) due: Vec<Candidate>,
    /// Everything else. A mark at the front comes before the refreshes, the rest after them.
    pub(super) other: VecDeque<Job>,
}

impl Backlog {
    pub(super) fn next(&mut self) -> Option<Job> {
        if let Some(Job::Mark(_)) = self.other.front() {
            return self.other.pop_front();
        }
        self.due.pop().map(Job::Refresh).or_else(|| self.other.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::integration::IntegrationKey;

    fn row(id: usize) -> Candidate {
        Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: id.to_string() }, None)
    }

    #[test]
    fn what_is_due_comes_first() {
        let mut backlog = Backlog {
            due: (0..1_000).rev().map(row).collect(),
            other: VecDeque::from([Job::MarkExpired(row(1_000))]),
        };
        for id in 0..=1_000 {
            assert_eq!(backlog.next().unwrap().key().integration_id, id.to_string());
        }
        assert!(backlog.next().is_none());
    }
}
