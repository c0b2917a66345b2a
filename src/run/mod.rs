//! Many integrations: the whole table or a part of it, the soonest expiry first, within bounds of concurrency, rate and time.
//! Holds the keys and expiries of what is due, and nothing else of the table.

mod app;
mod backlog;
mod fan_out;
pub(crate) mod log;
mod marking;
mod scan;
mod work_loop;
mod worker_pool;

use crate::{
    aws::{cloudwatch::RunMetrics, dynamodb::TableError, secrets_manager::CredentialsError},
    domain::{
        due::DuePolicy,
        gauges::GaugeRecorder,
        integration::{Candidate, IntegrationKey, UnixTime},
        latency::millis,
        message,
        outcome::{Counts, Report},
        proof::Evidence,
        selection::{RefreshRequest, Selection, Trigger},
    },
    refresh::{Refresher, RunContext, Statistics},
    response::{RefreshResponse, RefreshResults},
    services::Services,
};
use app::App;
use backlog::Backlog;
use chrono::{DateTime, Utc};
use serde_json::json;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{Instrument, error, error_span, info, warn};
use uuid::Uuid;
use work_loop::{Job, JobResult};

/// Why a run as a whole failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// TikTok refused an app, or rejected sellers of it without proof that its credentials are right.
    #[error("{}", describe(.0, .1))]
    Apps(Vec<FailedApp>, Counts),
}

/// An app that failed a run.
#[derive(Debug)]
pub struct FailedApp {
    /// Which app.
    pub app_key: String,
    /// Why.
    pub failure: AppFailure,
    /// TikTok's last answer that was not a grant.
    pub last_error: String,
}

/// Why an app failed a run.
#[derive(Debug)]
pub enum AppFailure {
    /// TikTok refuses the app's credentials.
    Refused,
    /// TikTok rejected these sellers, and nothing proves that the app's credentials are right.
    UnderSuspicion(Vec<IntegrationKey>),
}

/// How many rows an error names of one app: beyond, they say nothing more about the cause.
const MAX_NAMED: usize = 500;

fn describe(apps: &[FailedApp], counts: &Counts) -> String {
    let apps: Vec<String> = apps.iter().map(FailedApp::describe).collect();
    format!(
        "{}. No integration was marked because of this; {} refreshed, {} failed, {} deferred",
        apps.join("; "),
        counts.refreshed,
        counts.failed,
        counts.deferred
    )
}

impl FailedApp {
    fn describe(&self) -> String {
        let Self { app_key, failure, last_error } = self;
        let rows = match failure {
            AppFailure::Refused => return format!("app {app_key}: {last_error}"),
            AppFailure::UnderSuspicion(rows) => rows,
        };
        let commands: Vec<String> = rows
            .iter()
            .take(MAX_NAMED)
            .map(|key| json!({"team_id": key.team_id, "integration_id": key.integration_id, "force": true}))
            .map(|event| event.to_string())
            .collect();
        let more = match rows.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!(
            "app {app_key}: TikTok rejected {} sellers, and nothing proves that the app's credentials are right: check that \
             the secret holds the app that these sellers authorized. If it does not, repair it; the next run then refreshes \
             the rows. If it does, the sellers must connect again, and these events mark their rows: {}{more} ({last_error})",
            rows.len(),
            commands.join(" ")
        )
    }
}

/// Refreshes what a request covers, by `deadline`, and writes the run's metrics.
///
/// # Errors
/// [`RunError`] only if the run as a whole failed; otherwise the counts tell.
pub(crate) async fn run(
    services: &Arc<Services>,
    request: &RefreshRequest,
    deadline: DateTime<Utc>,
) -> Result<RefreshResponse, RunError> {
    execute(services, request, None, deadline).await
}

/// Refreshes the integrations of one work message, by `deadline`, and writes the run's metrics. What there is no time for goes
/// back to the queue, or is left to the next run if it is too old. Returns whether the message is done; if not, SQS must deliver it again.
pub(crate) async fn process_message(
    services: &Arc<Services>,
    message: message::Work,
    deadline: DateTime<Utc>,
) -> bool {
    let request = RefreshRequest {
        selection: Selection::All,
        force: message.force,
        dry_run: false,
        trigger: Trigger::Queue,
    };
    let run_started_at = message.run_started_at;
    let response = execute(services, &request, Some(message), deadline).await;
    let is_too_old = fan_out::is_too_old(run_started_at, services.clock.now());
    response.is_ok_and(|response| response.complete || is_too_old)
}

async fn execute(
    services: &Arc<Services>,
    request: &RefreshRequest,
    message: Option<message::Work>,
    deadline: DateTime<Utc>,
) -> Result<RefreshResponse, RunError> {
    let run_id = Uuid::new_v4().to_string();
    let span = error_span!("run", run_id);
    let execute = async {
        let started_at = services.clock.now();
        let timer = Instant::now();
        info!(
            trigger = request.trigger.as_str(),
            team_id = request.selection.team_id(),
            force = request.force,
            dry_run = request.dry_run,
            "TikTok token refresh run started",
        );
        let (apps, credentials) = match services.credentials.apps().await {
            Ok(apps) => (apps, Ok(())),
            Err(error) => (Arc::default(), Err(error)),
        };
        // A message that is delivered twice, or late, must not repeat a refresh.
        let unless_refreshed_since = message.as_ref().map(|message| message.run_started_at);
        let context = RunContext { run_id, deadline, force: request.force, unless_refreshed_since, apps };
        let mut run = Run::new(services.clone(), request, context, started_at);
        let result = match (credentials, message) {
            (Err(error), _) if !request.dry_run => Err(error.into()),
            (_, Some(message)) => {
                run.refresh_keys(message).await;
                Ok(())
            }
            (_, None) => run.refresh_selection().await,
        };
        run.finish_run(result, timer.elapsed())
    };
    execute.instrument(span).await
}

/// One run's state.
struct Run<'a> {
    services: Arc<Services>,
    request: &'a RefreshRequest,
    context: RunContext,
    refresher: Arc<Refresher>,
    policy: DuePolicy,
    /// When the run began, or the one that enqueued this work.
    started_at: UnixTime,
    results: RefreshResults,
    gauges: GaugeRecorder,
    apps: BTreeMap<String, App>,
    /// Whether this run has scanned the whole table, so that an app's only row is known to be that.
    is_full_scan: bool,
    /// How many integrations were deferred, by reason.
    deferred: BTreeMap<&'static str, u64>,
}

impl<'a> Run<'a> {
    fn new(
        services: Arc<Services>,
        request: &'a RefreshRequest,
        context: RunContext,
        now: DateTime<Utc>,
    ) -> Self {
        let policy = DuePolicy {
            now,
            refresh_ahead: services.settings.refresh_ahead,
            force: request.force,
            unless_refreshed_since: context.unless_refreshed_since,
        };
        Self {
            refresher: Arc::new(Refresher::new(services.clone(), context.clone())),
            services,
            request,
            policy,
            started_at: context.unless_refreshed_since.unwrap_or(UnixTime::of(now)),
            context,
            results: RefreshResults::default(),
            gauges: GaugeRecorder::new(policy),
            apps: BTreeMap::new(),
            is_full_scan: false,
            deferred: BTreeMap::new(),
        }
    }

    /// The app of a row, if the secret holds it.
    fn app_key(&self, row: &Candidate) -> Option<String> {
        self.refresher.app(row).map(|app| app.app_key.clone())
    }

    fn app(&mut self, app_key: &str) -> &mut App {
        self.apps.entry(app_key.to_owned()).or_default()
    }

    /// Scans the table, or a part of it, and refreshes what is due.
    async fn refresh_selection(&mut self) -> Result<(), RunError> {
        let backlog = self.scan().await?;
        self.work_through(backlog).await;
        let failed = self.failed_apps();
        if failed.is_empty() { Ok(()) } else { Err(RunError::Apps(failed, self.results.counts())) }
    }

    /// Refreshes the integrations of a work message. A failed app does not fail the message, as a redelivery could do no better:
    /// the next night's run finds its rows.
    async fn refresh_keys(&mut self, message: message::Work) {
        message.integrations.iter().for_each(|_| self.results.record_due());
        let candidate = |work: message::WorkKey| Candidate::of_key(work.key, work.app_key);
        // A message has the soonest expiry first, a backlog last.
        let due: Vec<Candidate> = message.integrations.into_iter().rev().map(candidate).collect();
        if let Some(app_key) = due.first().and_then(|row| self.app_key(row)) {
            let app = self.app(&app_key);
            app.is_only_one = message.only_one_of.is_some_and(|only| only == app_key);
            if let Some(proved) = message.proved {
                self.record_evidence(&app_key, &Evidence::Proves(proved), &mut VecDeque::new());
            }
        }
        self.work_through(Backlog::of(due)).await;
        for app in self.failed_apps() {
            error!(app_key = app.app_key, "the app failed in a work message: {}", app.describe());
        }
    }

    fn failed_apps(&self) -> Vec<FailedApp> {
        let failed = |(app_key, app): (&String, &App)| {
            let failure = if app.breaker.is_refused() {
                AppFailure::Refused
            } else if app.suspects.len() >= 2 {
                AppFailure::UnderSuspicion(app.suspects.clone())
            } else {
                return None;
            };
            Some(FailedApp { app_key: app_key.clone(), failure, last_error: app.last_error.clone() })
        };
        self.apps.iter().filter_map(failed).collect()
    }

    /// How many apps had rows that were left unmarked for want of proof, or were refused.
    fn apps_under_suspicion(&self) -> u64 {
        let is_suspect = |app: &&App| !app.suspects.is_empty() || app.breaker.is_refused();
        self.apps.values().filter(is_suspect).count() as u64
    }

    fn finish_run(self, result: Result<(), RunError>, took: Duration) -> Result<RefreshResponse, RunError> {
        for (reason, count) in &self.deferred {
            warn!(reason, count, "integrations were deferred to the next run");
        }
        let statistics = self.refresher.statistics();
        self.write_metrics(result.is_ok(), took, &statistics);
        self.log_end(result.as_ref().err(), took, &statistics);
        result.map(|()| {
            RefreshResponse::new(self.context.run_id, self.request, self.policy.now, took, self.results)
        })
    }

    fn write_metrics(&self, succeeded: bool, took: Duration, statistics: &Statistics) {
        let Some(namespace) = &self.services.settings.metrics_namespace else { return };
        let counts = self.results.counts();
        let is_nightly = self.request.trigger == Trigger::Schedule;
        let metrics = RunMetrics {
            namespace,
            at: self.services.clock.now(),
            run_id: &self.context.run_id,
            trigger: self.request.trigger,
            counts,
            took,
            completed: succeeded && self.results.is_complete(),
            apps_under_suspicion: self.apps_under_suspicion(),
            latency: &statistics.latency,
            // Also of a failed run: one refused app must not hide what has become of the other apps' tokens.
            gauges: (self.is_full_scan && is_nightly).then_some(self.gauges.gauges),
        };
        (self.services.emit_metrics)(&metrics.line());
    }

    fn log_end(&self, error: Option<&RunError>, took: Duration, statistics: &Statistics) {
        let c = self.results.counts();
        let duration_ms = millis(took);
        // A name with a dot becomes a key of a nested object.
        macro_rules! line {
            ($level:ident, $($rest:tt)+) => {
                $level!(
                    duration_ms,
                    counts.examined = c.examined,
                    counts.due = c.due,
                    counts.refreshed = c.refreshed,
                    counts.would_refresh = c.would_refresh,
                    counts.skipped_not_due = c.skipped_not_due,
                    counts.skipped_locked = c.skipped_locked,
                    counts.cannot_refresh = c.cannot_refresh,
                    counts.failed = c.failed,
                    counts.outcome_unknown = c.outcome_unknown,
                    counts.deferred = c.deferred,
                    counts.queued = c.queued,
                    counts.newly_marked = c.newly_marked,
                    $($rest)+
                )
            };
        }
        match error {
            None => line!(
                info,
                complete = self.results.is_complete(),
                interrupted_attempts = statistics.interrupted,
                unpublished = statistics.unpublished,
                "TikTok token refresh run finished"
            ),
            Some(error) => line!(error, "TikTok token refresh run failed: {error}"),
        }
    }

    /// Ends one integration without an attempt.
    fn end(&mut self, report: Report) {
        self.end_after(report, Duration::ZERO);
    }

    /// Ends one integration: one line in the log, one place in the response.
    fn end_after(&mut self, report: Report, took: Duration) {
        log::outcome(&report, took);
        self.results.record(report);
    }
}
