//! One row of the table: the states of its tokens, and whether a refresh is due. The current time and the settings are
//! parameters, as a [`DuePolicy`].
//!
//! The conditional write that acquires a lease states the same rule as a DynamoDB expression (`aws::dynamodb`). A property
//! test checks that both agree.

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

/// An access token that expires within this time counts as expired: it could expire during an API call.
pub const EXPIRED_WITHIN: TimeDelta = TimeDelta::minutes(5);
/// An access token that expires within this time counts as expiring soon.
pub const EXPIRING_SOON_WITHIN: TimeDelta = TimeDelta::minutes(30);
/// A refresh-token expiry at or before this Unix time (July 2017, before TikTok Shop existed) counts as unknown. Clients that
/// store a duration write 31536000.
const LAST_IMPLAUSIBLE_REFRESH_EXPIRY: i64 = 1_500_000_000;
/// An access-token expiry further ahead than this is implausible. TikTok grants 7 days; clients that add TikTok's absolute
/// expiry to the current time store dates decades ahead.
pub const PLAUSIBLE_AHEAD: TimeDelta = TimeDelta::days(30);

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

/// The parameters that decide whether a refresh is due.
#[derive(Clone, Copy, Debug)]
pub struct DuePolicy {
    /// The current time.
    pub now: DateTime<Utc>,
    /// `REFRESH_AHEAD`: how long before an access token expires its refresh is due.
    pub refresh_ahead: TimeDelta,
    /// Whether to refresh tokens that are not due, and rows marked `error`.
    pub force: bool,
    /// Skips rows that were refreshed at or after this time, because SQS may deliver the message of a forced run twice.
    pub unless_refreshed_since: Option<UnixTime>,
}

impl DuePolicy {
    /// The latest expiry that is due.
    pub fn due_until(&self) -> UnixTime {
        UnixTime::after(self.now, self.refresh_ahead)
    }

    /// Whether the expiry of an access token can be true: positive, and at most 30 days ahead.
    pub fn is_plausible(&self, at: UnixTime) -> bool {
        at.0 > 0 && at <= self.plausible_until()
    }

    /// The latest plausible expiry of an access token.
    pub fn plausible_until(&self) -> UnixTime {
        UnixTime::after(self.now, PLAUSIBLE_AHEAD)
    }
}

/// Why a refresh is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueReason {
    /// The access token expires within `REFRESH_AHEAD`, or has expired.
    Expiring,
    /// The stored expiry is missing, not positive, or more than 30 days ahead.
    ImplausibleExpiry,
    /// An operator forced the refresh.
    Forced,
    /// The row is marked because of a rejection under other credentials than those in use.
    CredentialsChanged,
}

impl DueReason {
    /// The `reason` in the response.
    pub fn reason(self) -> Reason {
        match self {
            Self::Expiring => Reason::AccessTokenExpiring,
            Self::ImplausibleExpiry => Reason::ExpiryNotBelieved,
            Self::Forced => Reason::Forced,
            Self::CredentialsChanged => Reason::CredentialsChanged,
        }
    }
}

/// Why a row is not refreshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The access token does not expire within `REFRESH_AHEAD`, or the row was refreshed since the run started.
    NotDue,
    /// The row has a status that this function does not define.
    UserStatus(String),
    /// The row is marked `error` or `expired`.
    Marked(Status),
    /// The row has no refresh token.
    RefreshTokenMissing,
    /// Another attempt holds the lease.
    Locked(Lease),
    /// The row no longer holds what the caller has read.
    Changed,
}

/// The state of an access token, by its stored expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessState {
    /// The expiry is missing or within 5 minutes.
    Expired,
    /// The token expires within 30 minutes.
    ExpiringSoon,
    /// The token expires later.
    Ok,
}

/// The state of an integration. Variants are in the order of the report: those that need a person come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// An attribute of the row is missing or has the wrong type, so the function cannot refresh it.
    Unreadable,
    /// The refresh token has expired, or the row is marked `error` or `expired`: the seller must connect again.
    CannotRefresh,
    /// The access token has expired.
    Expired,
    /// The access token expires within 30 minutes.
    ExpiringSoon,
    /// The access token expires within `REFRESH_AHEAD`, or its expiry is implausible.
    NeedsRefresh,
    /// None of the other states.
    Healthy,
    /// The status is the user's own, so the function leaves the row alone. This takes precedence over every other state of a
    /// row that can be read.
    Inactive,
}

impl Health {
    /// The name in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::CannotRefresh => "cannot_refresh",
            Self::Expired => "expired",
            Self::ExpiringSoon => "expiring_soon",
            Self::NeedsRefresh => "needs_refresh",
            Self::Healthy => "healthy",
            Self::Inactive => "inactive",
        }
    }
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

    /// The state of the access token. A token without an expiry counts as expired.
    pub fn access_state(&self, now: DateTime<Utc>) -> AccessState {
        match self.access_expires_at {
            None => AccessState::Expired,
            Some(at) if at.is_within(EXPIRED_WITHIN, now) => AccessState::Expired,
            Some(at) if at.is_within(EXPIRING_SOON_WITHIN, now) => AccessState::ExpiringSoon,
            Some(_) => AccessState::Ok,
        }
    }

    /// Whether the stored expiry of the access token is plausible: present, positive and at most 30 days ahead.
    pub fn has_plausible_expiry(&self, policy: &DuePolicy) -> bool {
        self.access_expires_at.is_some_and(|at| policy.is_plausible(at))
    }

    /// The refresh token's expiry. `None` if it is missing, or before TikTok Shop existed: such a number must not stop the
    /// refreshes of a healthy integration or cause a warning.
    pub fn known_refresh_expiry(&self) -> Option<UnixTime> {
        self.refresh_expires_at.filter(|at| at.0 > LAST_IMPLAUSIBLE_REFRESH_EXPIRY)
    }

    /// Whether the refresh token has a known expiry that has passed.
    pub fn refresh_token_expired(&self, now: DateTime<Utc>) -> bool {
        self.known_refresh_expiry().is_some_and(|at| at.has_passed(now))
    }

    /// Decides whether a refresh is due, regardless of leases. `in_use` is the fingerprint of the row's credentials. If the
    /// stored expiry of the refresh token has passed, a refresh may still be due: the seller may have renewed the token, and
    /// TikTok's answer decides.
    ///
    /// # Errors
    /// The first reason not to refresh the row.
    pub fn due(&self, policy: &DuePolicy, in_use: Option<&Fingerprint>) -> Result<DueReason, SkipReason> {
        match &self.status {
            Status::Active => {}
            Status::Error if in_use.is_some_and(|in_use| self.may_heal(in_use)) => {
                return Ok(DueReason::CredentialsChanged);
            }
            Status::Error if policy.force => {}
            Status::Error | Status::Expired => return Err(SkipReason::Marked(self.status.clone())),
            Status::Other(status) => return Err(SkipReason::UserStatus(status.clone())),
        }
        if !self.has_plausible_expiry(policy) {
            return Ok(DueReason::ImplausibleExpiry);
        }
        if self.access_expires_at.is_none_or(|at| at <= policy.due_until()) {
            return Ok(DueReason::Expiring);
        }
        if policy.force { Ok(DueReason::Forced) } else { Err(SkipReason::NotDue) }
    }

    /// Whether the row is marked because of a rejection under other credentials than those `in_use`. Such a mark no longer holds,
    /// so the row is tried again.
    pub fn may_heal(&self, in_use: &Fingerprint) -> bool {
        self.status == Status::Error
            && self
                .last_failure
                .as_ref()
                .is_some_and(|last| last.is_rejection() && last.rejected_by.as_ref() != Some(in_use))
    }

    /// The warning about the refresh token's expiry to publish now, if any.
    pub fn notice_due(&self, now: DateTime<Utc>) -> Option<Notice> {
        let expires_at = self.known_refresh_expiry()?;
        if self.status != Status::Active || self.refresh_token_expired(now) {
            return None;
        }
        let within = |days: &&i64| expires_at.is_within(TimeDelta::days(**days), now);
        let days = *NOTICE_DAYS.iter().find(within)?;
        let is_published = self.notice.is_some_and(|last| last.expires_at == expires_at && last.days <= days);
        (!is_published).then_some(Notice { days, expires_at })
    }

    /// The lease, if it has not expired at `now`.
    pub fn live_lease(&self, now: DateTime<Utc>) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| !lease.has_expired(now))
    }

    /// The integration's state.
    pub fn health(&self, policy: &DuePolicy) -> Health {
        if matches!(self.status, Status::Other(_)) {
            return Health::Inactive;
        }
        let marked = matches!(self.status, Status::Error | Status::Expired);
        if marked || self.refresh_token_expired(policy.now) {
            return Health::CannotRefresh;
        }
        match self.access_state(policy.now) {
            AccessState::Expired => Health::Expired,
            AccessState::ExpiringSoon => Health::ExpiringSoon,
            AccessState::Ok if !self.has_plausible_expiry(policy) => Health::NeedsRefresh,
            AccessState::Ok if self.access_expires_at.is_some_and(|at| at <= policy.due_until()) => {
                Health::NeedsRefresh
            }
            AccessState::Ok => Health::Healthy,
        }
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

    /// Decides whether an attempt may acquire the lease now: a refresh is due, the row has a refresh token, and no other
    /// attempt holds a lease.
    ///
    /// # Errors
    /// The first reason not to refresh the row.
    pub fn may_acquire(
        &self,
        policy: &DuePolicy,
        in_use: Option<&Fingerprint>,
    ) -> Result<DueReason, SkipReason> {
        let due = self.candidate.due(policy, in_use);
        // A missing access token counts as expired, whatever expiry is stored.
        let due = if due == Err(SkipReason::NotDue) && self.access_token.is_none() {
            Ok(DueReason::Expiring)
        } else {
            due
        };
        let due = due?;
        if let (Some(since), Some(at)) = (policy.unless_refreshed_since, self.last_refreshed_at)
            && at >= since
        {
            return Err(SkipReason::NotDue);
        }
        if self.refresh_token.is_none() {
            return Err(SkipReason::RefreshTokenMissing);
        }
        match self.candidate.live_lease(policy.now) {
            Some(lease) => Err(SkipReason::Locked(lease.clone())),
            None => Ok(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AHEAD: TimeDelta = TimeDelta::hours(48);

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap()
    }

    fn policy() -> DuePolicy {
        DuePolicy { now: now(), refresh_ahead: AHEAD, force: false, unless_refreshed_since: None }
    }

    fn forced() -> DuePolicy {
        DuePolicy { force: true, ..policy() }
    }

    fn row(access_in: TimeDelta) -> Candidate {
        Candidate {
            key: IntegrationKey { team_id: "1".into(), integration_id: "7".into() },
            status: Status::Active,
            app_key: None,
            access_expires_at: Some(UnixTime::of(now() + access_in)),
            refresh_expires_at: Some(UnixTime::of(now() + TimeDelta::days(300))),
            lease: None,
            ..Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: "7".into() }, None)
        }
    }

    fn with_status(status: Status) -> Candidate {
        Candidate { status, ..row(TimeDelta::hours(1)) }
    }

    #[test]
    fn an_access_token_at_a_threshold_is_in_the_worse_state() {
        let second = TimeDelta::seconds(1);
        let cases = [
            (TimeDelta::minutes(-90), AccessState::Expired),
            (EXPIRED_WITHIN, AccessState::Expired),
            (EXPIRED_WITHIN + second, AccessState::ExpiringSoon),
            (EXPIRING_SOON_WITHIN, AccessState::ExpiringSoon),
            (EXPIRING_SOON_WITHIN + second, AccessState::Ok),
        ];
        for (expires_in, state) in cases {
            assert_eq!(row(expires_in).access_state(now()), state, "expires in {expires_in}");
        }
    }

    #[test]
    fn a_token_is_due_until_the_last_second_of_the_window() {
        assert_eq!(row(AHEAD).due(&policy(), None), Ok(DueReason::Expiring));
        assert_eq!(row(AHEAD + TimeDelta::seconds(1)).due(&policy(), None), Err(SkipReason::NotDue));
        assert_eq!(row(TimeDelta::days(-9)).due(&policy(), None), Ok(DueReason::Expiring));
    }

    #[test]
    fn refresh_ahead_sets_the_window() {
        let narrow = DuePolicy { refresh_ahead: TimeDelta::minutes(5), ..policy() };
        assert_eq!(row(TimeDelta::minutes(5)).due(&narrow, None), Ok(DueReason::Expiring));
        assert_eq!(row(TimeDelta::minutes(6)).due(&narrow, None), Err(SkipReason::NotDue));
    }

    #[test]
    fn an_implausible_expiry_is_due() {
        let implausible = [
            None,
            Some(UnixTime(0)),
            Some(UnixTime(-5)),
            Some(UnixTime(i64::MAX)),
            Some(UnixTime::of(now() + PLAUSIBLE_AHEAD + TimeDelta::seconds(1))),
            Some(UnixTime(4_841_467_787)), // 2123, past u32
        ];
        for access_expires_at in implausible {
            let row = Candidate { access_expires_at, ..row(AHEAD) };
            assert_eq!(row.due(&policy(), None), Ok(DueReason::ImplausibleExpiry), "{access_expires_at:?}");
            assert!(row.health(&policy()) != Health::Healthy, "{access_expires_at:?}");
        }
        assert_eq!(row(PLAUSIBLE_AHEAD).due(&policy(), None), Err(SkipReason::NotDue));
    }

    #[test]
    fn an_expiry_stored_as_a_duration_has_expired() {
        let row = Candidate { access_expires_at: Some(UnixTime(604_800)), ..row(AHEAD) };
        assert_eq!(row.due(&policy(), None), Ok(DueReason::Expiring));
        assert_eq!(row.health(&policy()), Health::Expired);
    }

    #[test]
    fn a_refresh_token_expires_at_its_exact_second_which_may_be_after_2106() {
        let has_expired = |at| {
            let row = Candidate { refresh_expires_at: at, ..row(TimeDelta::hours(1)) };
            assert_eq!(row.due(&policy(), None), Ok(DueReason::Expiring), "TikTok's answer decides: {at:?}");
            row.refresh_token_expired(now())
        };
        assert!(has_expired(Some(UnixTime::of(now()))));
        assert!(!has_expired(Some(UnixTime::of(now() + TimeDelta::seconds(1)))));
        assert!(
            !has_expired(Some(UnixTime(4_841_467_787)))
                && !has_expired(None)
                && !has_expired(Some(UnixTime(0)))
        );
    }

    #[test]
    fn a_refresh_expiry_that_is_a_duration_is_unknown() {
        for (at, is_known) in [(31_536_000, false), (1_500_000_000, false), (1_500_000_001, true)] {
            let row = Candidate { refresh_expires_at: Some(UnixTime(at)), ..row(AHEAD) };
            assert_eq!(row.known_refresh_expiry().is_some(), is_known, "{at}");
            assert_eq!(row.refresh_token_expired(now()), is_known, "{at}");
        }
    }

    #[test]
    fn a_mark_holds_only_against_the_credentials_that_earned_it() {
        let in_use = Fingerprint("in use".into());
        let marked = |reason: Option<&str>, code: Option<&str>, rejected_by: Option<&str>| {
            let last_failure = Some(LastFailure {
                reason: reason.map(Into::into),
                code: code.map(Into::into),
                message: None,
                rejected_by: rejected_by.map(|text| Fingerprint(text.into())),
            });
            let row = Candidate { status: Status::Error, last_failure, ..row(TimeDelta::days(6)) };
            row.due(&policy(), Some(&in_use))
        };
        let (heals, stays) = (Ok(DueReason::CredentialsChanged), Err(SkipReason::Marked(Status::Error)));
        let cases = [
            (Some("reauthorize"), None, Some("others"), &heals),
            (Some("probably_lost_answer"), None, Some("others"), &heals),
            (Some("reauthorize"), None, Some("in use"), &stays),
            (Some("reauthorize"), None, None, &heals),
            (Some("identity_mismatch"), None, Some("others"), &stays),
            (Some("identity_mismatch"), Some("36004005"), None, &stays),
            (None, Some("36004001"), None, &heals),
            (None, Some("36004005"), Some("in use"), &stays),
            (None, Some("refresh_token_expired"), None, &heals),
            (None, Some("identity_mismatch"), None, &stays),
            (None, None, Some("others"), &stays),
        ];
        for (reason, code, rejected_by, expected) in cases {
            assert_eq!(&marked(reason, code, rejected_by), expected, "{reason:?} {code:?} {rejected_by:?}");
        }
        assert_eq!(with_status(Status::Error).due(&policy(), Some(&in_use)), stays, "the user's own mark");
    }

    #[test]
    fn force_adds_only_fresh_tokens_and_rows_marked_error() {
        assert_eq!(row(TimeDelta::days(6)).due(&forced(), None), Ok(DueReason::Forced));
        assert_eq!(with_status(Status::Error).due(&forced(), None), Ok(DueReason::Expiring));
        assert_eq!(with_status(Status::Error).due(&policy(), None), Err(SkipReason::Marked(Status::Error)));
        assert_eq!(
            with_status(Status::Expired).due(&forced(), None),
            Err(SkipReason::Marked(Status::Expired))
        );
        assert_eq!(
            with_status(Status::Other("paused".into())).due(&forced(), None),
            Err(SkipReason::UserStatus("paused".into()))
        );
    }

    #[test]
    fn health_is_the_first_state_that_applies() {
        let past = Some(UnixTime::of(now() - TimeDelta::days(1)));
        let cases = [
            (with_status(Status::Error), Health::CannotRefresh),
            (with_status(Status::Expired), Health::CannotRefresh),
            (Candidate { refresh_expires_at: past, ..row(TimeDelta::days(6)) }, Health::CannotRefresh),
            (row(TimeDelta::minutes(5)), Health::Expired),
            (row(TimeDelta::minutes(30)), Health::ExpiringSoon),
            (row(AHEAD), Health::NeedsRefresh),
            (row(TimeDelta::days(31)), Health::NeedsRefresh),
            (row(AHEAD + TimeDelta::seconds(1)), Health::Healthy),
        ];
        for (row, health) in cases {
            assert_eq!(row.health(&policy()), health, "{row:?}");
        }
    }

    #[test]
    fn each_of_the_four_expiry_warnings_is_published_once() {
        let expiring = |in_days: i64, published: Option<i64>| {
            let expires_at = UnixTime::of(now() + TimeDelta::days(in_days));
            let notice = published.map(|days| Notice { days, expires_at });
            let row = Candidate { refresh_expires_at: Some(expires_at), notice, ..row(AHEAD) };
            row.notice_due(now()).map(|notice| notice.days)
        };
        assert_eq!(expiring(31, None), None);
        assert_eq!(expiring(30, None), Some(30));
        assert_eq!(expiring(30, Some(30)), None);
        assert_eq!(expiring(14, Some(30)), Some(14));
        assert_eq!(expiring(3, Some(14)), Some(7));
        assert_eq!(expiring(3, Some(7)), None);
        assert_eq!(expiring(1, None), Some(1), "only the shortest period");
        assert_eq!(expiring(-1, None), None, "an expired token has another event");
        let expires_at = UnixTime::of(now() + TimeDelta::days(20));
        let earlier = Some(Notice { days: 1, expires_at: UnixTime::of(now()) });
        let renewed = Candidate { refresh_expires_at: Some(expires_at), notice: earlier, ..row(AHEAD) };
        assert_eq!(
            renewed.notice_due(now()),
            Some(Notice { days: 30, expires_at }),
            "the published warning is about another expiry"
        );
        assert_eq!(
            Notice::parse(&Notice { days: 7, expires_at }.to_text()),
            Some(Notice { days: 7, expires_at })
        );
    }

    #[test]
    fn a_lease_is_live_until_the_second_of_its_expiry() {
        let leased = |expires_at| {
            let lease = Lease { owner: "a".into(), expires_at: UnixTime::of(expires_at) };
            Candidate { lease: Some(lease), ..row(TimeDelta::hours(1)) }
        };
        assert!(leased(now() + TimeDelta::seconds(1)).live_lease(now()).is_some());
        assert!(leased(now()).live_lease(now()).is_none());
    }

    proptest! {
        #[test]
        fn the_decisions_about_any_row_are_consistent(
            access in proptest::option::of(any::<i64>()),
            refresh in proptest::option::of(any::<i64>()),
            status in "active|error|expired|paused",
            force: bool,
        ) {
            let row = Candidate {
                access_expires_at: access.map(UnixTime),
                refresh_expires_at: refresh.map(UnixTime),
                status: Status::parse(&status),
                ..row(AHEAD)
            };
            let policy = DuePolicy { force, ..policy() };
            let unforced = row.due(&DuePolicy { force: false, ..policy }, None);
            // Force only adds rows, and none whose status or refresh token forbids a refresh.
            if unforced.is_ok() {
                prop_assert!(row.due(&policy, None).is_ok());
            }
            if row.due(&policy, None).is_ok() {
                prop_assert!(matches!(row.status, Status::Active | Status::Error));
            }
            if row.health(&policy) == Health::Healthy {
                prop_assert!(unforced.is_err());
            }
        }
    }
}
