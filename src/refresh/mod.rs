//! One integration's refresh: acquire the lease, call TikTok, save the new token pair, settle a failure.
//!
//! Two guarantees: an integration has at most one live attempt, and no token pair is dropped while there is time to save it.
//! The types enforce the order: only a [`Leased`] row's refresh token is redeemed, and saving or settling consumes the row.

mod call;
mod mark;
mod save;

use crate::{
    aws::dynamodb::{Acquired, Conflict, InUse, LeaseRequest, TableError, Update, updates},
    domain::{
        circuit_breaker::CallOutcome,
        due::DuePolicy,
        integration::{CLOCK_SKEW, Candidate, Integration, IntegrationKey, Lease, Seen, Status, UnixTime},
        latency::Latency,
        message::Generation,
        outcome::{DELETED, MISSING, Outcome, Report, out_of_time, skipped, unknown_app},
        reason::Reason,
        secret::{AppCredentials, Apps, Fingerprint, RefreshToken},
    },
    services::Services,
    tiktok::CallError,
};
use call::RetryBudget;
pub(crate) use call::Verdict;
use chrono::{DateTime, Utc};
pub(crate) use mark::Rejected;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tracing::{error, warn};

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
    /// The app credentials with which the run starts.
    pub(crate) apps: Arc<Apps>,
}

impl RunContext {
    /// The fingerprint of the credentials in use for a row; `None` if the secret does not hold the row's app.
    pub(crate) fn in_use(&self, row: &Candidate) -> Option<Fingerprint> {
        self.apps.fingerprint(row.app_key.as_deref())
    }
}

/// Refreshes integrations, one call for each.
#[derive(Debug)]
pub(crate) struct Refresher {
    services: Arc<Services>,
    run: RunContext,
    /// The app credentials that the run started with, or has replaced since.
    apps: Arc<RwLock<Arc<Apps>>>,
    /// The apps whose other secrets were tried in this run.
    tried_other_secrets: Arc<tokio::sync::Mutex<HashSet<String>>>,
    retry_budget: RetryBudget,
    attempts: Arc<AtomicU64>,
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

/// A row whose lease this attempt holds: the only type whose refresh token is redeemed.
#[derive(Debug)]
struct Leased {
    attempt_id: String,
    row: Box<Integration>,
    sent: RefreshToken,
    /// The authorization that the token pair belongs to.
    generation: Generation,
    /// The credentials of the last call.
    app: Option<Arc<AppCredentials>>,
    /// An earlier attempt was interrupted, so TikTok's response to it may have been lost.
    was_interrupted: bool,
}

/// How one integration's refresh ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// It has an outcome.
    Done {
        report: Report,
        /// `None` if TikTok was not called.
        call: Option<Call>,
        /// The row as it is now, if it is known to hold a new token pair.
        stored: Option<Box<Candidate>>,
    },
    /// TikTok rejected the refresh token, which is noted in the row. Whether the row is marked depends on what is known of the
    /// app.
    Rejected(Rejected),
}

/// How one round of an integration's refresh ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every round ends the refresh")]
pub(crate) enum Round {
    Ended(Attempt),
    /// TikTok was busy in every try. The lease is released, and the row gets another round after this wait.
    Busy(Duration),
}

/// A call to TikTok, as the app's circuit breaker sees it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) app_key: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) outcome: CallOutcome,
}

impl Attempt {
    fn without_call(report: Report) -> Self {
        Self::Done { report, call: None, stored: None }
    }
}

impl Leased {
    fn key(&self) -> &IntegrationKey {
        &self.row.candidate.key
    }

    fn report(&self, outcome: Outcome) -> Report {
        Report::of(&self.row.candidate, outcome)
    }

    fn call(&self, outcome: CallOutcome) -> Option<Call> {
        let app = self.app.as_ref()?;
        Some(Call { app_key: app.app_key.clone(), fingerprint: app.fingerprint(), outcome })
    }

    fn failure(&self, error: &CallError, now: DateTime<Utc>) -> updates::Failure {
        updates::Failure {
            reason: error.reason(),
            code: error_code(error),
            message: error.to_string(),
            at: UnixTime::of(now),
            // Set, not added to: DynamoDB counts an addition twice when its response is lost and the SDK retries.
            consecutive_failures: self.row.consecutive_failures.saturating_add(1),
        }
    }
}

impl Refresher {
    pub(crate) fn new(services: Arc<Services>, run: RunContext) -> Self {
        Self {
            services,
            apps: Arc::new(RwLock::new(run.apps.clone())),
            run,
            tried_other_secrets: Arc::default(),
            retry_budget: RetryBudget::default(),
            attempts: Arc::default(),
            statistics: Mutex::default(),
        }
    }

    /// The same run's refresher for one attempt with a deadline of its own.
    pub(crate) fn for_attempt(&self, deadline: DateTime<Utc>) -> Self {
        Self {
            services: self.services.clone(),
            apps: self.apps.clone(),
            run: RunContext { deadline, ..self.run.clone() },
            tried_other_secrets: self.tried_other_secrets.clone(),
            retry_budget: RetryBudget::default(),
            attempts: self.attempts.clone(),
            statistics: Mutex::default(),
        }
    }

    /// Refreshes one active integration for an on-demand caller, if the row is still as the caller has read it. Never cancel
    /// this future once it has started: between TikTok's response and the save it holds the only live token.
    pub(crate) async fn refresh_if_unchanged(&self, row: &Integration) -> Attempt {
        match self.acquire_and_call(&row.candidate, Some(row.seen()), 1).await {
            Ok(attempt) => attempt,
            Err((leased, error)) => self.settle(*leased, error).await,
        }
    }

    /// Refreshes one integration in a run, which can come back to the row while TikTok is busy. `round` counts from 1. Never
    /// cancel this future, as above.
    pub(crate) async fn refresh_in_round(&self, candidate: &Candidate, round: u32) -> Round {
        let (leased, error) = match self.acquire_and_call(candidate, None, round).await {
            Ok(attempt) => return Round::Ended(attempt),
            Err(failed) => failed,
        };
        if let Some(wait) = self.wait_for_next_round(&error, round)
            && self.release(&leased).await
        {
            return Round::Busy(wait);
        }
        Round::Ended(self.settle(*leased, error).await)
    }

    /// Returns the row and the error if TikTok was called without a grant: what then becomes of the lease is the caller's.
    async fn acquire_and_call(
        &self,
        candidate: &Candidate,
        seen: Option<Seen<'_>>,
        round: u32,
    ) -> Result<Attempt, (Box<Leased>, CallError)> {
        let Some(app) = self.app(candidate) else {
            return Ok(Attempt::without_call(unknown_app(candidate)));
        };
        self.services.rate_limiter.until_ready(&app.app_key).await;
        if !self.has_time_for_a_call() {
            return Ok(Attempt::without_call(out_of_time(candidate)));
        }
        let leased = match self.acquire(candidate, seen, round).await {
            Ok(leased) => leased,
            Err(report) => return Ok(Attempt::without_call(*report)),
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
                return Ok(Attempt::without_call(report));
            }
        };
        match self.call(leased, app).await {
            (leased, Ok(grant)) => Ok(self.save(leased, &grant).await),
            // TikTok has not got this request, and there is no time for another.
            (leased, Err(CallError::NotConnected { .. })) if !self.has_time_for_a_call() => {
                self.release(&leased).await;
                Ok(Attempt::without_call(out_of_time(&leased.row.candidate)))
            }
            (leased, Err(error)) => Err((Box::new(leased), error)),
        }
    }

    /// The credentials for a row, if the secret holds the app that the row names.
    pub(crate) fn app(&self, row: &Candidate) -> Option<Arc<AppCredentials>> {
        self.app_by_key(row.app_key.as_deref())
    }

    /// The credentials in use for an app.
    pub(crate) fn app_by_key(&self, app_key: Option<&str>) -> Option<Arc<AppCredentials>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app_key).cloned()
    }

    /// The fingerprint of the credentials that the run started with for a row; `None` if the secret does not hold its app.
    pub(crate) fn in_use(&self, row: &Candidate) -> Option<Fingerprint> {
        self.run.in_use(row)
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

    async fn acquire(
        &self,
        candidate: &Candidate,
        seen: Option<Seen<'_>>,
        round: u32,
    ) -> Result<Leased, Box<Report>> {
        let key = &candidate.key;
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let acquired_at = UnixTime::of(self.services.clock.now());
        let attempt_id = Lease::new_owner(format_args!("{}-{attempt}", self.run.run_id), acquired_at);
        let expires_at = UnixTime::of(self.run.deadline + CLOCK_SKEW);
        let fingerprint = self.in_use(candidate);
        let app_key = candidate.app_key.as_deref();
        let in_use = fingerprint.as_ref().map(|fingerprint| InUse { app_key, fingerprint });
        let lease = LeaseRequest { attempt_id: &attempt_id, expires_at, in_use, seen };
        let report = |outcome| Report::of(candidate, outcome);
        let policy = self.due_policy();
        let report = match self.in_time(self.services.table.acquire(key, &policy, lease)).await {
            Ok(Acquired::Leased(row)) => match row.refresh_token.clone() {
                Some(sent) => {
                    let was_interrupted = self.was_interrupted(&row, candidate, round);
                    let generation = Generation::Known(row.authorization_id.clone());
                    return Ok(Leased { attempt_id, row, sent, generation, app: None, was_interrupted });
                }
                None => report(Outcome::CannotRefresh).because(Reason::RefreshTokenMissing, MISSING),
            },
            Ok(Acquired::Skipped(skip, row)) => skipped(&row, &skip, self.services.clock.now()),
            Ok(Acquired::Deleted) => report(Outcome::NotDue).because(Reason::Deleted, DELETED),
            Ok(Acquired::MalformedRow(malformed)) => {
                report(Outcome::Failed).because(Reason::MalformedRow, malformed.to_string())
            }
            Err(error) => report(Outcome::Failed).because(Reason::StoreError, error.to_string()),
        };
        Err(Box::new(report))
    }

    /// Whether the row had an expired lease that was never released. The scan's copy counts too: when the SDK retries our own
    /// acquiring write, the row that comes back no longer shows the lease before it.
    fn was_interrupted(&self, row: &Integration, candidate: &Candidate, round: u32) -> bool {
        let now = self.services.clock.now();
        let was_interrupted = [&row.candidate, candidate]
            .into_iter()
            .any(|row| row.lease.as_ref().is_some_and(|lease| lease.has_expired(now)));
        if was_interrupted && round == 1 {
            self.record(|statistics| statistics.interrupted += 1);
            warn!(
                "an earlier attempt to refresh this integration was interrupted: its lease expired before it was released"
            );
        }
        was_interrupted
    }

    /// Classifies a failed call. Notes it in the row and releases the lease; or lets the lease expire by itself when nobody
    /// knows what TikTok did. In a marked row only a rejection replaces the note: last night's time-out must not hide why the
    /// row is marked.
    async fn settle(&self, leased: Leased, error: CallError) -> Attempt {
        if let CallError::Reauthorize { .. } = error {
            return self.note_rejection(leased, &error).await;
        }
        let is_marked = leased.row.candidate.status == Status::Error;
        let failure = leased.failure(&error, self.services.clock.now());
        let note = updates::note_failure(&leased.attempt_id, &failure);
        let outcome = match &error {
            CallError::Ambiguous { .. } => {
                if !is_marked {
                    self.tidy_up(&leased, note, "note the failure").await;
                }
                Outcome::OutcomeUnknown
            }
            // The fault is the app's, not the row's, so the row keeps no note of it.
            CallError::Misconfigured { .. } => {
                self.release(&leased).await;
                Outcome::Failed
            }
            CallError::NotConnected { .. }
            | CallError::Busy { .. }
            | CallError::ServerError { .. }
            | CallError::Refused { .. }
            | CallError::Reauthorize { .. } => {
                let note = if is_marked { updates::release(&leased.attempt_id) } else { note.release() };
                self.tidy_up(&leased, note, "note the failure").await;
                Outcome::Failed
            }
        };
        let report =
            leased.report(outcome).because(error.reason(), error.to_string()).with_code(error.code());
        Attempt::Done { report, call: leased.call(error.call_outcome()), stored: None }
    }

    /// Notes a rejection in the row at once and releases the lease: TikTok's clear answer must survive a crash, and nobody
    /// should wait for what becomes known of the app.
    async fn note_rejection(&self, leased: Leased, error: &CallError) -> Attempt {
        let mut failure = leased.failure(error, self.services.clock.now());
        let last = leased.row.candidate.last_failure.as_ref().and_then(|last| last.reason.as_deref());
        if leased.was_interrupted || last == Some(Reason::ProbablyLostAnswer.as_str()) {
            failure.reason = Reason::ProbablyLostAnswer;
            failure.message.push_str(
                "; probably a lost response: an earlier attempt was interrupted, perhaps after TikTok had acted",
            );
        }
        let report =
            leased.report(Outcome::Failed).because(failure.reason, &failure.message).with_code(error.code());
        let call = leased.call(CallOutcome::Rejected);
        let Some(app) = leased.app.clone() else { return Attempt::Done { report, call, stored: None } };
        let row_app = leased.row.candidate.app_key.as_deref();
        let rejected_by = self.run.apps.with(&app).fingerprint(row_app).unwrap_or_else(|| app.fingerprint());
        let note = updates::note_rejection(&leased.attempt_id, &failure, &rejected_by);
        let is_noted = match self.in_time(self.services.table.update(leased.key(), note)).await {
            Ok(Ok(())) => true,
            // Our own write, whose response was lost: it has released the lease, so the condition of the SDK's retry fails.
            Ok(Err(Conflict::Changed(row))) if row.error_at == Some(failure.at) => {
                row.candidate.last_failure.is_some_and(|last| last.rejected_by.as_ref() == Some(&rejected_by))
            }
            Ok(Err(_)) => {
                warn!("could not note the rejection: another attempt holds the lease by now");
                false
            }
            Err(error) => {
                error!(
                    "could not note the rejection, so the row stays locked until its lease expires: {error}"
                );
                false
            }
        };
        let was_marked = leased.row.candidate.status == Status::Error;
        if is_noted || was_marked {
            Attempt::Rejected(Rejected::new(leased, app, rejected_by, failure, error.code()))
        } else {
            // A mark needs the note.
            Attempt::Done { report, call, stored: None }
        }
    }

    async fn release(&self, leased: &Leased) -> bool {
        self.tidy_up(leased, updates::release(&leased.attempt_id), "release the lease").await
    }

    /// A write that only tidies up. If it fails the lease expires by itself, so logging the failure is enough. Returns whether
    /// the row is known to be free of this attempt's lease.
    async fn tidy_up(&self, leased: &Leased, update: Update, purpose: &str) -> bool {
        match self.in_time(self.services.table.update(leased.key(), update)).await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => {
                warn!("could not {purpose}: another attempt holds the lease by now");
                true
            }
            Err(error) => {
                error!("could not {purpose}, so the row stays locked until its lease expires: {error}");
                false
            }
        }
    }

    /// The response to a request to the table. One that hangs must not keep the run from its own response.
    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, TableError>>,
    ) -> Result<T, TableError> {
        let limit = self.services.time_for_a_request(self.run.deadline);
        // Boxed, as the futures of the callers would be too large otherwise.
        let response = tokio::time::timeout(limit, Box::pin(request)).await;
        let out_of_time = || TableError::NoResponse { cause: "the invocation's time runs out".into() };
        response.unwrap_or_else(|_| Err(out_of_time()))
    }
}

/// The row's `error_code`: TikTok's own code where there is one.
fn error_code(error: &CallError) -> String {
    error.code().map_or_else(|| error.reason().as_str().to_owned(), |code| code.to_string())
}
