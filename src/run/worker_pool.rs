//! The worker pool of one run: a bounded number of tasks, each of which does one piece of work.

use super::{Done, Work};
use crate::refresh::Refresher;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::{Id, JoinSet};

/// The tasks of a run. A task of its own for each integration, so that a panic ends that one alone.
pub(super) struct WorkerPool {
    refresher: Arc<Refresher>,
    limit: usize,
    tasks: JoinSet<(Done, Duration)>,
    /// The result of each task in flight, should it panic.
    in_flight: HashMap<Id, Done>,
}

impl WorkerPool {
    /// A pool that runs `limit` tasks at once.
    pub(super) fn new(refresher: Arc<Refresher>, limit: usize) -> Self {
        Self { refresher, limit, tasks: JoinSet::new(), in_flight: HashMap::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.tasks.len() < self.limit
    }

    /// Starts a task.
    pub(super) fn spawn(&mut self, work: Work) {
        let if_it_panics = work.if_lost();
        let refresher = self.refresher.clone();
        let task = self.tasks.spawn(async move {
            let began = Instant::now();
            let done = carry_out(&refresher, work).await;
            (done, began.elapsed())
        });
        self.in_flight.insert(task.id(), if_it_panics);
    }

    /// Waits for the next task to end: its result, and how long it took. `None` if no task is in flight.
    pub(super) async fn next(&mut self) -> Option<(Done, Duration)> {
        match self.tasks.join_next_with_id().await? {
            Ok((id, done)) => {
                self.in_flight.remove(&id);
                Some(done)
            }
            Err(panic) => self.in_flight.remove(&panic.id()).map(|lost| (lost, Duration::ZERO)),
        }
    }
}

async fn carry_out(refresher: &Refresher, work: Work) -> Done {
    match work {
        Work::Refresh(candidate) => {
            let attempt = refresher.refresh(&candidate).await;
            Done::Attempted(candidate, attempt)
        }
        Work::MarkExpired(candidate) => Done::Reported(refresher.mark_expired(candidate).await),
        Work::Mark(rejected) => Done::Reported(refresher.mark(rejected).await),
        Work::Spare(rejected) => Done::Reported(refresher.spare(rejected).await),
        Work::Warn(candidate, notice) => {
            refresher.warn_of(candidate, notice).await;
            Done::Warned
        }
    }
}
