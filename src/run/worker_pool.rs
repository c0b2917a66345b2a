//! The worker pool of one run: a bounded number of tasks, each of which does one job.

use super::{Job, JobResult};
use crate::refresh::Refresher;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::{Id, JoinSet};
use tracing::Instrument;

/// Runs at most `limit` jobs at a time. Each has a task of its own, so that a panic ends that job alone.
pub(super) struct WorkerPool {
    refresher: Arc<Refresher>,
    limit: usize,
    tasks: JoinSet<(JobResult, Duration)>,
    /// The result of each task in flight, should it panic.
    if_panicked: HashMap<Id, JobResult>,
}

impl WorkerPool {
    pub(super) fn new(refresher: Arc<Refresher>, limit: usize) -> Self {
        Self { refresher, limit, tasks: JoinSet::new(), if_panicked: HashMap::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.tasks.len() < self.limit
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn spawn(&mut self, job: Job) {
        let (span, if_panicked) = (job.span(), job.if_panicked());
        let refresher = self.refresher.clone();
        let task = async move {
            let started = Instant::now();
            let result = job.run(&refresher).await;
            (result, started.elapsed())
        };
        let task = self.tasks.spawn(task.instrument(span));
        self.if_panicked.insert(task.id(), if_panicked);
    }

    /// Waits for the next job to end: its result, and how long it took. `None` if no job is in flight.
    pub(super) async fn next(&mut self) -> Option<(JobResult, Duration)> {
        match self.tasks.join_next_with_id().await? {
            Ok((id, ended)) => {
                self.if_panicked.remove(&id);
                Some(ended)
            }
            Err(panic) => self.if_panicked.remove(&panic.id()).map(|result| (result, Duration::ZERO)),
        }
    }
}
