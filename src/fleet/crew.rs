//! Who does what is to be done: as many tasks as things may be in flight, for the whole run. A task for each thing would ask
//! for some 10 KB and give them back each time, and find them somewhere else.

use super::{Done, Work};
use crate::refresh::Refresher;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{Id, JoinSet, id, yield_now},
};

/// How many tasks are added at once. Fewer make a run with 100 due shorter at a real latency, and longer at none
/// (docs/SPEED.md).
const BEGUN_TOGETHER: usize = 4;

/// The tasks of a run.
pub(super) struct Crew {
    refresher: Arc<Refresher>,
    most: usize,
    /// They end with the crew.
    tasks: JoinSet<()>,
    /// Those that wait for work.
    free: Vec<(Id, oneshot::Sender<Work>)>,
    /// What comes of the others' work if they panic, and since when they are at it.
    in_flight: HashMap<Id, (Done, Instant)>,
    tell: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
}

/// A task, what it has done, and where it waits for more.
type Told = (Id, Done, oneshot::Sender<Work>);

impl Crew {
    /// A crew that does `most` things at a time.
    pub(super) fn new(refresher: Arc<Refresher>, most: usize) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let (tasks, free, in_flight) = (JoinSet::new(), Vec::new(), HashMap::new());
        Self { refresher, most, tasks, free, in_flight, tell, told }
    }

    pub(super) fn has_a_hand_free(&self) -> bool {
        self.in_flight.len() < self.most
    }

    /// Has something done. A crew grows by a few tasks at a time, between which the others take a step: begun all at once,
    /// they would keep in step, and all wait for TikTok together and then for the processor.
    pub(super) async fn begin(&mut self, work: Work) {
        let what = (work.if_lost(), Instant::now());
        let refused = match self.free.pop() {
            Some((task, give)) => give.send(work).map(|()| task),
            None => Err(work),
        };
        let task = match refused {
            Ok(task) => task,
            Err(work) => {
                if self.tasks.len().is_multiple_of(BEGUN_TOGETHER) {
                    yield_now().await;
                }
                self.tasks.spawn(Box::pin(serve(self.refresher.clone(), work, self.tell.clone()))).id()
            }
        };
        self.in_flight.insert(task, what);
    }

    /// What is done next, and how long it took; none if nothing is in flight.
    pub(super) async fn next_done(&mut self) -> Option<(Done, Duration)> {
        while !self.in_flight.is_empty() {
            tokio::select! {
                Some((task, done, give)) = self.told.recv() => {
                    self.free.push((task, give));
                    if let Some((_, began)) = self.in_flight.remove(&task) {
                        return Some((done, began.elapsed()));
                    }
                }
                // No task ends before its crew, but by a panic.
                Some(Err(ended)) = self.tasks.join_next_with_id() => {
                    if let Some((lost, began)) = self.in_flight.remove(&ended.id()) {
                        return Some((lost, began.elapsed()));
                    }
                }
            }
        }
        None
    }
}

async fn serve(refresher: Arc<Refresher>, mut work: Work, tell: mpsc::UnboundedSender<Told>) {
    loop {
        let done = carry_out(&refresher, work).await;
        let (give, more) = oneshot::channel();
        if tell.send((id(), done, give)).is_err() {
            break;
        }
        match more.await {
            Ok(more) => work = more,
            Err(_) => break,
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
