//! Many integrations: the whole table or a part of it, soonest expiry first, within bounds of concurrency, rate and
//! time. Only keys and expiries of what is due are held.

mod log;

use crate::{
    answer::{Counts, RefreshAnswer, Tally},
    breaker::{Breaker, Sign, Stop},
    census::{Census, REFRESH_TOKEN_WARNING},
    clock::Clock,
    credentials::{Apps, Credentials, CredentialsError},
    event::{RefreshRequest, Selection, Trigger},
    integration::{Candidate, Due, IntegrationKey, Rule, Skip, Status},
    metrics::{Latency, RunMetrics},
    refresh::{Attempt, Pace, RateLimiter, Refresher, Rejected, RetryBudget},
    report::{Outcome, Report, out_of_time, skipped},
    settings::Settings,
    store::{Store, StoreError},
    tiktok::TikTok,
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{error, info, warn};
use uuid::Uuid;

/// Where the lines for CloudWatch's metrics go: standard output, or a test's ear.
pub type Emit = Arc<dyn Fn(&str) + Send + Sync>;

/// What a warm environment keeps from one invocation to the next.
pub struct Services {
    /// The settings.
    pub settings: Settings,
    /// The table.
    pub store: Store,
    /// The provider.
    pub tiktok: TikTok,
    /// The app credentials.
    pub credentials: Arc<Credentials>,
    /// Toward TikTok, by app.
    pub limiter: Arc<RateLimiter>,
    /// The time.
    pub clock: Clock,
    /// How long a refresh waits for what.
    pub pace: Pace,
    /// Where metrics go.
    pub emit: Emit,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("settings", &self.settings).finish_non_exhaustive()
    }
}

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
    let started_at = services.clock.now();
    let timer = Instant::now();
    let run_id = Uuid::new_v4().to_string();
    let mut run = Run::new(services, request, &run_id);
    info!(
        run_id,
        trigger = request.trigger.as_str(),
        team_id = request.selection.team_id(),
        force = request.force,
        dry_run = request.dry_run,
        "TikTok token refresh run started",
    );
    let done = run.work(deadline).await;
    let took = timer.elapsed();
    let counts = run.tally.counts();
    let completed = done.is_ok() && counts.deferred == 0;
    let metrics = RunMetrics {
        namespace: &services.settings.metrics_namespace,
        at: services.clock.now(),
        run_id: &run_id,
        counts,
        took,
        completed,
        latency: &run.latency,
        gauges: (done.is_ok() && request.trigger == Trigger::Schedule).then_some(run.census.gauges),
    };
    (services.emit)(&metrics.line());
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let counted = serde_json::to_string(&counts).unwrap_or_default();
    match &done {
        Ok(()) => info!(
            run_id,
            duration_ms,
            complete = completed,
            cut_off_before = run.cut_off,
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
}

/// One thing done.
#[derive(Debug)]
enum Done {
    Attempted(Candidate, Attempt),
    Reported(Report),
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
    tally: Tally,
    census: Census,
    latency: Latency,
    apps: BTreeMap<String, App>,
    deferred: BTreeMap<&'static str, u64>,
    /// Attempts of earlier runs that were cut off.
    cut_off: u64,
}

impl<'a> Run<'a> {
    fn new(services: &'a Services, request: &'a RefreshRequest, id: &'a str) -> Self {
        let rule = Rule {
            now: services.clock.now(),
            refresh_ahead: services.settings.refresh_ahead,
            force: request.force,
        };
        Self {
            services,
            request,
            id,
            rule,
            tally: Tally::default(),
            census: Census::new(rule),
            latency: Latency::default(),
            apps: BTreeMap::new(),
            deferred: BTreeMap::new(),
            cut_off: 0,
        }
    }

    async fn work(&mut self, deadline: DateTime<Utc>) -> Result<(), RunError> {
        if self.request.dry_run {
            let (due, _) = self.survey().await?;
            for (candidate, due) in due {
                self.would_refresh(&candidate, due);
            }
            return Ok(());
        }
        let credentials = self.services.credentials.clone();
        let (apps, surveyed) = tokio::join!(credentials.apps(), self.survey());
        let (apps, (due, expired)) = (apps?, surveyed?);
        let due = due.into_iter().map(|(candidate, _)| Work::Refresh(candidate));
        let work = due.chain(expired.into_iter().map(Work::MarkExpired)).collect();
        self.refresh_all(work, apps, deadline).await;
        let failed: Vec<FailedApp> = self
            .apps
            .iter()
            .filter_map(|(app_key, app)| {
                let stop = app.breaker.failure()?;
                Some(FailedApp { app_key: app_key.clone(), stop, said: app.said.clone() })
            })
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(RunError::Apps(failed, self.tally.counts())) }
    }

    /// Reads the rows and ends at once those that nothing is to be done for. What is due comes back with the
    /// soonest expiry first; beside it, active rows whose refresh token has expired.
    async fn survey(&mut self) -> Result<(Vec<(Candidate, Due)>, Vec<Candidate>), StoreError> {
        let (mut due, mut expired) = (Vec::new(), Vec::new());
        let mut found = false;
        let mut pages = self.services.store.candidates(&self.request.selection);
        while let Some(page) = pages.next().await {
            for row in page? {
                found = true;
                let candidate = match row {
                    Ok(candidate) => candidate,
                    Err(malformed) => {
                        let message = malformed.to_string();
                        let report = Report::new(malformed.key, Outcome::Failed);
                        self.end(report.because("malformed_row", message));
                        continue;
                    }
                };
                self.warn_of_refresh_token(&candidate);
                match candidate.due(&self.rule) {
                    Ok(why) => {
                        self.tally.due();
                        due.push((candidate, why));
                    }
                    Err(Skip::RefreshTokenExpired)
                        if candidate.status == Status::Active && !self.request.dry_run =>
                    {
                        expired.push(candidate);
                    }
                    Err(skip) => {
                        self.census.count(&candidate);
                        self.end(skipped(&candidate, &skip, self.rule.now));
                    }
                }
            }
        }
        match &self.request.selection {
            Selection::One(key) if !found => {
                let report = Report::new(key.clone(), Outcome::Failed);
                self.end(report.because("not_found", format!("there is no {key} in the table")));
            }
            Selection::Team(team_id) if !found => {
                warn!(run_id = self.id, team_id, "the team has no integration in the table");
            }
            _ => {}
        }
        // An expiry that is absent comes first, as the token may be dead already.
        due.sort_by_key(|(candidate, _)| candidate.access_expires_at);
        Ok((due, expired))
    }

    fn warn_of_refresh_token(&self, candidate: &Candidate) {
        let Some(at) = candidate.refresh_expires_at else { return };
        let soon = at.is_by(self.rule.now + REFRESH_TOKEN_WARNING);
        if soon && candidate.status == Status::Active && !candidate.refresh_token_expired(self.rule.now) {
            warn!(
                run_id = self.id,
                team_id = candidate.key.team_id,
                integration_id = candidate.key.integration_id,
                refresh_token_expires_at = at.0,
                "the refresh token expires within 7 days: the seller must connect again before",
            );
        }
    }

    fn would_refresh(&mut self, candidate: &Candidate, due: Due) {
        if let Some(lease) = candidate.live_lease(self.rule.now) {
            let locked = Skip::Locked(lease.clone());
            return self.end(skipped(candidate, &locked, self.rule.now));
        }
        let message = match candidate.access_expires_at {
            None => "the access token's expiry is missing".to_owned(),
            Some(at) if due == Due::ExpiryNotBelieved => {
                format!("the stored expiry, {}, cannot be true", at.0)
            }
            Some(at) => {
                let seconds = at.seconds_from(self.rule.now);
                let span = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
                if seconds > 0 {
                    format!("the access token expires in {span}")
                } else {
                    format!("the access token expired {span} ago")
                }
            }
        };
        let report = Report::new(candidate.key.clone(), Outcome::WouldRefresh);
        self.end(report.because(due.reason(), message).expiring(candidate.access_expires_at));
    }

    /// Works through all of it. Every task that was begun is waited for: one that is dropped in mid-flight could
    /// take a seller's only token with it.
    async fn refresh_all(&mut self, mut work: VecDeque<Work>, apps: Arc<Apps>, deadline: DateTime<Utc>) {
        let services = self.services;
        let refresher = Arc::new(Refresher {
            run_id: self.id.to_owned(),
            store: services.store.clone(),
            tiktok: services.tiktok.clone(),
            credentials: services.credentials.clone(),
            apps: RwLock::new(apps),
            limiter: services.limiter.clone(),
            clock: services.clock.clone(),
            deadline,
            refresh_ahead: services.settings.refresh_ahead,
            force: self.request.force,
            pace: services.pace,
            budget: RetryBudget::default(),
            latency: Mutex::default(),
            cut_off: AtomicU64::new(0),
        });
        let mut running: JoinSet<(Done, Duration)> = JoinSet::new();
        let mut in_flight: HashMap<Id, IntegrationKey> = HashMap::new();
        loop {
            while running.len() < services.settings.max_concurrency
                && let Some(next) = work.pop_front()
            {
                if let Some(next) = self.unless_deferred(next, &refresher) {
                    let key = next.key().clone();
                    let task = running.spawn(perform(refresher.clone(), next));
                    in_flight.insert(task.id(), key);
                }
            }
            match running.join_next_with_id().await {
                Some(Ok((id, (done, took)))) => {
                    in_flight.remove(&id);
                    self.absorb(done, took, &refresher, &mut work);
                }
                Some(Err(panicked)) => self.lost(&panicked, in_flight.remove(&panicked.id())),
                None if self.judge_the_pending(&mut work) => {}
                None => break,
            }
        }
        self.cut_off = refresher.cut_off.load(Ordering::Relaxed);
        for (reason, count) in &self.deferred {
            warn!(run_id = self.id, reason, count, "integrations were deferred to the next run");
        }
        self.latency = std::mem::take(&mut *refresher.latency.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends a refresh that is not to be begun: its app was stopped, or the time runs out.
    fn unless_deferred(&mut self, work: Work, refresher: &Refresher) -> Option<Work> {
        let Work::Refresh(candidate) = work else { return Some(work) };
        let app = refresher.app(&candidate).and_then(|app| self.apps.get(&app.app_key));
        let stopped = app.and_then(|app| app.breaker.stopped());
        let report = if let Some(stop) = stopped {
            Report::new(candidate.key.clone(), Outcome::Deferred)
                .because(stop.reason(), "the app was stopped for this run")
                .expiring(candidate.access_expires_at)
        } else if refresher.has_time_for_a_call() {
            return Some(Work::Refresh(candidate));
        } else {
            out_of_time(&candidate)
        };
        self.census.count(&candidate);
        self.end(report);
        None
    }

    /// Takes in what was done: tells the app's breaker, and ends the integration or keeps it for a verdict.
    fn absorb(&mut self, done: Done, took: Duration, refresher: &Refresher, work: &mut VecDeque<Work>) {
        let (mut candidate, attempt) = match done {
            Done::Reported(report) => return self.end_after(report, took),
            Done::Attempted(candidate, attempt) => (candidate, attempt),
        };
        let app_key = refresher.app(&candidate).map(|app| app.app_key).unwrap_or_default();
        match attempt {
            Attempt::Done { report, sign, stored } => {
                if let Some(sign) = sign {
                    let app = self.apps.entry(app_key).or_default();
                    app.breaker.saw(sign);
                    if sign == Sign::Granted {
                        // The key is proved: who was rejected was rejected rightly.
                        app.pending.drain(..).for_each(|rejected| work.push_front(Work::Mark(rejected)));
                    } else {
                        app.said = report.message.clone().unwrap_or_default();
                    }
                }
                if let Some(stored) = stored {
                    candidate.access_expires_at = stored.access_expires_at;
                    candidate.refresh_expires_at = stored.refresh_expires_at;
                }
                if report.outcome != Outcome::CannotRefresh {
                    self.census.count(&candidate);
                }
                self.end_after(report, took);
            }
            Attempt::Rejected(rejected) if self.marks_at_once() => work.push_front(Work::Mark(*rejected)),
            Attempt::Rejected(rejected) => {
                let app = self.apps.entry(app_key).or_default();
                app.breaker.saw(Sign::Rejected);
                let rejected = *rejected;
                app.said = rejected.said();
                if app.breaker.key_is_proved() {
                    work.push_front(Work::Mark(rejected));
                } else {
                    app.pending.push(rejected);
                }
            }
        }
    }

    /// An operator who forces one team or integration has looked at it; no fleet is at stake.
    fn marks_at_once(&self) -> bool {
        self.request.force && self.request.selection != Selection::All
    }

    /// When nothing else is left to do: decides over the rows that were rejected without a success of their app.
    fn judge_the_pending(&mut self, work: &mut VecDeque<Work>) -> bool {
        for app in self.apps.values_mut() {
            let may_mark = app.breaker.may_mark_at_the_end();
            work.extend(app.pending.drain(..).map(if may_mark { Work::Mark } else { Work::Spare }));
        }
        !work.is_empty()
    }

    /// A task panicked: the other integrations go on, this one's lease runs out by itself.
    fn lost(&mut self, error: &JoinError, key: Option<IntegrationKey>) {
        let Some(key) = key else { return error!(run_id = self.id, "a task was lost: {error}") };
        let report = Report::new(key, Outcome::Failed);
        self.end(
            report.because("internal_error", "a bug in this function stopped this integration's refresh"),
        );
    }

    fn end(&mut self, report: Report) {
        self.end_after(report, Duration::ZERO);
    }

    /// Ends one integration: one line in the log, one place in the answer.
    fn end_after(&mut self, report: Report, took: Duration) {
        log::ended(self.id, &report, took);
        if report.outcome == Outcome::Deferred {
            *self.deferred.entry(report.reason.unwrap_or_default()).or_default() += 1;
        }
        self.tally.ended(report);
    }
}

impl Work {
    fn key(&self) -> &IntegrationKey {
        match self {
            Self::Refresh(candidate) | Self::MarkExpired(candidate) => &candidate.key,
            Self::Mark(rejected) | Self::Spare(rejected) => rejected.key(),
        }
    }
}

async fn perform(refresher: Arc<Refresher>, work: Work) -> (Done, Duration) {
    let began = Instant::now();
    let done = match work {
        Work::Refresh(candidate) => Done::Attempted(candidate.clone(), refresher.refresh(candidate).await),
        Work::MarkExpired(candidate) => Done::Reported(refresher.mark_expired(candidate).await),
        Work::Mark(rejected) => Done::Reported(refresher.mark(rejected).await),
        Work::Spare(rejected) => Done::Reported(refresher.spare(rejected).await),
    };
    (done, began.elapsed())
}
