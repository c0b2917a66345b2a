//! One integration's refresh: acquire, call, save, settle.
//!
//! Two promises: at most one live attempt for each integration, and no answer of TikTok's is ever dropped. The
//! types keep the order: only a leased row can call TikTok, and saving or settling consumes it.

mod call;
mod mark;
mod save;

pub use call::{Pace, RetryBudget};
pub(crate) use save::{with_pair, with_seller};

use crate::{
    aws::{
        dynamodb::{Acquired, Change, Claim, Store},
        eventbridge::EventBus,
        secrets_manager::Credentials,
        sqs::Queue,
    },
    domain::{
        circuit_breaker::Sign,
        clock::Clock,
        grant::Grant,
        integration::{Candidate, Integration, IntegrationKey, Lease, Rule, Skip, Status, UnixTime},
        latency::Latency,
        outcome::{DELETED, MISSING, Outcome, Report, out_of_time, skipped, unknown_app},
        secret::{AppCredentials, Apps, RefreshToken},
    },
    tiktok::{CallError, RateLimiter, TikTok},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::{error, warn};

/// How far the clocks of two workers may lie apart: a lease outlives its invocation by this.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// All that the refreshes of one run share.
#[derive(Debug)]
pub struct Refresher {
    /// The run's id, which is on each of its log lines.
    pub run_id: String,
    /// The table.
    pub store: Store,
    /// The provider.
    pub tiktok: TikTok,
    /// Where newer credentials come from, should TikTok refuse these.
    pub credentials: Arc<Credentials>,
    /// The apps, as the run found them or has learnt since.
    pub apps: RwLock<Arc<Apps>>,
    /// Toward TikTok, by app.
    pub limiter: Arc<RateLimiter>,
    /// The time.
    pub clock: Clock,
    /// When Lambda ends this invocation.
    pub deadline: DateTime<Utc>,
    /// `REFRESH_AHEAD`.
    pub refresh_ahead: TimeDelta,
    /// Whether an operator forces this run.
    pub force: bool,
    /// How long to wait for what.
    pub pace: Pace,
    /// The run's retries.
    pub budget: RetryBudget,
    /// How long TikTok took.
    pub latency: Mutex<Latency>,
    /// How many leases this run asked for: with its id, what tells them apart.
    pub attempts: AtomicU64,
    /// How many rows were found with the lease of an attempt that was cut off.
    pub cut_off: AtomicU64,
    /// The apps whose other credentials were tried in this run.
    pub others_tried: tokio::sync::Mutex<HashSet<String>>,
    /// Where a pair goes that the table would not take.
    pub queue: Option<Queue>,
    /// Where changes of state are published.
    pub bus: Option<EventBus>,
    /// How many changes of state could not be published.
    pub unpublished: AtomicU64,
    /// No forced refresh of a row that was refreshed at or after this moment.
    pub unless_refreshed_since: Option<UnixTime>,
}

/// A row that this attempt holds the lease of: the only thing that can call TikTok.
#[derive(Debug)]
struct Leased {
    attempt_id: String,
    row: Box<Integration>,
    sent: RefreshToken,
    /// An earlier attempt was cut off, so its answer may have been lost.
    cut_off_before: bool,
}

/// What TikTok answered to a leased row.
#[derive(Debug)]
enum Called {
    Granted(Leased, Grant),
    Refused(Leased, CallError),
}

/// A row whose seller must connect again. It keeps its lease until the run has seen enough of the app to
/// [mark](Refresher::mark) it or to [let it go](Refresher::spare).
#[derive(Debug)]
pub struct Rejected {
    leased: Leased,
    error: CallError,
}

/// How one integration's refresh ended.
#[derive(Debug)]
pub enum Attempt {
    /// For good.
    Done {
        /// What to tell.
        report: Report,
        /// What it says of the app, if TikTok was asked.
        sign: Option<Sign>,
        /// The row as it is now, if it is known to hold a new pair.
        stored: Option<Box<Candidate>>,
    },
    /// Up to a verdict on the app.
    Rejected(Box<Rejected>),
}

impl Attempt {
    fn without_call(report: Report) -> Self {
        Self::Done { report, sign: None, stored: None }
    }
}

impl Rejected {
    /// Which integration.
    pub fn key(&self) -> &IntegrationKey {
        self.leased.key()
    }

    /// What TikTok said, for a person.
    pub fn said(&self) -> String {
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

    /// A change that is this attempt's to make only while it holds the lease.
    fn change(&self) -> Change {
        Change::default().only_if("lock_owner", Some(&self.attempt_id))
    }

    /// A change that notes a failure. The count is set, not added to: an addition whose answer is lost counts twice.
    fn noting(&self, code: &str, message: &str, at: UnixTime) -> Change {
        self.change()
            .set_text("error_code", code)
            .set_text("error_message", message)
            .set_number("error_at", at.0)
            .set_number("consecutive_failures", self.row.consecutive_failures.saturating_add(1))
    }
}

impl Refresher {
    /// Refreshes one integration. Never cancel this once it has begun: between TikTok's answer and the save the
    /// only live token is in its hands.
    pub async fn refresh(&self, candidate: &Candidate) -> Attempt {
        let Some(app) = self.app(candidate) else {
            return Attempt::without_call(unknown_app(candidate));
        };
        self.limiter.until_ready(&app.app_key).await;
        if !self.has_time_for_a_call() {
            return Attempt::without_call(out_of_time(candidate));
        }
        let leased = match self.acquire(candidate).await {
            Ok(Ok(leased)) => leased,
            // The candidate may be a mere key, or old: the row itself says that it is to be marked.
            Ok(Err(expired)) => return Attempt::without_call(self.mark_expired(*expired).await),
            Err(report) => return Attempt::without_call(report),
        };
        // Since the scan the row may name another app, and taking the lease may have taken its time.
        let row = &leased.row.candidate;
        let app = match self.app(row) {
            None => Err(unknown_app(row)),
            Some(_) if !self.has_time_for_a_call() => Err(out_of_time(row)),
            Some(app) => Ok(app),
        };
        let app = match app {
            Ok(app) => app,
            Err(report) => {
                self.write(&leased, leased.change().release(), "release the lease").await;
                return Attempt::without_call(report);
            }
        };
        match self.call(leased, app).await {
            Called::Granted(leased, grant) => self.save(leased, &grant).await,
            Called::Refused(leased, error) => self.settle(leased, error).await,
        }
    }

    /// The credentials to use for a row, if the secret holds the app that it names.
    pub fn app(&self, row: &Candidate) -> Option<Arc<AppCredentials>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(row.app_key.as_deref()).cloned()
    }

    /// What decides now whether a row is taken.
    pub fn rule(&self) -> Rule {
        Rule {
            now: self.clock.now(),
            refresh_ahead: self.refresh_ahead,
            force: self.force,
            unless_refreshed_since: self.unless_refreshed_since,
        }
    }

    async fn acquire(&self, candidate: &Candidate) -> Result<Result<Leased, Box<Candidate>>, Report> {
        let attempt_id = format!("{}-{}", self.run_id, self.attempts.fetch_add(1, Ordering::Relaxed));
        let expires_at = UnixTime::of(self.deadline + CLOCK_SKEW);
        let key = &candidate.key;
        let report = |outcome| Report::new(key.clone(), outcome).expiring(candidate.access_expires_at);
        let claim = Claim { attempt_id: &attempt_id, expires_at };
        match self.store.acquire(key, &self.rule(), claim).await {
            Ok(Acquired::Taken(row)) => match row.refresh_token.clone() {
                Some(sent) => {
                    let ran_out = |lease: &Lease| lease.has_run_out(self.clock.now());
                    // What the scan saw helps where the answer of our own write was lost.
                    let cut_off_before = [&row.candidate, candidate]
                        .into_iter()
                        .any(|row| row.lease.as_ref().is_some_and(ran_out));
                    if cut_off_before {
                        self.cut_off.fetch_add(1, Ordering::Relaxed);
                        warn!(
                            run_id = self.run_id,
                            team_id = key.team_id.as_str(),
                            integration_id = key.integration_id.as_str(),
                            "an earlier attempt at this integration was cut off",
                        );
                    }
                    Ok(Ok(Leased { attempt_id, row, sent, cut_off_before }))
                }
                None => Err(report(Outcome::CannotRefresh).because(MISSING.0, MISSING.1)),
            },
            Ok(Acquired::Skipped(Skip::RefreshTokenExpired, row)) if row.status == Status::Active => {
                Ok(Err(row))
            }
            Ok(Acquired::Skipped(skip, row)) => Err(skipped(&row, &skip, self.clock.now())),
            Ok(Acquired::Deleted) => Err(report(Outcome::NotDue).because(DELETED.0, DELETED.1)),
            Ok(Acquired::Malformed(malformed)) => {
                Err(report(Outcome::Failed).because("malformed_row", malformed.to_string()))
            }
            Err(error) => Err(report(Outcome::Failed).because("store_error", error.to_string())),
        }
    }

    /// Classifies a refusal, notes it in the row and lets the lease go; or leaves the lease to run out, when
    /// nobody knows what TikTok did.
    async fn settle(&self, leased: Leased, error: CallError) -> Attempt {
        let sign = error.sign();
        let outcome = match &error {
            CallError::Reauthorize { .. } => return Attempt::Rejected(Box::new(Rejected { leased, error })),
            CallError::Misconfigured { .. } => {
                // The app's fault, not the row's: nothing is noted in it.
                self.write(&leased, leased.change().release(), "release the lease").await;
                Outcome::Failed
            }
            CallError::Ambiguous { .. } => {
                self.write(&leased, self.noted(&leased, &error), "note the failure").await;
                Outcome::OutcomeUnknown
            }
            CallError::NotConnected { .. }
            | CallError::Busy { .. }
            | CallError::ServerError { .. }
            | CallError::Refused { .. } => {
                self.write(&leased, self.noted(&leased, &error).release(), "note the failure").await;
                Outcome::Failed
            }
        };
        let report =
            leased.report(outcome).because(error.reason(), error.to_string()).with_code(error.code());
        Attempt::Done { report, sign: Some(sign), stored: None }
    }

    fn noted(&self, leased: &Leased, error: &CallError) -> Change {
        leased.noting(&error_code(error), &error.to_string(), UnixTime::of(self.clock.now()))
    }

    /// A write that only tidies up. If it fails the lease runs out by itself, so it is enough to say so.
    async fn write(&self, leased: &Leased, change: Change, to: &str) {
        let key = leased.key();
        match self.store.change(key, change).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!(
                run_id = self.run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "did not {to}: the lease is somebody else's by now",
            ),
            Err(error) => error!(
                run_id = self.run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "could not {to}, so the row stays locked until its lease runs out: {error}",
            ),
        }
    }
}

impl Leased {
    fn called(self, answer: Result<Grant, CallError>) -> Called {
        match answer {
            Ok(grant) => Called::Granted(self, grant),
            Err(error) => Called::Refused(self, error),
        }
    }
}

/// The row's `error_code`: TikTok's own where there is one.
fn error_code(error: &CallError) -> String {
    error.code().map_or_else(|| error.reason().to_owned(), |code| code.to_string())
}
