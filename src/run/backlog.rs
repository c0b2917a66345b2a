//! The backlog of one run, in the order in which it is processed.

use super::Job;
use crate::domain::integration::Candidate;
use std::collections::VecDeque;

/// The jobs that a run has not started yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The rows to refresh, the soonest expiry last.
    pub(super) due: Vec<Candidate>,
    /// All other jobs. Expiry warnings run after the refreshes; everything else is pushed to the front and runs before them.
    pub(super) other: VecDeque<Job>,
}

impl Backlog {
    pub(super) fn next(&mut self) -> Option<Job> {
        if matches!(self.other.front(), Some(job) if !matches!(job, Job::WarnOfExpiry(..))) {
            return self.other.pop_front();
        }
        self.due.pop().map(Job::Refresh).or_else(|| self.other.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::integration::{IntegrationKey, Notice, UnixTime};

    fn row(id: usize) -> Candidate {
        Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: id.to_string() }, None)
    }

    #[test]
    fn what_is_due_comes_before_the_warnings() {
        let notice = Notice { days: 7, expires_at: UnixTime(1) };
        let mut backlog = Backlog {
            due: (0..1_000).rev().map(row).collect(),
            other: VecDeque::from([Job::WarnOfExpiry(row(1_000), notice)]),
        };
        for id in 0..1_000 {
            let Some(Job::Refresh(next)) = backlog.next() else { panic!("expected a refresh") };
            assert_eq!(next.key.integration_id, id.to_string());
        }
        assert!(matches!(backlog.next(), Some(Job::WarnOfExpiry(..))) && backlog.next().is_none());
    }
}
