//! What is told of one integration: its outcome, a reason that programs can tell apart, and words for a person.

use crate::domain::integration::{Candidate, IntegrationKey, SkipReason, UnixTime};
use chrono::{DateTime, Utc};
use serde::Serialize;

/// How long a message may be, in characters.
const MAX_MESSAGE: usize = 300;

/// How an integration ended. The order is the answer's: what needs a person comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did not work this time; the next run tries again.
    Failed,
    /// TikTok may or may not have acted.
    OutcomeUnknown,
    /// The seller must connect again.
    CannotRefresh,
    /// Left for the next run: no time, or the app was stopped.
    Deferred,
    /// Left to the work queue.
    Queued,
    /// Another attempt is at it.
    Locked,
    /// A new pair is stored.
    Refreshed,
    /// A real run would refresh it.
    WouldRefresh,
    /// Nothing to do.
    NotDue,
}

impl Outcome {
    /// The name used in answers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::CannotRefresh => "cannot_refresh",
            Self::Deferred => "deferred",
            Self::Queued => "queued",
            Self::Locked => "locked",
            Self::Refreshed => "refreshed",
            Self::WouldRefresh => "would_refresh",
            Self::NotDue => "not_due",
        }
    }
}

/// How many integrations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All that were looked at.
    pub examined: u64,
    /// Those whose own facts, or an operator, called for a refresh.
    pub due: u64,
    /// A new pair is stored.
    pub refreshed: u64,
    /// A real run would refresh them.
    pub would_refresh: u64,
    /// Nothing to do.
    pub skipped_not_due: u64,
    /// Another attempt was at them.
    pub skipped_locked: u64,
    /// The seller must connect again.
    pub cannot_refresh: u64,
    /// Did not work this time.
    pub failed: u64,
    /// TikTok may or may not have acted.
    pub outcome_unknown: u64,
    /// Left for the next run.
    pub deferred: u64,
    /// Left to the work queue.
    pub queued: u64,
}

impl Counts {
    /// The count of an outcome.
    pub fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Failed => &mut self.failed,
            Outcome::OutcomeUnknown => &mut self.outcome_unknown,
            Outcome::CannotRefresh => &mut self.cannot_refresh,
            Outcome::Deferred => &mut self.deferred,
            Outcome::Queued => &mut self.queued,
            Outcome::Locked => &mut self.skipped_locked,
            Outcome::Refreshed => &mut self.refreshed,
            Outcome::WouldRefresh => &mut self.would_refresh,
            Outcome::NotDue => &mut self.skipped_not_due,
        }
    }
}

/// One integration in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, as a word that a program can tell apart.
    pub reason: Option<&'static str>,
    /// TikTok's code, where TikTok refused.
    pub tiktok_code: Option<i64>,
    /// Why, for a person.
    pub message: Option<String>,
    /// When the stored access token expires.
    pub access_token_expires_at: Option<UnixTime>,
}

impl Report {
    /// A report of nothing but the outcome.
    pub fn new(key: IntegrationKey, outcome: Outcome) -> Self {
        Self { key, outcome, reason: None, tiktok_code: None, message: None, access_token_expires_at: None }
    }

    /// Adds the reason and what a person should know of it, cut where it runs long.
    #[must_use]
    pub fn because(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        self.reason = Some(reason);
        self.message = Some(message.into().chars().take(MAX_MESSAGE).collect());
        self
    }

    /// Adds TikTok's code.
    #[must_use]
    pub fn with_code(mut self, code: Option<i64>) -> Self {
        self.tiktok_code = code;
        self
    }

    /// Adds the stored access token's expiry.
    #[must_use]
    pub fn expiring(mut self, at: Option<UnixTime>) -> Self {
        self.access_token_expires_at = at;
        self
    }
}

/// A reason and its words.
pub(crate) const EXPIRED: (&str, &str) =
    ("refresh_token_expired", "the refresh token has expired: the seller must connect again");
/// A reason and its words.
pub(crate) const MISSING: (&str, &str) =
    ("refresh_token_missing", "the row has no refresh token: the seller must connect again");
/// A reason and its words.
pub(crate) const DELETED: (&str, &str) = ("deleted", "the integration was deleted during the run");
/// A reason and its words.
pub(crate) const CHANGED: (&str, &str) =
    ("changed_meanwhile", "the row was changed by somebody else during the run, and is left as it is");

/// A reason and its message.
pub(crate) const MISMATCH: (&str, &str) = (
    "identity_mismatch",
    "TikTok answered with another seller's tokens; they are kept but must not be used: connect the seller again",
);

/// What to tell of a row that is left as it is.
pub fn skipped(row: &Candidate, skip: &SkipReason, now: DateTime<Utc>) -> Report {
    let report = |outcome| Report::new(row.key.clone(), outcome).expiring(row.access_expires_at);
    match skip {
        SkipReason::NotDue => report(Outcome::NotDue),
        SkipReason::UserStatus(status) => report(Outcome::NotDue)
            .because("status", format!("its status is {status:?}, which is the user's own")),
        SkipReason::Marked(status) => {
            let message = format!("it is marked {:?}: the seller must connect again", status.as_str());
            report(Outcome::CannotRefresh).because("marked", message)
        }
        SkipReason::RefreshTokenExpired => report(Outcome::CannotRefresh).because(EXPIRED.0, EXPIRED.1),
        SkipReason::RefreshTokenMissing => report(Outcome::CannotRefresh).because(MISSING.0, MISSING.1),
        SkipReason::Locked(lease) => {
            let seconds = lease.expires_at.seconds_from(now);
            let message = format!("another attempt is at it; its lease ends in {seconds} s at the latest");
            report(Outcome::Locked).because("leased", message)
        }
    }
}

/// What to tell of a row that names an app which the secret does not hold.
pub fn unknown_app(row: &Candidate) -> Report {
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
