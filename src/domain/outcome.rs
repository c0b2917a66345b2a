//! The outcome of one integration's refresh: a machine-readable reason and a message for people.

use crate::domain::due::SkipReason;
use crate::domain::duration::in_two_units;
use crate::domain::integration::{Candidate, IntegrationKey, Status, UnixTime};
use crate::domain::quoted::quoted;
use crate::domain::reason::Reason;
use chrono::{DateTime, Utc};
use serde::Serialize;
use strum::IntoStaticStr;

/// The maximum length of a message, in characters.
const MAX_MESSAGE: usize = 300;

/// How an integration's refresh ended. Variants are in the order of the response: those that need a person come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum Outcome {
    /// The refresh failed; the next run tries again.
    Failed,
    /// TikTok may or may not have redeemed the refresh token.
    OutcomeUnknown,
    /// The seller must connect again.
    CannotRefresh,
    /// The next run refreshes it: time ran out, the app's circuit breaker tripped, or the queue refused it.
    Deferred,
    /// It is in the work queue, or its new token pair is in the rescue queue.
    Queued,
    /// Another attempt holds the lease.
    Locked,
    /// A new token pair is stored.
    Refreshed,
    /// A run that is not a dry run would refresh it.
    WouldRefresh,
    /// There is nothing to do.
    NotDue,
}

impl Outcome {
    /// The name in responses and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The number of integrations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Every integration that the run read.
    pub examined: u64,
    /// Those for which a refresh was due or forced.
    pub due: u64,
    /// [`Outcome::Refreshed`].
    pub refreshed: u64,
    /// [`Outcome::WouldRefresh`].
    pub would_refresh: u64,
    /// [`Outcome::NotDue`].
    pub skipped_not_due: u64,
    /// [`Outcome::Locked`].
    pub skipped_locked: u64,
    /// [`Outcome::CannotRefresh`].
    pub cannot_refresh: u64,
    /// [`Outcome::Failed`].
    pub failed: u64,
    /// [`Outcome::OutcomeUnknown`].
    pub outcome_unknown: u64,
    /// [`Outcome::Deferred`].
    pub deferred: u64,
    /// [`Outcome::Queued`].
    pub queued: u64,
    /// The rows of `cannot_refresh` that this run marked. They are not part of the sum.
    pub newly_marked: u64,
}

impl Counts {
    /// The counter for an outcome.
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

/// One integration's entry in the response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The row's key.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// How the refresh ended.
    pub outcome: Outcome,
    /// The machine-readable reason.
    pub reason: Option<Reason>,
    /// TikTok's error code, if TikTok sent one.
    pub tiktok_code: Option<i64>,
    /// The reason, for people.
    pub message: Option<String>,
    /// The expiry of the stored access token, in Unix seconds.
    pub access_token_expires_at: Option<UnixTime>,
    /// The seller's name, if the row has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seller_name: Option<String>,
    /// Why an earlier run marked the row, if it did: the stored `error_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    /// Whether this run marked the row.
    #[serde(skip)]
    pub is_newly_marked: bool,
}

impl Report {
    /// A report without a reason.
    pub fn new(key: IntegrationKey, outcome: Outcome) -> Self {
        Self {
            key,
            outcome,
            reason: None,
            tiktok_code: None,
            message: None,
            access_token_expires_at: None,
            seller_name: None,
            error_reason: None,
            is_newly_marked: false,
        }
    }

    /// A report of a row.
    pub fn of(row: &Candidate, outcome: Outcome) -> Self {
        let seller_name = row.seller_name.clone();
        Self { seller_name, ..Self::new(row.key.clone(), outcome).expiring(row.access_expires_at) }
    }

    /// Sets the reason and the message, which is truncated to 300 characters.
    #[must_use]
    pub fn because(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.reason = Some(reason);
        self.message = Some(truncated(&message.into()));
        self
    }

    /// Sets TikTok's error code.
    #[must_use]
    pub fn with_code(mut self, code: Option<i64>) -> Self {
        self.tiktok_code = code;
        self
    }

    /// Sets the expiry of the stored access token.
    #[must_use]
    pub fn expiring(mut self, at: Option<UnixTime>) -> Self {
        self.access_token_expires_at = at;
        self
    }
}

/// A message of at most 300 characters.
pub(crate) fn truncated(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

/// The message for a row whose lease another attempt holds for this many more seconds.
pub(crate) fn leased(seconds: i64) -> String {
    format!(
        "another attempt holds the lease, which expires in {}",
        in_two_units(seconds.max(0).unsigned_abs())
    )
}

/// The message for a row without a refresh token.
pub(crate) const MISSING: &str = "the row has no refresh token: the seller must connect again";
/// The message for a row that was deleted during the run.
pub(crate) const DELETED: &str = "the integration was deleted during the run";
/// The message for a row that another writer changed during the run.
pub(crate) const CHANGED: &str = "another writer changed the row during the run; it is left as it is";
/// The message for a token pair of another seller.
pub(crate) const MISMATCH: &str = "TikTok returned another seller's token pair, which is saved but must not be used: the seller \
    must connect again";
/// The message for a row that is read leniently, and has no status.
pub(crate) const NO_STATUS: &str =
    "status is missing or has the wrong type, expected a string such as \"active\"";

/// The report for a row that is not refreshed.
pub fn skipped(row: &Candidate, skip: &SkipReason, now: DateTime<Utc>) -> Report {
    let report = |outcome| Report::of(row, outcome);
    match skip {
        SkipReason::NotDue => report(Outcome::NotDue),
        SkipReason::UserStatus(status) if status.is_empty() => {
            report(Outcome::Failed).because(Reason::MalformedRow, NO_STATUS)
        }
        SkipReason::UserStatus(status) => report(Outcome::NotDue).because(
            Reason::Status,
            format!("the row has the status {status:?}, which this function leaves alone"),
        ),
        SkipReason::Marked(status) => marked(row, status),
        SkipReason::RefreshTokenMissing => {
            report(Outcome::CannotRefresh).because(Reason::RefreshTokenMissing, MISSING)
        }
        SkipReason::Locked(lease) => {
            let seconds = lease.expires_at.seconds_from(now);
            report(Outcome::Locked).because(Reason::Leased, leased(seconds))
        }
        SkipReason::Changed => report(Outcome::NotDue).because(Reason::ChangedMeanwhile, CHANGED),
    }
}

/// The report for a row that an earlier run marked: with the stored reason and message.
pub fn marked(row: &Candidate, status: &Status) -> Report {
    let last = row.last_failure.clone().unwrap_or_default();
    let message = last
        .message
        .unwrap_or_else(|| format!("the row is marked {:?}: the seller must connect again", status.as_str()));
    let error_reason = last.reason.or(last.code);
    Report { error_reason, ..Report::of(row, Outcome::CannotRefresh).because(Reason::Marked, message) }
}

/// The report for a row whose app is not in the secret.
pub fn unknown_app(row: &Candidate) -> Report {
    let app_key = row.app_key.as_deref().unwrap_or_default();
    Report::of(row, Outcome::Failed)
        .because(Reason::UnknownAppKey, format!("the row's app_key {} is not in the secret", quoted(app_key)))
}

/// The report for a row that the invocation has no time to refresh.
pub fn out_of_time(row: &Candidate) -> Report {
    Report::of(row, Outcome::Deferred)
        .because(Reason::OutOfTime, "the invocation has no time left; the next run refreshes it first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_status_is_malformed_and_not_paused() {
        let row = Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: "7".into() }, None);
        let of = |status: &str| {
            let report = skipped(&row, &SkipReason::UserStatus(status.into()), DateTime::UNIX_EPOCH);
            (report.outcome, report.reason)
        };
        assert_eq!(of(""), (Outcome::Failed, Some(Reason::MalformedRow)));
        assert_eq!(of("paused"), (Outcome::NotDue, Some(Reason::Status)));
    }
}
