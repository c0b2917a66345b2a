//! The work loop: works off the backlog with the worker pool, feeds the circuit breakers, and decides which rejected rows are
//! marked.

use super::{FailedApp, Run, RunError, backlog::Backlog, worker_pool::WorkerPool};
use crate::{
    domain::{
        circuit_breaker::{CallOutcome, CircuitBreaker},
        integration::{Candidate, IntegrationKey, Notice},
        outcome::{Outcome, Report},
        secret::Apps,
        selection::Selection,
    },
    refresh::{Attempt, Refresher, Rejected},
};
use chrono::{DateTime, Utc};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// One piece of work for the worker pool.
#[derive(Debug)]
pub(super) enum Job {
    Refresh(Candidate),
    MarkExpired(Candidate),
    Mark(Rejected),
    LeaveUnmarked(Rejected),
    WarnOfExpiry(Candidate, Notice),
}

/// The result of a job.
#[derive(Debug)]
pub(super) enum JobResult {
    Attempted(Candidate, Attempt),
    Reported(Report),
    /// The refresh panicked. The other integrations go on, and this one's lease expires by itself.
    RefreshPanicked(IntegrationKey),
    Warned,
    /// The warning panicked. The integration has had its outcome already.
    WarningPanicked(IntegrationKey),
}

/// What a run knows of one app.
#[derive(Debug, Default)]
pub(super) struct App {
    breaker: CircuitBreaker,
    /// Rejected rows that keep their leases until the app is judged.
    undecided: Vec<Rejected>,
    /// TikTok's last answer that was not a grant.
    last_error: String,
}

impl Job {
    pub(super) async fn run(self, refresher: &Refresher) -> JobResult {
        match self {
            Self::Refresh(candidate) => {
                let attempt = refresher.refresh(&candidate).await;
                JobResult::Attempted(candidate, attempt)
            }
            Self::MarkExpired(candidate) => JobResult::Reported(refresher.mark_expired(candidate).await),
            Self::Mark(rejected) => JobResult::Reported(refresher.mark(rejected).await),
            Self::LeaveUnmarked(rejected) => JobResult::Reported(refresher.leave_unmarked(rejected).await),
            Self::WarnOfExpiry(candidate, notice) => {
                refresher.warn_of_expiry(&candidate, notice).await;
                JobResult::Warned
            }
        }
    }

    pub(super) fn if_panicked(&self) -> JobResult {
        let key = self.key().clone();
        if matches!(self, Self::WarnOfExpiry(..)) {
            JobResult::WarningPanicked(key)
        } else {
            JobResult::RefreshPanicked(key)
        }
    }

    pub(super) fn key(&self) -> &IntegrationKey {
        match self {
            Self::Refresh(candidate) | Self::MarkExpired(candidate) | Self::WarnOfExpiry(candidate, _) => {
                &candidate.key
            }
            Self::Mark(rejected) | Self::LeaveUnmarked(rejected) => rejected.key(),
        }
    }
}

impl Run<'_> {
    /// Works off a backlog, by `deadline`. Waits for every job that was started: a refresh that is dropped in mid-flight could
    /// take a seller's only token with it.
    ///
    /// # Errors
    /// [`RunError::Apps`] if an app failed as a whole.
    pub(super) async fn work_off(
        &mut self,
        mut backlog: Backlog,
        apps: Arc<Apps>,
        deadline: DateTime<Utc>,
    ) -> Result<(), RunError> {
        let refresher = Arc::new(Refresher::new(self.services.clone(), self.run_context(deadline), apps));
        let mut pool = WorkerPool::new(refresher.clone(), self.services.settings.max_concurrency);
        let mut out_of_time = Vec::new();
        loop {
            while pool.has_room()
                && let Some(job) = backlog.next()
            {
                if let Some(job) = self.admit(job, &refresher, &mut out_of_time) {
                    pool.spawn(job);
                }
            }
            match pool.next().await {
                Some((result, took)) => {
                    self.record(result, took, &refresher, &mut backlog.other, &mut out_of_time);
                }
                None if self.judge_apps(&mut backlog.other) => {}
                None => break,
            }
        }
        if !out_of_time.is_empty() {
            self.enqueue(out_of_time).await;
        }
        self.statistics = refresher.statistics();
        let failed = |(app_key, app): (&String, &App)| {
            let reason = app.breaker.failure()?;
            Some(FailedApp { app_key: app_key.clone(), reason, last_error: app.last_error.clone() })
        };
        let failed: Vec<FailedApp> = self.apps.iter().filter_map(failed).collect();
        if failed.is_empty() { Ok(()) } else { Err(RunError::Apps(failed, self.results.counts())) }
    }

    /// Lets a job start, unless it is a refresh whose app's circuit breaker has tripped, or for which there is no time.
    fn admit(&mut self, job: Job, refresher: &Refresher, out_of_time: &mut Vec<Candidate>) -> Option<Job> {
        let Job::Refresh(candidate) = job else { return Some(job) };
        let app = refresher.app(&candidate).and_then(|app| self.apps.get(&app.app_key));
        if let Some(reason) = app.and_then(|app| app.breaker.tripped()) {
            let report = Report::new(candidate.key.clone(), Outcome::Deferred)
                .because(reason.reason(), "its app was stopped for this run")
                .expiring(candidate.access_expires_at);
            self.defer(&candidate, report);
            None
        } else if refresher.has_time_for_a_call() {
            Some(Job::Refresh(candidate))
        } else {
            out_of_time.push(candidate);
            None
        }
    }

    /// Records a job's result: tells the app's circuit breaker, and ends the integration or keeps it undecided.
    fn record(
        &mut self,
        result: JobResult,
        took: Duration,
        refresher: &Refresher,
        jobs: &mut VecDeque<Job>,
        out_of_time: &mut Vec<Candidate>,
    ) {
        let (candidate, attempt) = match result {
            JobResult::Warned => return,
            JobResult::WarningPanicked(key) => {
                return key.span().in_scope(|| refresher.record_unpublished("it panicked; this is a bug"));
            }
            JobResult::Reported(report) => return self.end_after(report, took),
            JobResult::RefreshPanicked(key) => {
                let message = "the refresh panicked; this is a bug in the function";
                let report = Report::new(key, Outcome::Failed).because("internal_error", message);
                return self.end_after(report, took);
            }
            JobResult::Attempted(candidate, attempt) => (candidate, attempt),
        };
        let app = refresher.app(&candidate);
        let app_key = app.as_deref().map(|app| app.app_key.as_str()).unwrap_or_default();
        match attempt {
            Attempt::Done { report, .. } if report.outcome == Outcome::Deferred => {
                out_of_time.push(candidate);
            }
            Attempt::Done { report, call, stored } => {
                if let Some(call) = call {
                    let app = self.apps.entry(app_key.to_owned()).or_default();
                    app.breaker.record(call);
                    if call == CallOutcome::Granted {
                        // The key is proved: the rejections before were about the sellers.
                        app.undecided.drain(..).for_each(|rejected| jobs.push_front(Job::Mark(rejected)));
                    } else {
                        app.last_error = report.message.clone().unwrap_or_default();
                    }
                }
                let candidate = stored.map_or(candidate, |stored| *stored);
                if report.outcome != Outcome::CannotRefresh {
                    self.gauges.record(&candidate);
                }
                self.end_after(report, took);
                jobs.extend(self.expiry_warning(candidate));
            }
            Attempt::Rejected(rejected) if self.marks_at_once() => jobs.push_front(Job::Mark(*rejected)),
            Attempt::Rejected(rejected) => {
                let app = self.apps.entry(app_key.to_owned()).or_default();
                app.breaker.record(CallOutcome::Rejected);
                app.last_error = rejected.message();
                if app.breaker.key_is_proved() {
                    jobs.push_front(Job::Mark(*rejected));
                } else {
                    app.undecided.push(*rejected);
                }
            }
        }
    }

    /// Whether a rejection marks the row without regard to the app: an operator forces one team or integration.
    fn marks_at_once(&self) -> bool {
        self.request.force && self.request.selection != Selection::All
    }

    /// Decides over the undecided rows, once nothing else is left to do. Returns whether that makes new jobs.
    fn judge_apps(&mut self, jobs: &mut VecDeque<Job>) -> bool {
        for app in self.apps.values_mut() {
            let may_mark = app.breaker.may_mark_at_the_end();
            jobs.extend(app.undecided.drain(..).map(if may_mark { Job::Mark } else { Job::LeaveUnmarked }));
        }
        !jobs.is_empty()
    }
}
