//! Many integrations: the whole table or a part of it, soonest expiry first, within bounds of concurrency, rate and
//! time. Only keys and expiries of what is due are held.

mod backlog;
mod fan_out;
mod log;
mod scan;
mod worker_pool;

use crate::{
    aws::{cloudwatch::RunMetrics, dynamodb::StoreError, secrets_manager::CredentialsError},
    domain::{
        circuit_breaker::{Breaker, Sign, Stop},
        gauges::Census,
        integration::{Candidate, IntegrationKey, Notice, Rule, UnixTime},
        latency::Latency,
        message,
        outcome::{Counts, Outcome, Report},
        selection::{RefreshRequest, Selection, Trigger},
    },
    refresh::{Attempt, Refresher, Rejected},
    response::{RefreshAnswer, Tally},
    services::Services,
};
use backlog::Todo;
use chrono::{DateTime, Utc};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};
use tracing::{error, info, warn};
use uuid::Uuid;
use worker_pool::WorkerPool;

/// Why a run as a whole could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The table cannot be read.
    #[error("the run could not be done: {0}")]
    Table(#[from] StoreError),
    /// The secret cannot be read.
    #[error("the run could not be done: {0}")]
    Credentials(#[from] CredentialsError),
    /// TikTok refused an app, or every seller of an app.
    #[error("{}", describe(.0, .1))]
    Apps(Vec<FailedApp>, Counts),
}

/// An app that TikTok refused.
#[derive(Debug)]
pub struct FailedApp {
    /// Which app.
    pub app_key: String,
    /// Why it was stopped.
    pub stop: Stop,
    /// What TikTok said last.
    pub said: String,
}

fn describe(apps: &[FailedApp], counts: &Counts) -> String {
    let apps: Vec<String> = apps
        .iter()
        .map(|app| match app.stop {
            Stop::MassRejection => format!(
                "app {}: TikTok rejected every seller and not one was refreshed, so nobody was marked; \
                 check that the secret holds the app that these sellers authorized ({})",
                app.app_key, app.said
            ),
            Stop::Misconfigured | Stop::ProviderDown => format!("app {}: {}", app.app_key, app.said),
        })
        .collect();
    format!(
        "{}. No integration was marked for it; {} refreshed, {} failed, {} deferred",
        apps.join("; "),
        counts.refreshed,
        counts.failed,
        counts.deferred
    )
}

/// Refreshes what a request covers, by `deadline`, and tells CloudWatch.
///
/// # Errors
/// [`RunError`] only if the run as a whole could not be done; otherwise the counts tell.
pub async fn run(
    services: &Services,
    request: &RefreshRequest,
    deadline: DateTime<Utc>,
) -> Result<RefreshAnswer, RunError> {
    conduct(services, request, None, deadline).await
}

/// Refreshes the integrations of one message, by `deadline`, and tells CloudWatch. What there is no time for goes back
/// to the queue. Answers whether the message is done; if not, SQS is to deliver it again.
pub async fn work_off(services: &Services, message: message::Work, deadline: DateTime<Utc>) -> bool {
    let request = RefreshRequest {
        selection: Selection::All,
        force: message.force,
        dry_run: false,
        trigger: Trigger::Queue,
    };
    let answer = conduct(services, &request, Some(message), deadline).await;
    answer.is_ok_and(|answer| answer.complete)
}

async fn conduct(
    services: &Services,
    request: &RefreshRequest,
    message: Option<message::Work>,
    deadline: DateTime<Utc>,
) -> Result<RefreshAnswer, RunError> {
    let started_at = services.clock.now();
    let timer = Instant::now();
    let run_id = Uuid::new_v4().to_string();
    let rule = Rule {
        now: started_at,
        refresh_ahead: services.settings.refresh_ahead,
        force: request.force,
        unless_refreshed_since: message.as_ref().filter(|work| work.force).map(|work| work.run_started_at),
    };
    let mut run = Run {
        services,
        request,
        id: &run_id,
        rule,
        started_at: message.as_ref().map_or(UnixTime::of(started_at), |work| work.run_started_at),
        tally: Tally::default(),
        census: Census::new(rule),
        latency: Latency::default(),
        apps: BTreeMap::new(),
        deferred: BTreeMap::new(),
        cut_off: 0,
        unpublished: 0,
    };
    info!(
        run_id,
        trigger = request.trigger.as_str(),
        team_id = request.selection.team_id(),
        force = request.force,
        dry_run = request.dry_run,
        "TikTok token refresh run started",
    );
    let done = run.work(message, deadline).await;
    for (reason, count) in &run.deferred {
        warn!(run_id, reason, count, "integrations were deferred to the next run");
    }
    let took = timer.elapsed();
    let counts = run.tally.counts();
    let completed = done.is_ok() && counts.deferred == 0;
    if let Some(namespace) = &services.settings.metrics_namespace {
        let metrics = RunMetrics {
            namespace,
            at: services.clock.now(),
            run_id: &run_id,
            trigger: request.trigger,
            counts,
            took,
            completed,
            latency: &run.latency,
            gauges: (done.is_ok() && request.trigger == Trigger::Schedule).then_some(run.census.gauges),
        };
        (services.emit)(&metrics.line());
    }
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let counted = serde_json::to_string(&counts).unwrap_or_default();
    match &done {
        Ok(()) => info!(
            run_id,
            duration_ms,
            complete = completed,
            cut_off_before = run.cut_off,
            unpublished = run.unpublished,
            counts = counted,
            "TikTok token refresh run finished"
        ),
        Err(error) => {
            error!(run_id, duration_ms, counts = counted, "TikTok token refresh run failed: {error}");
        }
    }
    let tally = run.tally;
    done.map(|()| RefreshAnswer::new(run_id, request, started_at, took, tally))
}

/// One thing to do.
#[derive(Debug)]
enum Work {
    Refresh(Candidate),
    MarkExpired(Candidate),
    Mark(Rejected),
    Spare(Rejected),
    Warn(Candidate, Notice),
}

/// One thing done.
#[derive(Debug)]
enum Done {
    Attempted(Candidate, Attempt),
    Reported(Report),
    /// It panicked: the other integrations go on, this one's lease runs out by itself.
    Lost(IntegrationKey),
    /// The same of a warning, whose integration had ended before.
    WarningLost(IntegrationKey),
    Warned,
}

/// What a run knows of one app.
#[derive(Debug, Default)]
struct App {
    breaker: Breaker,
    /// Rejected rows that wait for a verdict on the app, with their leases.
    pending: Vec<Rejected>,
    /// What TikTok said when it last refused.
    said: String,
}

/// One run's state.
struct Run<'a> {
    services: &'a Services,
    request: &'a RefreshRequest,
    id: &'a str,
    rule: Rule,
    /// When the run began, or the one that left this work to the queue.
    started_at: UnixTime,
    tally: Tally,
    census: Census,
    latency: Latency,
    apps: BTreeMap<String, App>,
    deferred: BTreeMap<&'static str, u64>,
    /// Attempts of earlier runs that were cut off.
    cut_off: u64,
    /// Changes of state that could not be published.
    unpublished: u64,
}

impl Run<'_> {
    async fn work(
        &mut self,
        message: Option<message::Work>,
        deadline: DateTime<Utc>,
    ) -> Result<(), RunError> {
        if self.request.dry_run {
            return Ok(self.survey().await.map(drop)?);
        }
        let (credentials, tiktok) = (self.services.credentials.clone(), self.services.tiktok.clone());
        let (apps, todo) = match message {
            None => {
                let (apps, todo, ()) = tokio::join!(credentials.apps(), self.survey(), tiktok.make_ready());
                (apps?, todo?)
            }
            Some(message) => {
                let (apps, ()) = tokio::join!(credentials.apps(), tiktok.make_ready());
                let apps = apps?;
                let known = |work: message::WorkKey| Candidate::of_key(work.key, work.app_key);
                message.integrations.iter().for_each(|_| self.tally.due());
                // A message has the soonest expiry first.
                let due = message.integrations.into_iter().rev().map(known).collect();
                (apps, Todo { due, ..Todo::default() })
            }
        };
        let refresher = Arc::new(self.services.refresher(self.id, apps, deadline, &self.rule));
        self.do_all(todo, &refresher).await;
        self.latency = std::mem::take(&mut *refresher.latency.lock().unwrap_or_else(PoisonError::into_inner));
        self.cut_off = refresher.cut_off.load(Ordering::Relaxed);
        self.unpublished = refresher.unpublished.load(Ordering::Relaxed);
        let failed = |(app_key, app): (&String, &App)| {
            let stop = app.breaker.failure()?;
            Some(FailedApp { app_key: app_key.clone(), stop, said: app.said.clone() })
        };
        let failed: Vec<FailedApp> = self.apps.iter().filter_map(failed).collect();
        if failed.is_empty() { Ok(()) } else { Err(RunError::Apps(failed, self.tally.counts())) }
    }

    /// Does all of it. What was begun is waited for: a refresh that is dropped in mid-flight could take a seller's only token
    /// with it.
    async fn do_all(&mut self, mut todo: Todo, refresher: &Arc<Refresher>) {
        let mut pool = WorkerPool::new(refresher.clone(), self.services.settings.max_concurrency);
        let mut left = Vec::new();
        loop {
            while pool.has_room()
                && let Some(next) = todo.next()
            {
                if let Some(next) = self.if_it_may_begin(next, refresher, &mut left) {
                    pool.spawn(next);
                }
            }
            match pool.next().await {
                Some((done, took)) => self.absorb(done, took, refresher, &mut todo.aside, &mut left),
                None if self.judge_the_pending(&mut todo.aside) => {}
                None => break,
            }
        }
        if !left.is_empty() {
            self.hand_over(left).await;
        }
    }

    /// Holds back a refresh that is not to be begun: its app was stopped, or the time runs out.
    fn if_it_may_begin(
        &mut self,
        work: Work,
        refresher: &Refresher,
        left: &mut Vec<Candidate>,
    ) -> Option<Work> {
        let Work::Refresh(candidate) = work else { return Some(work) };
        let app = refresher.app(&candidate).and_then(|app| self.apps.get(&app.app_key));
        if let Some(stop) = app.and_then(|app| app.breaker.stopped()) {
            let report = Report::new(candidate.key.clone(), Outcome::Deferred)
                .because(stop.reason(), "the app was stopped for this run")
                .expiring(candidate.access_expires_at);
            self.defer(&candidate, report);
            None
        } else if refresher.has_time_for_a_call() {
            Some(Work::Refresh(candidate))
        } else {
            left.push(candidate);
            None
        }
    }

    /// Takes in what was done: tells the app's breaker, and ends the integration or keeps it for a verdict.
    fn absorb(
        &mut self,
        done: Done,
        took: Duration,
        refresher: &Refresher,
        aside: &mut VecDeque<Work>,
        left: &mut Vec<Candidate>,
    ) {
        let (candidate, attempt) = match done {
            Done::Warned => return,
            Done::WarningLost(key) => {
                return refresher.could_not_publish(&key, "a bug in this function stopped it");
            }
            Done::Reported(report) => return self.end_after(report, took),
            Done::Lost(key) => {
                let words = "a bug in this function stopped this integration's refresh";
                let report = Report::new(key, Outcome::Failed).because("internal_error", words);
                return self.end_after(report, took);
            }
            Done::Attempted(candidate, attempt) => (candidate, attempt),
        };
        let app = refresher.app(&candidate);
        let app_key = app.as_deref().map(|app| app.app_key.as_str()).unwrap_or_default();
        match attempt {
            Attempt::Done { report, .. } if report.outcome == Outcome::Deferred => {
                left.push(candidate);
            }
            Attempt::Done { report, sign, stored } => {
                if let Some(sign) = sign {
                    let app = self.apps.entry(app_key.to_owned()).or_default();
                    app.breaker.saw(sign);
                    if sign == Sign::Granted {
                        // The key is proved: who was rejected was rejected rightly.
                        app.pending.drain(..).for_each(|rejected| aside.push_front(Work::Mark(rejected)));
                    } else {
                        app.said = report.message.clone().unwrap_or_default();
                    }
                }
                let candidate = stored.map_or(candidate, |stored| *stored);
                if report.outcome != Outcome::CannotRefresh {
                    self.census.count(&candidate);
                }
                self.end_after(report, took);
                aside.extend(self.notice(candidate));
            }
            Attempt::Rejected(rejected) if self.marks_at_once() => aside.push_front(Work::Mark(*rejected)),
            Attempt::Rejected(rejected) => {
                let app = self.apps.entry(app_key.to_owned()).or_default();
                app.breaker.saw(Sign::Rejected);
                app.said = rejected.said();
                if app.breaker.key_is_proved() {
                    aside.push_front(Work::Mark(*rejected));
                } else {
                    app.pending.push(*rejected);
                }
            }
        }
    }

    /// An operator who forces one team or integration has looked at it; no fleet is at stake.
    fn marks_at_once(&self) -> bool {
        self.request.force && self.request.selection != Selection::All
    }

    /// When nothing else is left to do: decides over the rows that were rejected without a success of their app.
    fn judge_the_pending(&mut self, aside: &mut VecDeque<Work>) -> bool {
        for app in self.apps.values_mut() {
            let may_mark = app.breaker.may_mark_at_the_end();
            aside.extend(app.pending.drain(..).map(if may_mark { Work::Mark } else { Work::Spare }));
        }
        !aside.is_empty()
    }

    fn end(&mut self, report: Report) {
        self.end_after(report, Duration::ZERO);
    }

    /// Ends one integration: one line in the log, one place in the answer.
    fn end_after(&mut self, report: Report, took: Duration) {
        log::ended(self.id, &report, took);
        self.tally.ended(report);
    }
}

impl Work {
    /// What comes of it if its task panics.
    fn if_lost(&self) -> Done {
        let key = self.key().clone();
        if matches!(self, Self::Warn(..)) { Done::WarningLost(key) } else { Done::Lost(key) }
    }

    fn key(&self) -> &IntegrationKey {
        match self {
            Self::Refresh(candidate) | Self::MarkExpired(candidate) | Self::Warn(candidate, _) => {
                &candidate.key
            }
            Self::Mark(rejected) | Self::Spare(rejected) => rejected.key(),
        }
    }
}
