//! What is told of one integration: its outcome, a reason that programs can tell apart, and words for a person.

use crate::integration::{Candidate, IntegrationKey, Skip, UnixTime};
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use std::io;

/// How many integrations an answer lists at most, and how many of one kind are kept in memory for it. The list and its JSON,
/// side by side at the end, are the peak of a usual run's memory.
pub(crate) const MAX_LISTED: usize = 4_000;
/// How many bytes of JSON the list may take. Lambda's limit on the whole answer is 6 MB.
pub(crate) const MAX_LISTED_BYTES: usize = 4_000_000;

/// How many bytes of an answer something takes in a list.
pub(crate) fn json_len(listed: &impl Serialize) -> usize {
    let mut len = Len(0);
    serde_json::to_writer(&mut len, listed).map_or(0, |()| len.0 + 1)
}

/// Counts what is written.
struct Len(usize);

impl io::Write for Len {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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

/// One integration in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// How it ended.
    pub outcome: Outcome,
    /// Boxed, as a run holds many reports and those of what went well have nothing to say here.
    #[serde(flatten, serialize_with = "reason_or_none")]
    why: Option<Box<Reason>>,
    /// When the stored access token expires.
    pub access_token_expires_at: Option<UnixTime>,
}

/// Why an integration ended as it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Why, as a word a program can tell apart.
    pub reason: Option<&'static str>,
    /// TikTok's code, where TikTok refused.
    pub tiktok_code: Option<i64>,
    /// Why, for a person.
    pub message: Option<String>,
}

const NO_REASON: Reason = Reason { reason: None, tiktok_code: None, message: None };

#[expect(clippy::ref_option, reason = "the form that serde calls")]
fn reason_or_none<S: Serializer>(why: &Option<Box<Reason>>, serializer: S) -> Result<S::Ok, S::Error> {
    why.as_deref().unwrap_or(&NO_REASON).serialize(serializer)
}

impl Report {
    /// A report of nothing but the outcome.
    pub fn new(key: IntegrationKey, outcome: Outcome) -> Self {
        Self { key, outcome, why: None, access_token_expires_at: None }
    }

    /// Why it ended so.
    pub fn why(&self) -> &Reason {
        self.why.as_deref().unwrap_or(&NO_REASON)
    }

    fn why_mut(&mut self) -> &mut Reason {
        self.why.get_or_insert_with(|| Box::new(NO_REASON))
    }

    /// Adds the reason and what a person should know of it, cut where it runs long.
    #[must_use]
    pub fn because(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        let why = self.why_mut();
        why.reason = Some(reason);
        why.message = Some(message.into().chars().take(MAX_MESSAGE).collect());
        self
    }

    /// Adds TikTok's code.
    #[must_use]
    pub fn with_code(mut self, code: Option<i64>) -> Self {
        if code.is_some() {
            self.why_mut().tiktok_code = code;
        }
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
