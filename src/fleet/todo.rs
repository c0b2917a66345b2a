//! In which order a run does what is left to do.

use super::{Work, waiting::Waiting};
use std::collections::VecDeque;

/// How many refreshes that were begun may keep their room.
const ROOM: usize = 256;

/// What is left to do.
#[derive(Debug, Default)]
pub(super) struct Todo {
    /// The refreshes, the soonest expiry last.
    pub(super) due: Vec<Waiting>,
    /// Everything else. A mark that is made comes first, the rest when nothing is due any more.
    pub(super) aside: VecDeque<Work>,
}

impl Todo {
    pub(super) fn next(&mut self) -> Option<Work> {
        if let Some(Work::Mark(_)) = self.aside.front() {
            return self.aside.pop_front();
        }
        if self.due.capacity() - self.due.len() >= ROOM {
            // What has been done makes room for what is to be told of it.
            self.due.shrink_to_fit();
        }
        self.due.pop().map(|row| Work::Refresh(row.candidate())).or_else(|| self.aside.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::{Candidate, IntegrationKey};

    fn row(id: usize) -> Candidate {
        Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: id.to_string().into() }, None)
    }

    #[test]
    fn what_is_due_comes_first_and_leaves_no_room_behind() {
        let mut todo = Todo {
            due: (0..1_000).rev().map(|id| row(id).into()).collect(),
            aside: VecDeque::from([Work::MarkExpired(row(1_000))]),
        };
        for id in 0..=1_000 {
            assert!(todo.due.capacity() <= todo.due.len() + ROOM, "{id}: {}", todo.due.capacity());
            assert_eq!(todo.next().unwrap().key().integration_id, id.to_string());
        }
        assert!(todo.next().is_none());
    }
}
