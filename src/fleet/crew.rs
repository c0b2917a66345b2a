//! Who does what is to be done: as many tasks as things may be in flight, for the whole run. A task for each thing would ask
//! for some 10 KB and give them back each time, and find them somewhere else.

use super::{Done, Work};
use crate::refresh::Refresher;
use futures_util::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tracing::error;

/// The tasks of a run.
pub(super) struct Crew {
    refresher: Arc<Refresher>,
    most: usize,
    /// They end with the crew.
    tasks: JoinSet<()>,
    /// Those that wait for work.
    free: Vec<oneshot::Sender<Work>>,
    tell: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
}

/// What a task has done, how long it took, and where it waits for more.
type Told = (Done, Duration, oneshot::Sender<Work>);

impl Crew {
    /// A crew that does `most` things at a time.
    pub(super) fn new(refresher: Arc<Refresher>, most: usize) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self { refresher, most, tasks: JoinSet::new(), free: Vec::new(), tell, told }
    }

    pub(super) fn has_a_hand_free(&self) -> bool {
        self.in_flight() < self.most
    }

    /// How many tasks have not told yet what they did.
    fn in_flight(&self) -> usize {
        self.tasks.len().saturating_sub(self.free.len())
    }

    /// Has something done.
    pub(super) fn begin(&mut self, work: Work) {
        let refused = match self.free.pop() {
            Some(task) => task.send(work),
            None => Err(work),
        };
        if let Err(work) = refused {
            self.tasks.spawn(Box::pin(serve(self.refresher.clone(), work, self.tell.clone())));
        }
    }

    /// What is done next, and how long it took; none if nothing is in flight.
    pub(super) async fn next_done(&mut self) -> Option<(Done, Duration)> {
        while self.in_flight() > 0 {
            tokio::select! {
                Some((done, took, task)) = self.told.recv() => {
                    self.free.push(task);
                    return Some((done, took));
                }
                // No task ends before its crew, but by a panic outside of what it does.
                Some(_) = self.tasks.join_next() => {
                    error!(run_id = self.refresher.run_id, "a task was lost, and what it did is unknown");
                }
            }
        }
        None
    }
}

async fn serve(refresher: Arc<Refresher>, mut work: Work, tell: mpsc::UnboundedSender<Told>) {
    loop {
        let (done, took) = perform(&refresher, work).await;
        let (give, more) = oneshot::channel();
        if tell.send((done, took, give)).is_err() {
            break;
        }
        match more.await {
            Ok(more) => work = more,
            Err(_) => break,
        }
    }
}

/// Does one thing, and says how long it took. A panic ends with it.
async fn perform(refresher: &Refresher, work: Work) -> (Done, Duration) {
    let began = Instant::now();
    let key = work.key().clone();
    let done = AssertUnwindSafe(carry_out(refresher, work)).catch_unwind().await;
    (done.unwrap_or(Done::Lost(key)), began.elapsed())
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
