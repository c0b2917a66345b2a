//! In which order a run does what is left to do.

use super::Work;
use crate::domain::integration::Candidate;
use std::collections::VecDeque;

/// What is left to do.
#[derive(Debug, Default)]
pub(super) struct Todo {
    /// The refreshes, the soonest expiry last.
    pub(super) due: Vec<Candidate>,
    /// Everything else. A mark that is made comes first, the rest when nothing is due any more.
    pub(super) aside: VecDeque<Work>,
}

impl Todo {
    pub(super) fn next(&mut self) -> Option<Work> {
        if let Some(Work::Mark(_)) = self.aside.front() {
            return self.aside.pop_front();
        }
        self.due.pop().map(Work::Refresh).or_else(|| self.aside.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::integration::IntegrationKey;

    fn row(id: usize) -> Candidate {
        Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: id.to_string().into() }, None)
    }

    #[test]
    fn what_is_due_comes_first() {
        let mut todo = Todo {
            due: (0..1_000).rev().map(row).collect(),
            aside: VecDeque::from([Work::MarkExpired(row(1_000))]),
        };
        for id in 0..=1_000 {
            assert_eq!(todo.next().unwrap().key().integration_id, id.to_string());
        }
        assert!(todo.next().is_none());
    }
}
