//! One row of the table, and what it says by itself. [`due`](crate::domain::due) decides whether a refresh is due.

use crate::domain::{
    blanks::without_blanks,
    reason::Reason,
    secret::{AccessToken, Fingerprint, RefreshToken},
    shop::Shop,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use tracing::{Span, error_span};

/// How much the clocks of two workers may differ. A lease ends this much later than its attempt.
pub const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// The table's primary key, which identifies an integration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntegrationKey {
    /// The partition key: the team that owns the integration.
    pub team_id: String,
    /// The sort key: the integration within its team.
    pub integration_id: String,
}

impl IntegrationKey {
    /// The span that adds both ids to each log line about this integration. Its level is `ERROR`, so that no log filter
    /// disables it.
    pub fn span(&self) -> Span {
        error_span!("integration", team_id = self.team_id, integration_id = self.integration_id)
    }
}

impl fmt::Display for IntegrationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "integration {} of team {}", self.integration_id, self.team_id)
    }
}

/// A Unix time in seconds. Any `i64` is valid: TikTok sends times past 2106, and broken clients store arbitrary numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// Converts a time, rounding down to the second.
    pub fn of(time: DateTime<Utc>) -> Self {
        Self(time.timestamp())
    }

    /// The time that is `span` after `time`, both in whole seconds. Saturates.
    pub fn after(time: DateTime<Utc>, span: TimeDelta) -> Self {
        Self(time.timestamp().saturating_add(span.num_seconds()))
    }

    /// Whether this time is at or before `time`.
    pub fn has_passed(self, time: DateTime<Utc>) -> bool {
        self <= Self::of(time)
    }

    /// Whether this time is in the past or at most `span` after `now`.
    pub fn is_within(self, span: TimeDelta, now: DateTime<Utc>) -> bool {
        self <= Self::after(now, span)
    }

    /// Seconds from `now` until this time; negative if it has passed.
    pub fn seconds_from(self, now: DateTime<Utc>) -> i64 {
        self.0.saturating_sub(now.timestamp())
    }
}

/// The row's `status` attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The integration is in use.
    Active,
    /// A refresh marked the row: the seller must connect again.
    Error,
    /// A clean-up marked the row: its refresh token has expired.
    Expired,
    /// A status that this function does not define. It leaves such rows alone.
    Other(String),
}

impl Status {
    /// Parses the stored text.
    pub fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "error" => Self::Error,
            "expired" => Self::Expired,
            other => Self::Other(other.into()),
        }
    }

    /// Whether the text is probably meant to be `active`: it differs only by case or blanks.
    pub fn is_nearly_active(&self) -> bool {
        matches!(self, Self::Other(text) if without_blanks(text).eq_ignore_ascii_case(Self::Active.as_str()))
    }

    /// The stored text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::Error => "error",
            Self::Expired => "expired",
            Self::Other(other) => other,
        }
    }
}

/// An attempt's exclusive, time-limited right to refresh a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The attempt's id, new for each acquired lease. Its last part is the time at which the lease was acquired.
    pub owner: String,
    /// When the lease expires, unless its owner releases it first.
    pub expires_at: UnixTime,
}

impl Lease {
    /// The owner of a lease that is acquired at `now`.
    pub fn new_owner(attempt: impl fmt::Display, now: UnixTime) -> String {
        format!("{attempt}@{}", now.0)
    }

    /// When the lease was acquired. `None` for leases of earlier versions, whose owner does not contain the time.
    pub fn acquired_at(&self) -> Option<UnixTime> {
        self.owner.rsplit_once('@')?.1.parse().ok().map(UnixTime)
    }

    /// Whether the lease has expired. Then its owner was interrupted.
    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.has_passed(now)
    }
}

/// A row as the scan reads it: every attribute that decides whether to refresh it, and no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The row's key.
    pub key: IntegrationKey,
    /// The row's status.
    pub status: Status,
    /// The app that the seller authorized; `None` means the default app.
    pub app_key: Option<String>,
    /// The stored expiry of the access token.
    pub access_expires_at: Option<UnixTime>,
    /// The stored expiry of the refresh token.
    pub refresh_expires_at: Option<UnixTime>,
    /// The stored lease, which may have expired.
    pub lease: Option<Lease>,
    /// The last published warning about the refresh token.
    pub notice: Option<Notice>,
    /// The seller's name, as TikTok last gave it.
    pub seller_name: Option<String>,
    /// The last failure, which a success removes.
    pub last_failure: Option<LastFailure>,
}

/// The last failure, as it is noted in the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastFailure {
    /// `error_reason`: as in responses. Rows of version 0.1 have none.
    pub reason: Option<String>,
    /// `error_code`: TikTok's code, or else the reason.
    pub code: Option<String>,
    /// `error_message`: for people.
    pub message: Option<String>,
    /// `rejected_by`: the credentials with which TikTok last rejected the refresh token.
    pub rejected_by: Option<Fingerprint>,
}

/// The `error_reason` of a rejected refresh token.
pub const REJECTIONS: [Reason; 2] = [Reason::Reauthorize, Reason::ProbablyLostAnswer];
/// The `error_code` of a rejected refresh token.
pub const REJECTION_CODES: [&str; 2] = ["36004001", "36004005"];
/// The `error_code` of rows that version 0.1 marked for a rejection, or for a stored expiry that had passed.
pub const REJECTIONS_OF_0_1: [&str; 3] = ["36004001", "36004005", "refresh_token_expired"];

impl LastFailure {
    /// Whether the row failed because TikTok rejected its refresh token.
    pub fn is_rejection(&self) -> bool {
        match (&self.reason, &self.code) {
            (Some(reason), _) => REJECTIONS.map(Reason::as_str).contains(&reason.as_str()),
            (None, Some(code)) => REJECTIONS_OF_0_1.contains(&code.as_str()),
            (None, None) => false,
        }
    }
}

/// How many days before a refresh token expires a warning is published, the shortest first.
pub const NOTICE_DAYS: [i64; 4] = [1, 7, 14, 30];

/// A warning that a refresh token expires within a number of days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// One of [`NOTICE_DAYS`].
    pub days: i64,
    /// The expiry that the warning is about. A new token has a new expiry, so its warnings start again.
    pub expires_at: UnixTime,
}

impl Notice {
    /// The text to store: `<expiry in Unix seconds>:<days>`.
    pub fn to_text(&self) -> String {
        format!("{}:{}", self.expires_at.0, self.days)
    }

    /// Parses the stored text.
    pub fn parse(text: &str) -> Option<Self> {
        let (expires_at, days) = text.split_once(':')?;
        Some(Self { days: days.parse().ok()?, expires_at: UnixTime(expires_at.parse().ok()?) })
    }
}

/// A whole row, including its tokens.
#[derive(Clone, Debug)]
pub struct Integration {
    /// The attributes that a scan reads.
    pub candidate: Candidate,
    /// The stored access token.
    pub access_token: Option<AccessToken>,
    /// The stored refresh token.
    pub refresh_token: Option<RefreshToken>,
    /// The seller's id for the app.
    pub open_id: Option<String>,
    /// The generation of the authorization: new with every connect and import. `None` if neither has written the row.
    pub authorization_id: Option<String>,
    /// How many attempts have failed since the last success.
    pub consecutive_failures: i64,
    /// When the tokens were last refreshed.
    pub last_refreshed_at: Option<UnixTime>,
    /// When the last failure was recorded.
    pub error_at: Option<UnixTime>,
    /// The shops that the authorization covers, as TikTok last listed them.
    pub authorized_shops: Vec<Shop>,
}

/// What an on-demand caller has read from an active row. Its attempt begins only if the row still holds these values. So it does
/// not refresh a token that another attempt has just refreshed, or has just failed to refresh.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The stored access token.
    pub access_token: Option<&'a AccessToken>,
    /// When the last failure was recorded.
    pub error_at: Option<UnixTime>,
}

impl Candidate {
    /// A candidate of which only the key and the app are known, from a work message. Acquiring the lease reads the row.
    pub fn of_key(key: IntegrationKey, app_key: Option<String>) -> Self {
        Self {
            key,
            status: Status::Active,
            app_key,
            access_expires_at: None,
            refresh_expires_at: None,
            lease: None,
            notice: None,
            seller_name: None,
            last_failure: None,
        }
    }

    /// The lease, if it has not expired at `now`.
    pub fn live_lease(&self, now: DateTime<Utc>) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| !lease.has_expired(now))
    }
}

impl Integration {
    /// Whether the stored refresh token is `token`.
    pub fn still_holds(&self, token: &RefreshToken) -> bool {
        self.refresh_token.as_ref().is_some_and(|stored| stored.is_same_as(token))
    }

    /// Whether the row holds this access token, or none if none is given.
    pub fn holds_access_token(&self, token: Option<&AccessToken>) -> bool {
        match (&self.access_token, token) {
            (Some(stored), Some(token)) => stored.is_same_as(token),
            (stored, token) => stored.is_none() && token.is_none(),
        }
    }

    /// The values that an on-demand caller must find unchanged.
    pub fn seen(&self) -> Seen<'_> {
        Seen { access_token: self.access_token.as_ref(), error_at: self.error_at }
    }

    /// Whether the row is active and still holds what an on-demand caller has read.
    pub fn is_as(&self, seen: Seen<'_>) -> bool {
        self.candidate.status == Status::Active
            && self.error_at == seen.error_at
            && self.access_token.as_ref().map(AccessToken::expose)
                == seen.access_token.map(AccessToken::expose)
    }
}
