//! Many integrations: the whole table or a part of it, the soonest expiry first, within bounds of concurrency, rate and time.
//! Holds the keys and expiries of what is due, and nothing else of the table.

mod backlog;
mod fan_out;
mod log;
mod scan;
mod work_loop;
mod worker_pool;

use crate::{
    aws::{cloudwatch::RunMetrics, dynamodb::TableError, secrets_manager::CredentialsError},
    domain::{
        circuit_breaker::TripReason,
        gauges::GaugeRecorder,
        integration::{Candidate, DuePolicy, UnixTime},
        message,
        outcome::{Counts, Report},
        selection::{RefreshRequest, Selection, Trigger},
    },
    refresh::{RunContext, Statistics},
    response::{RefreshResponse, RefreshResults},
    services::Services,
};
use backlog::Backlog;
use chrono::{DateTime, Utc};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{Instrument, error, error_span, info, warn};
use uuid::Uuid;
use work_loop::{App, Job, JobResult};

/// Why a run as a whole could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The table cannot be read.
    #[error("the run could not be done: {0}")]
    Table(#[from] TableError),
    /// The secret cannot be read.
    #[error("the run could not be done: {0}")]
    Credentials(#[from] CredentialsError),
    /// TikTok refused an app, or every seller of an app.
    #[error("{}", describe(.0, .1))]
    Apps(Vec<FailedApp>, Counts),
}

/// An app that failed a run.
#[derive(Debug)]
pub struct FailedApp {
    /// Which app.
    pub app_key: String,
    /// Why its circuit breaker tripped.
    pub reason: TripReason,
    /// TikTok's last answer.
    pub last_error: String,
}

fn describe(apps: &[FailedApp], counts: &Counts) -> String {
    let apps: Vec<String> = apps
        .iter()
        .map(|app| match app.reason {
            TripReason::MassRejection => format!(
                "app {}: TikTok rejected every seller and refreshed none, so no integration was marked; \
                 check that the secret holds the app that these sellers authorized ({})",
                app.app_key, app.last_error
            ),
            TripReason::Misconfigured | TripReason::ProviderDown => {
                format!("app {}: {}", app.app_key, app.last_error)
            }
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

/// Refreshes what a request covers, by `deadline`, and writes the run's metrics.
///
/// # Errors
/// [`RunError`] only if the run as a whole could not be done; otherwise the counts tell.
pub(crate) async fn run(
    services: &Arc<Services>,
    request: &RefreshRequest,
    deadline: DateTime<Utc>,
) -> Result<RefreshResponse, RunError> {
    execute(services, request, None, deadline).await
}

/// Refreshes the integrations of one work message, by `deadline`, and writes the run's metrics. What there is no time for goes
/// back to the queue. Returns whether the message is done; if not, SQS must deliver it again.
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
    let response = execute(services, &request, Some(message), deadline).await;
    response.is_ok_and(|response| response.complete)
}

async fn execute(
    services: &Arc<Services>,
    request: &RefreshRequest,
    message: Option<message::Work>,
    deadline: DateTime<Utc>,
) -> Result<RefreshResponse, RunError> {
    let run_id = Uuid::new_v4().to_string();
    let span = error_span!("run", run_id);
    Run::new(services.clone(), request, run_id).execute(message, deadline).instrument(span).await
}

/// One run's state.
struct Run<'a> {
    services: Arc<Services>,
    request: &'a RefreshRequest,
    id: String,
    policy: DuePolicy,
    /// When the run began, or the one that enqueued this work.
    started_at: UnixTime,
    results: RefreshResults,
    gauges: GaugeRecorder,
    statistics: Statistics,
    apps: BTreeMap<String, App>,
    /// How many integrations were deferred, by reason.
    deferred: BTreeMap<&'static str, u64>,
}

impl<'a> Run<'a> {
    fn new(services: Arc<Services>, request: &'a RefreshRequest, id: String) -> Self {
        let policy = DuePolicy {
            now: services.clock.now(),
            refresh_ahead: services.settings.refresh_ahead,
            force: request.force,
            unless_refreshed_since: None,
        };
        Self {
            services,
            request,
            id,
            policy,
            started_at: UnixTime::of(policy.now),
            results: RefreshResults::default(),
            gauges: GaugeRecorder::new(policy),
            statistics: Statistics::default(),
            apps: BTreeMap::new(),
            deferred: BTreeMap::new(),
        }
    }

    async fn execute(
        mut self,
        message: Option<message::Work>,
        deadline: DateTime<Utc>,
    ) -> Result<RefreshResponse, RunError> {
        let timer = Instant::now();
        info!(
            trigger = self.request.trigger.as_str(),
            team_id = self.request.selection.team_id(),
            force = self.request.force,
            dry_run = self.request.dry_run,
            "TikTok token refresh run started",
        );
        let result = match message {
            None => self.refresh_selection(deadline).await,
            Some(message) => self.refresh_keys(message, deadline).await,
        };
        for (reason, count) in &self.deferred {
            warn!(reason, count, "integrations were deferred to the next run");
        }
        let took = timer.elapsed();
        self.write_metrics(result.is_ok(), took);
        self.log_end(result.as_ref().err(), took);
        result.map(|()| RefreshResponse::new(self.id, self.request, self.policy.now, took, self.results))
    }

    /// Scans the table, or a part of it, and refreshes what is due.
    async fn refresh_selection(&mut self, deadline: DateTime<Utc>) -> Result<(), RunError> {
        if self.request.dry_run {
            return Ok(self.scan().await.map(drop)?);
        }
        let services = self.services.clone();
        let (apps, backlog) = tokio::join!(services.credentials.apps(), self.scan());
        self.work_off(backlog?, apps?, deadline).await
    }

    /// Refreshes the integrations of a work message.
    async fn refresh_keys(
        &mut self,
        message: message::Work,
        deadline: DateTime<Utc>,
    ) -> Result<(), RunError> {
        self.started_at = message.run_started_at;
        if message.force {
            self.policy.unless_refreshed_since = Some(message.run_started_at);
        }
        let apps = self.services.credentials.apps().await?;
        message.integrations.iter().for_each(|_| self.results.record_due());
        let candidate = |work: message::WorkKey| Candidate::of_key(work.key, work.app_key);
        // A message has the soonest expiry first, a backlog last.
        let due = message.integrations.into_iter().rev().map(candidate).collect();
        self.work_off(Backlog { due, ..Backlog::default() }, apps, deadline).await
    }

    fn run_context(&self, deadline: DateTime<Utc>) -> RunContext {
        RunContext {
            run_id: self.id.clone(),
            deadline,
            force: self.request.force,
            unless_refreshed_since: self.policy.unless_refreshed_since,
        }
    }

    fn write_metrics(&self, succeeded: bool, took: Duration) {
        let Some(namespace) = &self.services.settings.metrics_namespace else { return };
        let counts = self.results.counts();
        let is_nightly = self.request.trigger == Trigger::Schedule;
        let metrics = RunMetrics {
            namespace,
            at: self.services.clock.now(),
            run_id: &self.id,
            trigger: self.request.trigger,
            counts,
            took,
            completed: succeeded && counts.deferred == 0,
            latency: &self.statistics.latency,
            gauges: (succeeded && is_nightly).then_some(self.gauges.gauges),
        };
        (self.services.emit_metrics)(&metrics.line());
    }

    fn log_end(&self, error: Option<&RunError>, took: Duration) {
        let c = self.results.counts();
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
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
                    $($rest)+
                )
            };
        }
        match error {
            None => line!(
                info,
                complete = c.deferred == 0,
                interrupted_attempts = self.statistics.interrupted,
                unpublished = self.statistics.unpublished,
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
