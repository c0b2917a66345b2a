//! One integration's refresh: acquire, call, save, settle.
//!
//! Two promises: at most one live attempt for each integration, and no answer of TikTok's is ever dropped. The
//! types keep the order: only a [`Leased`] row can call TikTok, and saving or settling consumes it.

use crate::{
    answer::{Outcome, Report},
    breaker::Sign,
    clock::Clock,
    credentials::{Apps, Credentials},
    integration::{Candidate, Integration, IntegrationKey, Rule, Skip, Status, UnixTime},
    metrics::Latency,
    secret::{AccessToken, AppCredentials, RefreshToken},
    store::{Acquired, Change, Claim, Conflict, Store, StoreError},
    tiktok::{CallError, Grant, TikTok},
};
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, TimeDelta, Utc};
use governor::DefaultKeyedRateLimiter;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::{error, warn};
use uuid::Uuid;

/// How far the clocks of two workers may lie apart: a lease outlives its invocation by this.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);
/// How often a save looks at a changed row and writes again before it gives up.
const SAVE_ROUNDS: u32 = 10;

/// Calls in flight toward TikTok, by app.
pub type RateLimiter = DefaultKeyedRateLimiter<String>;

/// How long one refresh waits, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// One provider call: `TIKTOK_TIMEOUT`.
    pub call: Duration,
    /// Kept free at the invocation's end, so that an answer can be saved.
    pub save_reserve: Duration,
    /// Before the first retry of a call that TikTok cannot have acted on; then twice that, and so on.
    pub retry_after: Duration,
    /// At least this, and at most twice this, before asking again after an answer that was lost.
    pub ask_again_after: Duration,
    /// Before the first retry of a save.
    pub save_retry_after: Duration,
}

impl Pace {
    /// The usual pace, with a provider time-out of `call`.
    pub fn with_call(call: Duration) -> Self {
        Self {
            call,
            save_reserve: Duration::from_secs(5),
            retry_after: Duration::from_millis(500),
            ask_again_after: Duration::from_secs(1),
            save_retry_after: Duration::from_millis(50),
        }
    }
}

/// How many calls were made and repeated: at most a fifth are repeats, beyond the first few.
#[derive(Debug, Default)]
pub struct RetryBudget {
    calls: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    const ALWAYS: u64 = 10;

    fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry out of the budget, if there is one left.
    fn take(&self) -> bool {
        let allowed = Self::ALWAYS + self.calls.load(Ordering::Relaxed) / 5;
        let take = |spent| (spent < allowed).then_some(spent + 1);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

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
    /// The apps, as the run found them.
    pub apps: Arc<Apps>,
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
        /// What is stored now, if that is known to be new.
        stored: Option<Stored>,
    },
    /// Up to a verdict on the app.
    Rejected(Box<Rejected>),
}

/// The expiries of a pair that was stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Of the access token.
    pub access_expires_at: Option<UnixTime>,
    /// Of the refresh token.
    pub refresh_expires_at: Option<UnixTime>,
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

    /// Which app, as the row names it.
    pub fn app_key(&self) -> Option<&str> {
        self.leased.row.candidate.app_key.as_deref()
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
}

impl Refresher {
    /// Refreshes one integration. Never cancel this once it has begun: between TikTok's answer and the save the
    /// only live token is in its hands.
    pub async fn refresh(&self, candidate: Candidate) -> Attempt {
        let app_key = candidate.app_key.as_deref();
        let Some(app) = self.apps.get(app_key) else {
            return Attempt::without_call(unknown_app(&candidate));
        };
        self.limiter.until_key_ready(&app.app_key).await;
        if !self.has_time_for_a_call() {
            return Attempt::without_call(out_of_time(&candidate));
        }
        let leased = match self.acquire(&candidate).await {
            Ok(leased) => leased,
            Err(report) => return Attempt::without_call(report),
        };
        // The row may name another app since the scan.
        let Some(app) = self.apps.get(leased.row.candidate.app_key.as_deref()) else {
            self.write(&leased, leased.change().release(), "release the lease").await;
            return Attempt::without_call(unknown_app(&leased.row.candidate));
        };
        match self.call(leased, app).await {
            Called::Granted(leased, grant) => self.save(leased, grant).await,
            Called::Refused(leased, error) => self.settle(leased, error).await,
        }
    }

    /// Whether a call begun now could still be saved.
    pub fn has_time_for_a_call(&self) -> bool {
        let needed = self.pace.call + self.pace.save_reserve;
        self.deadline - self.clock.now() > TimeDelta::from_std(needed).unwrap_or(TimeDelta::MAX)
    }

    /// What decides now whether a row is taken.
    pub fn rule(&self) -> Rule {
        Rule { now: self.clock.now(), refresh_ahead: self.refresh_ahead, force: self.force }
    }

    async fn acquire(&self, candidate: &Candidate) -> Result<Leased, Report> {
        let attempt_id = Uuid::new_v4().to_string();
        let expires_at = UnixTime::of(self.deadline + CLOCK_SKEW);
        let key = &candidate.key;
        let report = |outcome| Report::new(key.clone(), outcome).expiring(candidate.access_expires_at);
        let claim = Claim { attempt_id: &attempt_id, expires_at };
        match self.store.acquire(key, &self.rule(), claim).await {
            Ok(Acquired::Taken(row)) => match row.refresh_token.clone() {
                Some(sent) => {
                    let cut_off_before = row.candidate.lease.is_some() || candidate.lease.is_some();
                    Ok(Leased { attempt_id, row, sent, cut_off_before })
                }
                None => Err(report(Outcome::CannotRefresh).because(MISSING.0, MISSING.1)),
            },
            Ok(Acquired::Skipped(skip)) => Err(skipped(candidate, &skip, self.clock.now())),
            Ok(Acquired::Deleted) => Err(report(Outcome::NotDue).because(DELETED.0, DELETED.1)),
            Ok(Acquired::Malformed(malformed)) => {
                Err(report(Outcome::Failed).because("malformed_row", malformed.to_string()))
            }
            Err(error) => Err(report(Outcome::Failed).because("store_error", error.to_string())),
        }
    }

    /// Asks TikTok: patiently while it cannot have acted, once more when an answer was lost, and with newer
    /// credentials when it refuses the app.
    async fn call(&self, leased: Leased, app: &AppCredentials) -> Called {
        let mut answer = self.ask(app, &leased).await;
        let newer = match &answer {
            Err(CallError::Misconfigured { .. }) => match self.credentials.after_refusal(app).await {
                Ok(newer) => newer,
                Err(error) => {
                    warn!(run_id = self.run_id, %error, "the app credentials could not be read again after TikTok refused them");
                    None
                }
            },
            _ => None,
        };
        if let Some(newer) = &newer {
            answer = self.ask(newer, &leased).await;
        }
        let Err(CallError::Ambiguous { .. }) = answer else { return leased.called(answer) };
        self.pause(self.pace.ask_again_after.mul_f64(1.0 + fastrand::f64())).await;
        if !self.has_time_for_a_call() {
            return leased.called(answer);
        }
        let key = leased.key();
        warn!(
            run_id = self.run_id,
            team_id = key.team_id,
            integration_id = key.integration_id,
            "TikTok's answer was lost, asking once more",
        );
        match self.ask_once(newer.as_ref().unwrap_or(app), &leased.sent).await {
            // A rejection now is what a lost answer to a single-use token looks like.
            Err(error @ CallError::Reauthorize { .. }) => {
                Leased { cut_off_before: true, ..leased }.called(Err(error))
            }
            Err(_) => leased.called(answer),
            Ok(grant) => leased.called(Ok(grant)),
        }
    }

    async fn ask(&self, app: &AppCredentials, leased: &Leased) -> Result<Grant, CallError> {
        let backoff = ExponentialBuilder::new().with_min_delay(self.pace.retry_after).with_max_times(2);
        (|| self.ask_once(app, &leased.sent))
            .retry(backoff)
            .when(|error| error.may_be_retried() && self.has_time_for_a_call() && self.budget.take())
            .adjust(|error, delay| {
                let wait = error.retry_after().or(delay.map(|delay| delay.mul_f64(fastrand::f64())))?;
                let time_left = self.deadline - self.clock.now();
                let needed = TimeDelta::from_std(wait + self.pace.call + self.pace.save_reserve).ok()?;
                (time_left > needed).then_some(wait)
            })
            .notify(|error, wait| {
                let key = leased.key();
                warn!(
                    run_id = self.run_id,
                    team_id = key.team_id,
                    integration_id = key.integration_id,
                    reason = error.reason(),
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    "asking TikTok again: {error}",
                );
            })
            .await
    }

    async fn ask_once(&self, app: &AppCredentials, sent: &RefreshToken) -> Result<Grant, CallError> {
        self.budget.called();
        let began = Instant::now();
        let answer = self.tiktok.refresh(app, sent).await;
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).saw(began.elapsed());
        answer
    }

    async fn pause(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }

    /// Saves a grant, before anything else looks at it.
    async fn save(&self, leased: Leased, grant: Grant) -> Attempt {
        let mut seen = leased.row.clone();
        for _ in 0..SAVE_ROUNDS {
            let change = saving(&grant, &leased, &seen, self.clock.now());
            match self.write_until_the_end(leased.key(), change).await {
                Err(error) => {
                    let message = format!("TikTok's new pair could not be saved: {error}");
                    return granted(leased.report(Outcome::Failed).because("not_saved", message), None);
                }
                Ok(Ok(())) => return saved(&leased, &grant),
                Ok(Err(Conflict::Deleted)) => {
                    let message = "the integration was deleted while its token was being refreshed";
                    return granted(leased.report(Outcome::Failed).because("deleted", message), None);
                }
                Ok(Err(Conflict::Changed(stored))) => match judge(&stored, &leased, &grant, &self.rule()) {
                    Judgement::OursIsStored => return saved(&leased, &grant),
                    Judgement::TheirsIsLater => return superseded(&leased, &stored),
                    Judgement::WriteAgain => seen = stored,
                },
            }
        }
        let message = "the row changed again and again while TikTok's new pair was being saved";
        granted(leased.report(Outcome::Failed).because("not_saved", message), None)
    }

    /// Writes a change, again and again until the invocation's last second: a token in hand has nothing to lose.
    async fn write_until_the_end(
        &self,
        key: &IntegrationKey,
        change: Change,
    ) -> Result<Result<(), Conflict>, StoreError> {
        let backoff = ExponentialBuilder::new()
            .with_min_delay(self.pace.save_retry_after)
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        let last_second = self.deadline - TimeDelta::seconds(1);
        (|| self.store.change(key, change.clone()))
            .retry(backoff)
            .when(|_| self.clock.now() < last_second)
            .notify(|error, _| {
                warn!(
                    run_id = self.run_id,
                    team_id = key.team_id,
                    integration_id = key.integration_id,
                    "TikTok's new pair is not saved yet, trying again: {error}",
                );
            })
            .await
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

    /// Marks a rejected row as `error`, if it still holds the token that was rejected.
    pub async fn mark(&self, rejected: Rejected) -> Report {
        let Rejected { leased, error } = rejected;
        let (reason, message) = if leased.cut_off_before {
            let why = "probably a lost answer: an earlier attempt was cut off after TikTok may have acted";
            ("probably_lost_answer", format!("{error}; {why}"))
        } else {
            (error.reason(), error.to_string())
        };
        let report = leased.report(Outcome::CannotRefresh).because(reason, &message).with_code(error.code());
        let change = self
            .noted_as(&leased, &error_code(&error), &message)
            .set_text("status", Status::Error.as_str())
            .release()
            .only_if("refresh_token", Some(leased.sent.expose()))
            .only_if("status", Some(leased.row.candidate.status.as_str()));
        match self.store.change(leased.key(), change).await {
            Ok(Ok(())) => report,
            Ok(Err(Conflict::Deleted)) => leased.report(Outcome::NotDue).because(DELETED.0, DELETED.1),
            // Our own mark, whose answer was lost.
            Ok(Err(Conflict::Changed(row)))
                if row.candidate.status == Status::Error && row.still_holds(&leased.sent) =>
            {
                report
            }
            Ok(Err(Conflict::Changed(row))) => {
                self.write(&leased, leased.change().release(), "release the lease").await;
                leased
                    .report(Outcome::NotDue)
                    .because(CHANGED.0, CHANGED.1)
                    .expiring(row.candidate.access_expires_at)
            }
            Err(error) => leased
                .report(Outcome::Failed)
                .because("store_error", format!("{message}; not marked: {error}")),
        }
    }

    /// Lets a rejected row go unmarked: the app is under suspicion, not the seller.
    pub async fn spare(&self, rejected: Rejected) -> Report {
        let Rejected { leased, error } = rejected;
        self.write(&leased, leased.change().release(), "release the lease").await;
        let message = format!("{error}; not marked, as the app itself is under suspicion");
        leased.report(Outcome::Failed).because("app_under_suspicion", message).with_code(error.code())
    }

    /// Marks a row whose refresh token's expiry has passed, unless it has changed since the scan.
    pub async fn mark_expired(&self, candidate: Candidate) -> Report {
        let now = self.clock.now();
        if let Some(lease) = candidate.live_lease(now) {
            return skipped(&candidate, &Skip::Locked(lease.clone()), now);
        }
        let report = skipped(&candidate, &Skip::RefreshTokenExpired, now);
        let change = Change::default()
            .set_text("status", Status::Error.as_str())
            .set_text("error_code", EXPIRED.0)
            .set_text("error_message", EXPIRED.1)
            .set_number("error_at", now.timestamp())
            .release()
            .only_if("status", Some(candidate.status.as_str()))
            .only_if_time("refresh_token_expires_at", candidate.refresh_expires_at)
            .only_if("lock_owner", candidate.lease.as_ref().map(|lease| lease.owner.as_str()));
        match self.store.change(&candidate.key, change).await {
            Ok(Ok(())) => report,
            Ok(Err(Conflict::Deleted)) => {
                Report::new(candidate.key, Outcome::NotDue).because(DELETED.0, DELETED.1)
            }
            Ok(Err(Conflict::Changed(row))) => match row.may_be_taken(&self.rule()) {
                Err(skip) => skipped(&row.candidate, &skip, now),
                Ok(_) => Report::new(candidate.key, Outcome::NotDue)
                    .because(CHANGED.0, CHANGED.1)
                    .expiring(row.candidate.access_expires_at),
            },
            Err(error) => Report::new(candidate.key, Outcome::Failed)
                .because("store_error", format!("{}; not marked: {error}", EXPIRED.1)),
        }
    }

    /// A change that notes a failure. The count is set, not added to: an addition whose answer is lost counts twice.
    fn noted(&self, leased: &Leased, error: &CallError) -> Change {
        self.noted_as(leased, &error_code(error), &error.to_string())
    }

    fn noted_as(&self, leased: &Leased, code: &str, message: &str) -> Change {
        leased
            .change()
            .set_text("error_code", code)
            .set_text("error_message", message)
            .set_number("error_at", self.clock.now().timestamp())
            .set_number("consecutive_failures", leased.row.consecutive_failures.saturating_add(1))
    }

    /// A write that only tidies up. If it fails the lease runs out by itself, so it is enough to say so.
    async fn write(&self, leased: &Leased, change: Change, to: &str) {
        let key = leased.key();
        match self.store.change(key, change).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!(
                run_id = self.run_id,
                team_id = key.team_id,
                integration_id = key.integration_id,
                "did not {to}: the lease is somebody else's by now",
            ),
            Err(error) => error!(
                run_id = self.run_id,
                team_id = key.team_id,
                integration_id = key.integration_id,
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

/// Which pair a row must keep.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    OursIsStored,
    TheirsIsLater,
    WriteAgain,
}

/// Decides between the pair in hand and a row that changed in mid-flight. TikTok's live pair is its last
/// redemption, and the absolute expiry is the fencing number: the pair that expires later stays, and a stored
/// expiry that is not to be believed loses.
fn judge(stored: &Integration, leased: &Leased, grant: &Grant, rule: &Rule) -> Judgement {
    let new_refresh_token = grant.refresh_token.as_ref().unwrap_or(&leased.sent);
    let stored_access = |token: Option<&AccessToken>| match (&stored.access_token, token) {
        (Some(stored), Some(token)) => stored.is_same_as(token),
        (stored, token) => stored.is_none() && token.is_none(),
    };
    if stored.still_holds(new_refresh_token) && stored_access(Some(&grant.access_token)) {
        return Judgement::OursIsStored;
    }
    let rotated = !new_refresh_token.is_same_as(&leased.sent);
    if stored.still_holds(&leased.sent) && (rotated || stored_access(leased.row.access_token.as_ref())) {
        // The pair is as it was, something beside it changed.
        return Judgement::WriteAgain;
    }
    let theirs = stored.candidate.access_expires_at.filter(|_| stored.candidate.expiry_is_believed(rule));
    if theirs.is_some() && theirs >= grant.access_expires_at {
        Judgement::TheirsIsLater
    } else {
        Judgement::WriteAgain
    }
}

/// The change that stores a grant over the row as it was `seen`: four credential attributes, what TikTok said of
/// the seller, lease and error away, nothing else.
fn saving(grant: &Grant, leased: &Leased, seen: &Integration, now: DateTime<Utc>) -> Change {
    let kept_token = grant.refresh_token.as_ref().is_none_or(|token| seen.still_holds(token));
    let mut change = Change::default()
        .set_text("access_token", grant.access_token.expose())
        .set_number("last_refreshed_at", now.timestamp())
        .only_if("refresh_token", seen.refresh_token.as_ref().map(RefreshToken::expose))
        .release();
    if kept_token {
        // The refresh token cannot tell then whether another pair was stored, the access token can.
        change = change.only_if("access_token", seen.access_token.as_ref().map(AccessToken::expose));
    }
    change = match grant.access_expires_at {
        Some(at) => change.set_number("access_token_expires_at", at.0),
        None => change.remove(&["access_token_expires_at"]),
    };
    if let Some(token) = &grant.refresh_token {
        change = change.set_text("refresh_token", token.expose());
    }
    if let Some(at) = grant.refresh_expires_at {
        change = change.set_number("refresh_token_expires_at", at.0);
    }
    let status = seen.candidate.status.as_str();
    if is_another_seller(grant, leased) {
        return change
            .set_text("status", Status::Error.as_str())
            .set_text("error_code", MISMATCH.0)
            .set_text("error_message", MISMATCH.1)
            .set_number("error_at", now.timestamp())
            .only_if("status", Some(status));
    }
    if let Some(open_id) = &grant.seller.open_id {
        change = change.set_text("open_id", open_id);
    }
    if let Some(name) = &grant.seller.name {
        change = change.set_text("seller_name", name);
    }
    if let Some(region) = &grant.seller.base_region {
        change = change.set_text("seller_base_region", region);
    }
    if let Some(scopes) = &grant.seller.granted_scopes {
        change = change.set_list("granted_scopes", scopes.iter().cloned());
    }
    if seen.candidate.status == Status::Error {
        change = change.set_text("status", Status::Active.as_str()).only_if("status", Some(status));
    }
    change.remove(&["error_code", "error_message", "error_at", "consecutive_failures"])
}

/// A pair that belongs to another seller than the row is kept, but must not be used: the row keeps its own seller,
/// so that the mismatch shows again at the next attempt.
fn is_another_seller(grant: &Grant, leased: &Leased) -> bool {
    matches!((&grant.seller.open_id, &leased.row.open_id), (Some(theirs), Some(ours)) if theirs != ours)
}

fn granted(report: Report, stored: Option<Stored>) -> Attempt {
    Attempt::Done { report, sign: Some(Sign::Granted), stored }
}

fn saved(leased: &Leased, grant: &Grant) -> Attempt {
    let report = if is_another_seller(grant, leased) {
        leased.report(Outcome::CannotRefresh).because(MISMATCH.0, MISMATCH.1)
    } else {
        leased.report(Outcome::Refreshed)
    };
    let stored = Stored {
        access_expires_at: grant.access_expires_at,
        refresh_expires_at: grant.refresh_expires_at.or(leased.row.candidate.refresh_expires_at),
    };
    granted(report.expiring(stored.access_expires_at), Some(stored))
}

fn superseded(leased: &Leased, stored: &Integration) -> Attempt {
    let message = "another pair, which expires later, was stored during the refresh; ours was dropped for it";
    let stored = Stored {
        access_expires_at: stored.candidate.access_expires_at,
        refresh_expires_at: stored.candidate.refresh_expires_at,
    };
    let report = leased.report(Outcome::Refreshed).because("superseded", message);
    granted(report.expiring(stored.access_expires_at), Some(stored))
}

const EXPIRED: (&str, &str) =
    ("refresh_token_expired", "the refresh token has expired: the seller must connect again");
const MISSING: (&str, &str) =
    ("refresh_token_missing", "the row has no refresh token: the seller must connect again");
const MISMATCH: (&str, &str) = (
    "identity_mismatch",
    "TikTok answered with another seller's tokens; they are kept but must not be used: connect the seller again",
);

const DELETED: (&str, &str) = ("deleted", "the integration was deleted during the run");
const CHANGED: (&str, &str) =
    ("changed_meanwhile", "the row was changed by somebody else during the run, and is left as it is");

/// The row's `error_code`: TikTok's own where there is one.
fn error_code(error: &CallError) -> String {
    error.code().map_or_else(|| error.reason().to_owned(), |code| code.to_string())
}

/// What to tell of a row that is left as it is.
pub fn skipped(row: &Candidate, skip: &Skip, now: DateTime<Utc>) -> Report {
    let report = |outcome| Report::new(row.key.clone(), outcome).expiring(row.access_expires_at);
    match skip {
        Skip::NotDue => report(Outcome::NotDue),
        Skip::UserStatus(status) => report(Outcome::NotDue)
            .because("status", format!("its status is {status:?}, which is the user's own")),
        Skip::Marked(status) => {
            let message = format!("it is marked {:?}: the seller must connect again", status.as_str());
            report(Outcome::CannotRefresh).because("marked", message)
        }
        Skip::RefreshTokenExpired => report(Outcome::CannotRefresh).because(EXPIRED.0, EXPIRED.1),
        Skip::RefreshTokenMissing => report(Outcome::CannotRefresh).because(MISSING.0, MISSING.1),
        Skip::Locked(lease) => {
            let seconds = lease.expires_at.seconds_from(now);
            let message = format!("another attempt is at it; its lease ends in {seconds} s at the latest");
            report(Outcome::Locked).because("leased", message)
        }
    }
}

fn unknown_app(row: &Candidate) -> Report {
    let app_key = row.app_key.as_deref().unwrap_or_default();
    Report::new(row.key.clone(), Outcome::Failed)
        .because(
            "unknown_app_key",
            format!("the secret has no app {app_key:?}, which the row's app_key names"),
        )
        .expiring(row.access_expires_at)
}

/// What to tell of a row that the invocation has no time left for.
pub fn out_of_time(row: &Candidate) -> Report {
    Report::new(row.key.clone(), Outcome::Deferred)
        .because("out_of_time", "the invocation's time runs out; the next run finds it first")
        .expiring(row.access_expires_at)
}
