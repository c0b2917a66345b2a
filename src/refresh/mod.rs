//! One integration's refresh: acquire the lease, call TikTok, save the new token pair, settle a failure.
//!
//! Two promises: at most one live attempt for each integration, and no response from TikTok is ever dropped. The types keep
//! the order: only a [`Leased`] row can call TikTok, and saving or settling consumes it.

mod call;
mod mark;
mod save;

use crate::{
    aws::dynamodb::{Acquired, LeaseRequest, Update, updates},
    domain::{
        circuit_breaker::CallOutcome,
        integration::{Candidate, DuePolicy, Integration, IntegrationKey, SkipReason, Status, UnixTime},
        latency::Latency,
        message::Generation,
        outcome::{DELETED, MISSING, Outcome, Report, out_of_time, skipped, unknown_app},
        secret::{AppCredentials, Apps, RefreshToken},
    },
    services::Services,
    tiktok::CallError,
};
use call::RetryBudget;
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::{error, warn};

/// How far the clocks of two workers may be apart: a lease outlives its invocation by this.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// What one run's refreshes have in common.
#[derive(Clone, Debug)]
pub(crate) struct RunContext {
    /// The run's id, a part of each lease's owner.
    pub(crate) run_id: String,
    /// When Lambda ends this invocation.
    pub(crate) deadline: DateTime<Utc>,
    /// Whether to refresh tokens that are not due, and rows marked `error`.
    pub(crate) force: bool,
    /// Skips rows that were refreshed at or after this time.
    pub(crate) unless_refreshed_since: Option<UnixTime>,
}

/// Refreshes integrations, one call of [`refresh`](Self::refresh) for each.
#[derive(Debug)]
pub(crate) struct Refresher {
    services: Arc<Services>,
    run: RunContext,
    /// The app credentials that the run started with, or has replaced since.
    apps: RwLock<Arc<Apps>>,
    /// The apps whose other secrets were tried in this run.
    tried_other_secrets: tokio::sync::Mutex<HashSet<String>>,
    retry_budget: RetryBudget,
    attempts: AtomicU64,
    statistics: Mutex<Statistics>,
}

/// What a run reports beside its outcomes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statistics {
    /// How long TikTok took.
    pub(crate) latency: Latency,
    /// Rows that still had the lease of an interrupted attempt.
    pub(crate) interrupted: u64,
    /// State changes that could not be published.
    pub(crate) unpublished: u64,
}

/// A row whose lease this attempt holds: the only thing that can call TikTok.
#[derive(Debug)]
struct Leased {
    attempt_id: String,
    row: Box<Integration>,
    sent: RefreshToken,
    /// The authorization that the token pair belongs to.
    generation: Generation,
    /// The app that the last call used.
    app_key: Option<String>,
    /// An earlier attempt was interrupted, so TikTok's response to it may have been lost.
    was_interrupted: bool,
}

/// A row whose refresh token TikTok rejected. It keeps its lease until the run knows enough of the app to
/// [mark](Refresher::mark) the row or to [leave it unmarked](Refresher::leave_unmarked).
#[derive(Debug)]
pub(crate) struct Rejected {
    leased: Leased,
    error: CallError,
}

/// How one integration's refresh ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It has an outcome.
    Done {
        report: Report,
        /// What the call says of the app; `None` if TikTok was not called.
        call: Option<CallOutcome>,
        /// The row as it is now, if it is known to hold a new token pair.
        stored: Option<Box<Candidate>>,
    },
    /// The outcome depends on what becomes known of the app.
    Rejected(Box<Rejected>),
}

impl Attempt {
    fn without_call(report: Report) -> Self {
        Self::Done { report, call: None, stored: None }
    }
}

impl Rejected {
    pub(crate) fn key(&self) -> &IntegrationKey {
        self.leased.key()
    }

    /// TikTok's answer, for a person.
    pub(crate) fn message(&self) -> String {
        self.error.to_string()
    }
}

impl Leased {
    fn key(&self) -> &IntegrationKey {
        &self.row.candidate.key
    }

    fn report(&self, outcome: Outcome) -> Report {
        Report::new(self.key().clone(), outcome).expiring(self.row.candidate.access_expires_at)
    }

    fn failure(&self, error: &CallError, now: DateTime<Utc>) -> updates::Failure {
        updates::Failure {
            code: error_code(error),
            message: error.to_string(),
            at: UnixTime::of(now),
            // Set, not added to: DynamoDB counts an addition twice when its response is lost and the SDK retries.
            consecutive_failures: self.row.consecutive_failures.saturating_add(1),
        }
    }
}

impl Refresher {
    pub(crate) fn new(services: Arc<Services>, run: RunContext, apps: Arc<Apps>) -> Self {
        Self {
            services,
            run,
            apps: RwLock::new(apps),
            tried_other_secrets: tokio::sync::Mutex::default(),
            retry_budget: RetryBudget::default(),
            attempts: AtomicU64::new(0),
            statistics: Mutex::default(),
        }
    }

    /// Refreshes one integration. Never cancel this future once it has started: between TikTok's response and the save it
    /// holds the only live token.
    pub(crate) async fn refresh(&self, candidate: &Candidate) -> Attempt {
        let Some(app) = self.app(candidate) else {
            return Attempt::without_call(unknown_app(candidate));
        };
        self.services.rate_limiter.until_ready(&app.app_key).await;
        if !self.has_time_for_a_call() {
            return Attempt::without_call(out_of_time(candidate));
        }
        let leased = match self.acquire(candidate).await {
            Ok(leased) => leased,
            Err(NotAcquired::Expired(row)) => return Attempt::without_call(self.mark_expired(*row).await),
            Err(NotAcquired::Skipped(report)) => return Attempt::without_call(*report),
        };
        // The row may name another app than the scan saw, and taking the lease takes time.
        let row = &leased.row.candidate;
        let app = match self.app(row) {
            None => Err(unknown_app(row)),
            Some(_) if !self.has_time_for_a_call() => Err(out_of_time(row)),
            Some(app) => Ok(app),
        };
        let app = match app {
            Ok(app) => app,
            Err(report) => {
                self.release(&leased).await;
                return Attempt::without_call(report);
            }
        };
        match self.call(leased, app).await {
            (leased, Ok(grant)) => self.save(leased, &grant).await,
            (leased, Err(error)) => self.settle(leased, error).await,
        }
    }

    /// The credentials for a row, if the secret holds the app that the row names.
    pub(crate) fn app(&self, row: &Candidate) -> Option<Arc<AppCredentials>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(row.app_key.as_deref()).cloned()
    }

    /// A copy of the statistics so far.
    pub(crate) fn statistics(&self) -> Statistics {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, record: impl FnOnce(&mut Statistics)) {
        record(&mut self.statistics.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn due_policy(&self) -> DuePolicy {
        DuePolicy {
            now: self.services.clock.now(),
            refresh_ahead: self.services.settings.refresh_ahead,
            force: self.run.force,
            unless_refreshed_since: self.run.unless_refreshed_since,
        }
    }

    async fn acquire(&self, candidate: &Candidate) -> Result<Leased, NotAcquired> {
        let key = &candidate.key;
        let attempt_id = format!("{}-{}", self.run.run_id, self.attempts.fetch_add(1, Ordering::Relaxed));
        let expires_at = UnixTime::of(self.run.deadline + CLOCK_SKEW);
        let lease = LeaseRequest { attempt_id: &attempt_id, expires_at };
        let report = |outcome| Report::new(key.clone(), outcome).expiring(candidate.access_expires_at);
        let report = match self.services.table.acquire(key, &self.due_policy(), lease).await {
            Ok(Acquired::Taken(row)) => match row.refresh_token.clone() {
                Some(sent) => {
                    let was_interrupted = self.was_interrupted(&row, candidate);
                    let generation = Generation::Known(row.authorization_id.clone());
                    return Ok(Leased { attempt_id, row, sent, generation, app_key: None, was_interrupted });
                }
                None => report(Outcome::CannotRefresh).because(MISSING.0, MISSING.1),
            },
            Ok(Acquired::Skipped(SkipReason::RefreshTokenExpired, row)) if row.status == Status::Active => {
                return Err(NotAcquired::Expired(row));
            }
            Ok(Acquired::Skipped(skip, row)) => skipped(&row, &skip, self.services.clock.now()),
            Ok(Acquired::Deleted) => report(Outcome::NotDue).because(DELETED.0, DELETED.1),
            Ok(Acquired::MalformedRow(malformed)) => {
                report(Outcome::Failed).because("malformed_row", malformed.to_string())
            }
            Err(error) => report(Outcome::Failed).because("store_error", error.to_string()),
        };
        Err(NotAcquired::Skipped(Box::new(report)))
    }

    /// Whether the row had an expired lease that was never released. The scan's copy counts too: when the SDK retries our own
    /// acquiring write, the row that comes back no longer shows the lease before it.
    fn was_interrupted(&self, row: &Integration, candidate: &Candidate) -> bool {
        let now = self.services.clock.now();
        let was_interrupted = [&row.candidate, candidate]
            .into_iter()
            .any(|row| row.lease.as_ref().is_some_and(|lease| lease.has_expired(now)));
        if was_interrupted {
            self.record(|statistics| statistics.interrupted += 1);
            warn!(
                "an earlier attempt to refresh this integration was interrupted: its lease expired unreleased"
            );
        }
        was_interrupted
    }

    /// Classifies a failed call. Notes it in the row and releases the lease; or lets the lease expire by itself when nobody
    /// knows what TikTok did.
    async fn settle(&self, leased: Leased, error: CallError) -> Attempt {
        let failure = leased.failure(&error, self.services.clock.now());
        let note = updates::note_failure(&leased.attempt_id, &failure);
        let outcome = match &error {
            CallError::Reauthorize { .. } => return Attempt::Rejected(Box::new(Rejected { leased, error })),
            CallError::Misconfigured { .. } => {
                // The fault is the app's, not the row's, so the row keeps no note of it.
                self.release(&leased).await;
                Outcome::Failed
            }
            CallError::Ambiguous { .. } => {
                self.tidy_up(&leased, note, "note the failure").await;
                Outcome::OutcomeUnknown
            }
            CallError::NotConnected { .. }
            | CallError::Busy { .. }
            | CallError::ServerError { .. }
            | CallError::Refused { .. } => {
                self.tidy_up(&leased, note.release(), "note the failure").await;
                Outcome::Failed
            }
        };
        let report =
            leased.report(outcome).because(error.reason(), error.to_string()).with_code(error.code());
        Attempt::Done { report, call: Some(error.call_outcome()), stored: None }
    }

    async fn release(&self, leased: &Leased) {
        self.tidy_up(leased, updates::release(&leased.attempt_id), "release the lease").await;
    }

    /// A write that only tidies up. If it fails the lease expires by itself, so logging the failure is enough.
    async fn tidy_up(&self, leased: &Leased, update: Update, purpose: &str) {
        match self.services.table.update(leased.key(), update).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!("could not {purpose}: another attempt holds the lease by now"),
            Err(error) => {
                error!("could not {purpose}, so the row stays locked until its lease expires: {error}");
            }
        }
    }
}

/// Why there is no lease.
enum NotAcquired {
    /// The refresh token has expired by its row, which the scan may not have seen.
    Expired(Box<Candidate>),
    Skipped(Box<Report>),
}

/// The row's `error_code`: TikTok's own code where there is one.
fn error_code(error: &CallError) -> String {
    error.code().map_or_else(|| error.reason().to_owned(), |code| code.to_string())
}
