//! The work loop: works through the backlog with the worker pool, and feeds the circuit breakers.

use super::{Run, app::Asked, backlog::Backlog, worker_pool::WorkerPool};
use crate::{
    domain::{
        circuit_breaker::{CallOutcome, TripReason},
        integration::{Candidate, IntegrationKey, Notice},
        outcome::{Outcome, Report},
        proof::Evidence,
        reason::Reason,
        selection::Trigger,
    },
    refresh::{Attempt, Refresher, Rejected, Round},
};
use std::time::{Duration, Instant};
use tracing::Span;

/// One piece of work for the worker pool.
#[derive(Debug)]
pub(super) enum Job {
    /// A refresh, and which round it is if TikTok is busy, counted from 1.
    Refresh(Candidate, u32),
    Mark(Rejected),
    ReportLostToken(Rejected),
    AskWitnesses(String, Vec<IntegrationKey>),
    WarnOfExpiry(Candidate, Notice),
}

/// The result of a job.
#[derive(Debug)]
pub(super) enum JobResult {
    Attempted(Candidate, Attempt),
    /// TikTok is busy: the row, its next round, and how long it waits for that.
    Busy(Candidate, u32, Duration),
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
            Self::Refresh(candidate, round) => match refresher.refresh_in_round(&candidate, round).await {
                Round::Busy(wait) => JobResult::Busy(candidate, round + 1, wait),
                Round::Ended(Attempt::Rejected(rejected)) if !rejected.was_marked() => {
                    let (evidence, about) = refresher.check_own_token(&rejected).await;
                    JobResult::Rejected(candidate, rejected, evidence, about)
                }
                Round::Ended(attempt) => JobResult::Attempted(candidate, attempt),
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
            Self::Refresh(candidate, _) => JobResult::RefreshPanicked(candidate.clone()),
            Self::Mark(rejected) | Self::ReportLostToken(rejected) => {
                JobResult::Panicked(rejected.key().clone())
            }
            Self::AskWitnesses(app_key, _) => JobResult::Witnessed(app_key.clone(), Evidence::Nothing),
            Self::WarnOfExpiry(candidate, _) => JobResult::WarningPanicked(candidate.key.clone()),
        }
    }

    pub(super) fn span(&self) -> Span {
        match self {
            Self::Refresh(candidate, _) | Self::WarnOfExpiry(candidate, _) => candidate.key.span(),
            Self::Mark(rejected) | Self::ReportLostToken(rejected) => rejected.key().span(),
            Self::AskWitnesses(..) => Span::current(),
        }
    }
}

impl JobResult {
    /// The row, if the job was a refresh.
    fn refreshed(&self) -> Option<&Candidate> {
        match self {
            Self::Attempted(row, _)
            | Self::Busy(row, ..)
            | Self::Rejected(row, ..)
            | Self::RefreshPanicked(row) => Some(row),
            Self::Reported(_)
            | Self::Witnessed(..)
            | Self::Panicked(_)
            | Self::Warned
            | Self::WarningPanicked(_) => None,
        }
    }
}

impl Run<'_> {
    /// Works through a backlog. Waits for every job that was started: a refresh that is dropped in mid-flight could take a seller's
    /// only token with it. When time runs short, the rows that are left go to the queue before anything else is done.
    pub(super) async fn work_through(&mut self, mut backlog: Backlog) {
        let refresher = self.refresher.clone();
        let mut pool = WorkerPool::new(refresher.clone(), self.services.settings.max_concurrency);
        let (mut out_of_time, mut held) = (Vec::new(), Vec::new());
        for candidate in &backlog.due {
            if let Some(app_key) = self.first_app_key(candidate) {
                self.app(&app_key).unfinished += 1;
            }
        }
        loop {
            if !refresher.has_time_for_a_call() {
                for (candidate, round) in backlog.take_refreshes() {
                    self.admit(Job::Refresh(candidate, round), &mut out_of_time, &mut held);
                }
                self.enqueue(std::mem::take(&mut out_of_time)).await;
                backlog.leave_warnings();
            }
            self.judge_apps(&mut backlog.first);
            while pool.has_room()
                && let Some(job) = self.next_job(&mut backlog, &mut out_of_time, &mut held)
            {
                pool.spawn(job);
            }
            // A row that was not admitted may have been the last one of its app.
            self.judge_apps(&mut backlog.first);
            if pool.has_room() && !backlog.first.is_empty() {
                continue;
            }
            let next_round_at = backlog.next_round_at().filter(|_| pool.has_room());
            let out_of_time_at = backlog.has_refreshes().then(|| Instant::now() + refresher.time_for_calls());
            let wake_up_at = next_round_at.into_iter().chain(out_of_time_at).min();
            if pool.is_empty() && wake_up_at.is_none() {
                break;
            }
            let (result, took) = tokio::select! {
                Some(ended) = pool.next() => ended,
                () = sleep_until(wake_up_at) => continue,
            };
            if let Some(app_key) = result.refreshed().and_then(|row| self.first_app_key(row)) {
                let app = self.app(&app_key);
                app.in_flight = app.in_flight.saturating_sub(1);
            }
            if let JobResult::Witnessed(..) = &result {
                // The rows that waited for the witnesses come next, the soonest expiry first.
                for (candidate, round) in held.drain(..).rev() {
                    match round {
                        1 => backlog.due.push(candidate),
                        _ => backlog.come_back(candidate, round, Instant::now()),
                    }
                }
            }
            self.record(result, took, &mut backlog, &mut out_of_time);
        }
        backlog.leave_warnings();
        self.enqueue(out_of_time).await;
    }

    /// The next job to start. An app gets its share of the worker pool, so that one whose calls are slow, or whose rate is low,
    /// does not hold up the others.
    fn next_job(
        &mut self,
        backlog: &mut Backlog,
        out_of_time: &mut Vec<Candidate>,
        held: &mut Vec<(Candidate, u32)>,
    ) -> Option<Job> {
        loop {
            let apps = self.apps.values().filter(|app| app.unfinished > 0).count().max(1);
            let share = self.services.settings.max_concurrency.div_ceil(apps);
            let has_room = |app_key: &str| self.apps.get(app_key).is_none_or(|app| app.in_flight < share);
            let job = backlog.next(Instant::now(), has_room)?;
            let Some(job) = self.admit(job, out_of_time, held) else { continue };
            let Job::Refresh(candidate, round) = job else { return Some(job) };
            if let Some(app_key) = self.first_app_key(&candidate) {
                let app = self.app(&app_key);
                if app.in_flight >= share {
                    backlog.set_aside(app_key, candidate, round);
                    continue;
                }
                app.in_flight += 1;
            }
            return Some(Job::Refresh(candidate, round));
        }
    }

    /// Lets a job start, unless it is a refresh whose app's circuit breaker has tripped, or whose app's witnesses are being
    /// asked after a mass rejection, or for which there is no time.
    fn admit(
        &mut self,
        job: Job,
        out_of_time: &mut Vec<Candidate>,
        held: &mut Vec<(Candidate, u32)>,
    ) -> Option<Job> {
        let Job::Refresh(candidate, round) = job else { return Some(job) };
        let app = self.app_key(&candidate).and_then(|app_key| self.apps.get(&app_key));
        let is_asking = app.is_some_and(|app| app.witnesses.state == Asked::Pending);
        match app.and_then(|app| app.breaker.tripped()) {
            Some(TripReason::MassRejection) if is_asking => held.push((candidate, round)),
            Some(reason) => self.stop(&candidate, reason),
            None if self.refresher.has_time_for_a_call() => return Some(Job::Refresh(candidate, round)),
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
        let message = "this run has stopped calling TikTok for its app";
        let failure = match reason {
            TripReason::MassRejection => Some(Reason::AppUnderSuspicion),
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
        backlog: &mut Backlog,
        out_of_time: &mut Vec<Candidate>,
    ) {
        let jobs = &mut backlog.first;
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
            JobResult::Busy(candidate, ..) if backlog.leaves_busy_rows => {
                self.finish(&candidate);
                out_of_time.push(candidate);
            }
            JobResult::Busy(candidate, round, wait) => {
                backlog.come_back(candidate, round, Instant::now() + wait);
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
                if let Some(notice) = self.expiry_warning(&candidate) {
                    backlog.warn(candidate, notice);
                }
            }
        }
    }
}

fn panicked(key: IntegrationKey) -> Report {
    let message = "the refresh panicked; this is a bug in the function";
    Report::new(key, Outcome::Failed).because(Reason::InternalError, message)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
