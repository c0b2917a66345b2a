//! The work loop: works through the backlog with the worker pool, and feeds the circuit breakers.

use super::{Run, app::Asked, backlog::Backlog, worker_pool::WorkerPool};
use crate::{
    domain::{
        circuit_breaker::{CallOutcome, TripReason},
        integration::{Candidate, IntegrationKey, Notice},
        outcome::{Outcome, Report},
        proof::Evidence,
        selection::Trigger,
    },
    refresh::{Attempt, Refresher, Rejected},
};
use std::{collections::VecDeque, time::Duration};
use tracing::Span;

/// One piece of work for the worker pool.
#[derive(Debug)]
pub(super) enum Job {
    Refresh(Candidate),
    Mark(Rejected),
    ReportLostToken(Rejected),
    AskWitnesses(String, Vec<IntegrationKey>),
    WarnOfExpiry(Candidate, Notice),
}

/// The result of a job.
#[derive(Debug)]
pub(super) enum JobResult {
    Attempted(Candidate, Attempt),
    /// TikTok rejected the row's refresh token; what the row's own access token says, and of which app.
    Rejected(Candidate, Rejected, Evidence, String),
    Reported(Report),
    Witnessed(String, Evidence),
    /// The refresh panicked. The other integrations go on, and this one's lease expires by itself.
    RefreshPanicked(Candidate),
    /// Another job of an integration panicked.
    Panicked(IntegrationKey),
    Warned,
    /// The warning panicked. The integration has had its outcome already.
    WarningPanicked(IntegrationKey),
}

impl Job {
    pub(super) async fn run(self, refresher: &Refresher) -> JobResult {
        match self {
            Self::Refresh(candidate) => match refresher.refresh(&candidate).await {
                Attempt::Rejected(rejected) if !rejected.was_marked() => {
                    let (evidence, about) = refresher.check_own_token(&rejected).await;
                    JobResult::Rejected(candidate, rejected, evidence, about)
                }
                attempt => JobResult::Attempted(candidate, attempt),
            },
            Self::Mark(rejected) => JobResult::Reported(refresher.mark(rejected).await),
            Self::ReportLostToken(rejected) => {
                JobResult::Reported(refresher.report_lost_token(&rejected).await)
            }
            Self::AskWitnesses(app_key, witnesses) => {
                let evidence = refresher.ask_witnesses(&app_key, &witnesses).await;
                JobResult::Witnessed(app_key, evidence)
            }
            Self::WarnOfExpiry(candidate, notice) => {
                refresher.warn_of_expiry(&candidate, notice).await;
                JobResult::Warned
            }
        }
    }

    pub(super) fn if_panicked(&self) -> JobResult {
        match self {
            Self::Refresh(candidate) => JobResult::RefreshPanicked(candidate.clone()),
            Self::Mark(rejected) | Self::ReportLostToken(rejected) => {
                JobResult::Panicked(rejected.key().clone())
            }
            Self::AskWitnesses(app_key, _) => JobResult::Witnessed(app_key.clone(), Evidence::Nothing),
            Self::WarnOfExpiry(candidate, _) => JobResult::WarningPanicked(candidate.key.clone()),
        }
    }

    pub(super) fn span(&self) -> Span {
        match self {
            Self::Refresh(candidate) | Self::WarnOfExpiry(candidate, _) => candidate.key.span(),
            Self::Mark(rejected) | Self::ReportLostToken(rejected) => rejected.key().span(),
            Self::AskWitnesses(..) => Span::current(),
        }
    }
}

impl Run<'_> {
    /// Works through a backlog. Waits for every job that was started: a refresh that is dropped in mid-flight could take a seller's
    /// only token with it. Returns the rows for which there is no time.
    pub(super) async fn work_through(&mut self, mut backlog: Backlog) -> Vec<Candidate> {
        let refresher = self.refresher.clone();
        let mut pool = WorkerPool::new(refresher.clone(), self.services.settings.max_concurrency);
        let (mut out_of_time, mut held) = (Vec::new(), Vec::new());
        for candidate in &backlog.due {
            if let Some(app_key) = self.first_app_key(candidate) {
                self.app(&app_key).unfinished += 1;
            }
        }
        loop {
            self.judge_apps(&mut backlog.other);
            while pool.has_room()
                && let Some(job) = backlog.next()
            {
                if let Some(job) = self.admit(job, &mut out_of_time, &mut held) {
                    pool.spawn(job);
                }
            }
            // A row that was not admitted may have been the last one of its app.
            self.judge_apps(&mut backlog.other);
            if pool.has_room() && !backlog.other.is_empty() {
                continue;
            }
            let Some((result, took)) = pool.next().await else { break };
            if let JobResult::Witnessed(..) = &result {
                // The rows that waited for the witnesses come next, the soonest expiry first.
                backlog.due.extend(held.drain(..).rev());
            }
            self.record(result, took, &mut backlog.other, &mut out_of_time);
        }
        out_of_time
    }

    /// Lets a job start, unless it is a refresh whose app's circuit breaker has tripped, or whose app's witnesses are being
    /// asked after a mass rejection, or for which there is no time.
    fn admit(
        &mut self,
        job: Job,
        out_of_time: &mut Vec<Candidate>,
        held: &mut Vec<Candidate>,
    ) -> Option<Job> {
        let Job::Refresh(candidate) = job else { return Some(job) };
        let app = self.app_key(&candidate).and_then(|app_key| self.apps.get(&app_key));
        let is_asking = app.is_some_and(|app| app.witnesses.state == Asked::Pending);
        match app.and_then(|app| app.breaker.tripped()) {
            Some(TripReason::MassRejection) if is_asking => held.push(candidate),
            Some(reason) => self.stop(&candidate, reason),
            None if self.refresher.has_time_for_a_call() => return Some(Job::Refresh(candidate)),
            None => {
                self.finish(&candidate);
                out_of_time.push(candidate);
            }
        }
        None
    }

    /// Ends a row whose app's circuit breaker has tripped. A run defers it. A message fails it, as a redelivery could do no
    /// better and the next night's run finds it; only if TikTok is down is the message delivered again.
    pub(super) fn stop(&mut self, candidate: &Candidate, reason: TripReason) {
        self.finish(candidate);
        let message = "its app was stopped for this run";
        let failure = match reason {
            TripReason::MassRejection => Some("app_under_suspicion"),
            TripReason::Misconfigured => Some(reason.reason()),
            TripReason::ProviderDown => None,
        };
        if self.request.trigger == Trigger::Queue
            && let Some(failure) = failure
        {
            self.gauges.record(candidate);
            self.end(Report::of(candidate, Outcome::Failed).because(failure, message));
        } else {
            self.defer(candidate, Report::of(candidate, Outcome::Deferred).because(reason.reason(), message));
        }
    }

    /// The app of a row as the run starts: the default app may be replaced meanwhile.
    fn first_app_key(&self, row: &Candidate) -> Option<String> {
        self.context.apps.get(row.app_key.as_deref()).map(|app| app.app_key.clone())
    }

    /// One refresh of the row's app is done, however it ended.
    fn finish(&mut self, candidate: &Candidate) {
        if let Some(app_key) = self.first_app_key(candidate) {
            let app = self.app(&app_key);
            app.unfinished = app.unfinished.saturating_sub(1);
        }
    }

    /// Records a job's result: tells the app's circuit breaker, and ends the integration or keeps it undecided.
    fn record(
        &mut self,
        result: JobResult,
        took: Duration,
        jobs: &mut VecDeque<Job>,
        out_of_time: &mut Vec<Candidate>,
    ) {
        match result {
            JobResult::Warned => {}
            JobResult::WarningPanicked(key) => {
                key.span().in_scope(|| self.refresher.record_unpublished("it panicked; this is a bug"));
            }
            JobResult::Reported(report) => self.end_after(report, took),
            JobResult::Witnessed(app_key, evidence) => self.record_witnesses(&app_key, &evidence, jobs),
            JobResult::Panicked(key) => self.end_after(panicked(key), took),
            JobResult::RefreshPanicked(candidate) => {
                self.finish(&candidate);
                self.end_after(panicked(candidate.key), took);
            }
            JobResult::Rejected(candidate, rejected, evidence, about) => {
                self.finish(&candidate);
                self.record_rejection(rejected, &evidence, &about, took, jobs);
            }
            JobResult::Attempted(candidate, Attempt::Rejected(rejected)) => {
                // An earlier run marked the row: its rejection says nothing new of the app.
                self.finish(&candidate);
                self.end_after(rejected.report_marked(), took);
            }
            JobResult::Attempted(candidate, Attempt::Done { report, .. })
                if report.outcome == Outcome::Deferred =>
            {
                self.finish(&candidate);
                out_of_time.push(candidate);
            }
            JobResult::Attempted(candidate, Attempt::Done { report, call, stored }) => {
                self.finish(&candidate);
                if let Some(call) = call {
                    let app = self.app(&call.app_key);
                    app.breaker.record(call.outcome);
                    if call.outcome == CallOutcome::Granted {
                        self.record_evidence(&call.app_key, &Evidence::Proves(call.fingerprint), jobs);
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
        }
    }
}

fn panicked(key: IntegrationKey) -> Report {
    let message = "the refresh panicked; this is a bug in the function";
    Report::new(key, Outcome::Failed).because("internal_error", message)
}
