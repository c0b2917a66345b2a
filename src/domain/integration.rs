//! One row of the table as this crate sees it: its token states, and whether it is due. Pure: the clock and the
//! settings come in as a [`DuePolicy`], a decision goes out.
//!
//! The conditional write that takes a lease states the same rule in DynamoDB's language (`store`); a property
//! test holds the two together.

use crate::domain::secret::{AccessToken, RefreshToken};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use tracing::{Span, error_span};

/// An access token that expires within this time counts as expired: it could die during a call.
pub const EXPIRED_WITHIN: TimeDelta = TimeDelta::minutes(5);
/// An access token that expires within this time counts as expiring soon.
pub const EXPIRING_SOON_WITHIN: TimeDelta = TimeDelta::minutes(30);
/// An access-token expiry further ahead than this is not believed: TikTok grants 7 days, and clients that add an
/// absolute time to "now" write dates decades away.
pub const PLAUSIBLE_AHEAD: TimeDelta = TimeDelta::days(30);

/// Which integration: the table's two keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntegrationKey {
    /// Partition key: whose integration it is.
    pub team_id: String,
    /// Sort key: which of the team's integrations.
    pub integration_id: String,
}

impl IntegrationKey {
    /// The span that puts the two ids on each log line of this integration. Of level `ERROR`, so that no log level drops it.
    pub fn span(&self) -> Span {
        error_span!("integration", team_id = self.team_id, integration_id = self.integration_id)
    }
}

impl fmt::Display for IntegrationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "integration {} of team {}", self.integration_id, self.team_id)
    }
}

/// A moment in Unix seconds. Any `i64`: TikTok sends years past 2106, broken clients write anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

impl UnixTime {
    /// The second in which `time` lies.
    pub fn of(time: DateTime<Utc>) -> Self {
        Self(time.timestamp())
    }

    /// The second that lies `span` after `time`, both by their whole seconds.
    pub fn after(time: DateTime<Utc>, span: TimeDelta) -> Self {
        Self(time.timestamp().saturating_add(span.num_seconds()))
    }

    /// Whether this moment is at or before `time`.
    pub fn has_passed(self, time: DateTime<Utc>) -> bool {
        self <= Self::of(time)
    }

    /// Whether this moment has passed by `now`, or is at most `span` ahead.
    pub fn is_within(self, span: TimeDelta, now: DateTime<Utc>) -> bool {
        self <= Self::after(now, span)
    }

    /// Seconds from `now` until this moment; negative when it has passed.
    pub fn seconds_from(self, now: DateTime<Utc>) -> i64 {
        self.0.saturating_sub(now.timestamp())
    }
}

/// The row's `status` attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// In use.
    Active,
    /// Marked by this function: the seller must connect again.
    Error,
    /// Marked by this function's clean-up: the refresh token has expired.
    Expired,
    /// Whatever the user wrote. Such rows are left alone.
    Other(String),
}

impl Status {
    /// The status that `text` names.
    pub fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "error" => Self::Error,
            "expired" => Self::Expired,
            other => Self::Other(other.into()),
        }
    }

    /// The text that the table holds.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::Error => "error",
            Self::Expired => "expired",
            Self::Other(other) => other,
        }
    }
}

/// One attempt's claim on a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The attempt's id, new for each acquire.
    pub owner: String,
    /// When the claim ends by itself.
    pub expires_at: UnixTime,
}

impl Lease {
    /// Whether the claim has ended by itself: its holder was cut off.
    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.has_passed(now)
    }
}

/// A row as the scan sees it: everything that decides, and no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which integration.
    pub key: IntegrationKey,
    /// The row's status.
    pub status: Status,
    /// Which app's credentials; none means the default app.
    pub app_key: Option<String>,
    /// When the access token expires, as stored.
    pub access_expires_at: Option<UnixTime>,
    /// When the refresh token expires, as stored.
    pub refresh_expires_at: Option<UnixTime>,
    /// The lease on the row, alive or not.
    pub lease: Option<Lease>,
    /// The last warning about the refresh token that was published.
    pub notice: Option<Notice>,
}

/// How many days before its expiry a refresh token is warned of, the nearest first.
pub const NOTICE_DAYS: [i64; 4] = [1, 7, 14, 30];

/// A warning that a refresh token expires within so many days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// One of [`NOTICE_DAYS`].
    pub days: i64,
    /// The expiry that was warned of.
    pub expires_at: UnixTime,
}

impl Notice {
    /// The text that the table holds.
    pub fn to_text(&self) -> String {
        format!("{}:{}", self.expires_at.0, self.days)
    }

    /// The notice that a text stands for.
    pub fn parse(text: &str) -> Option<Self> {
        let (expires_at, days) = text.split_once(':')?;
        Some(Self { days: days.parse().ok()?, expires_at: UnixTime(expires_at.parse().ok()?) })
    }
}

/// A whole row, tokens included.
#[derive(Clone, Debug)]
pub struct Integration {
    /// What the scan would see of it.
    pub candidate: Candidate,
    /// The stored access token.
    pub access_token: Option<AccessToken>,
    /// The stored refresh token.
    pub refresh_token: Option<RefreshToken>,
    /// The seller's id, as TikTok last gave it.
    pub open_id: Option<String>,
    /// How many attempts have failed since the last success.
    pub consecutive_failures: i64,
    /// When the tokens were last refreshed.
    pub last_refreshed_at: Option<UnixTime>,
    /// When the last failure was noted.
    pub error_at: Option<UnixTime>,
}

/// What decides whether a row is taken: the time, the window, and whether an operator forces it.
#[derive(Clone, Copy, Debug)]
pub struct DuePolicy {
    /// The current time.
    pub now: DateTime<Utc>,
    /// `REFRESH_AHEAD`: how long before its expiry a token is refreshed.
    pub refresh_ahead: TimeDelta,
    /// Takes tokens that are not due, and rows marked `error`.
    pub force: bool,
    /// But no row that was refreshed at or after this moment: the message of a forced run may be delivered twice.
    pub unless_refreshed_since: Option<UnixTime>,
}

impl DuePolicy {
    /// The last second of expiry that counts as due.
    pub fn due_until(&self) -> UnixTime {
        UnixTime::after(self.now, self.refresh_ahead)
    }

    /// The last second of expiry that is believed.
    pub fn plausible_until(&self) -> UnixTime {
        UnixTime::after(self.now, PLAUSIBLE_AHEAD)
    }
}

/// Why a row is to be refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueReason {
    /// The access token expires within `REFRESH_AHEAD`, or has expired.
    Expiring,
    /// The stored expiry is absent, zero or absurdly far ahead.
    ImplausibleExpiry,
    /// An operator said so.
    Forced,
}

impl DueReason {
    /// The `reason` of the answer.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expiring => "access_token_expiring",
            Self::ImplausibleExpiry => "expiry_not_believed",
            Self::Forced => "forced",
        }
    }
}

/// Why a row is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The access token lives long enough.
    NotDue,
    /// The user gave the row a status of their own.
    UserStatus(String),
    /// The row is marked `error` or `expired`.
    Marked(Status),
    /// The refresh token's expiry has passed.
    RefreshTokenExpired,
    /// There is no refresh token.
    RefreshTokenMissing,
    /// Another attempt holds the lease.
    Locked(Lease),
}

/// The state of an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessState {
    /// Missing, or expires within 5 minutes.
    Expired,
    /// Expires within 30 minutes.
    ExpiringSoon,
    /// Lives longer.
    Ok,
}

/// The state of an integration: the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The refresh token has expired, or the row is marked `error` or `expired`: the seller must connect again.
    CannotRefresh,
    /// The access token has expired.
    Expired,
    /// The access token expires within 30 minutes.
    ExpiringSoon,
    /// The access token expires within `REFRESH_AHEAD`, or its expiry is not believed.
    NeedsRefresh,
    /// None of these.
    Healthy,
}

impl Health {
    /// The name used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CannotRefresh => "cannot_refresh",
            Self::Expired => "expired",
            Self::ExpiringSoon => "expiring_soon",
            Self::NeedsRefresh => "needs_refresh",
            Self::Healthy => "healthy",
        }
    }
}

impl Candidate {
    /// An integration of which only the key is known; the row itself says the rest when its lease is taken.
    pub fn of_key(key: IntegrationKey, app_key: Option<String>) -> Self {
        Self {
            key,
            status: Status::Active,
            app_key,
            access_expires_at: None,
            refresh_expires_at: None,
            lease: None,
            notice: None,
        }
    }

    /// The access token's state, from its expiry. An expiry that is absent cannot vouch for a token.
    pub fn access_state(&self, now: DateTime<Utc>) -> AccessState {
        match self.access_expires_at {
            None => AccessState::Expired,
            Some(at) if at.is_within(EXPIRED_WITHIN, now) => AccessState::Expired,
            Some(at) if at.is_within(EXPIRING_SOON_WITHIN, now) => AccessState::ExpiringSoon,
            Some(_) => AccessState::Ok,
        }
    }

    /// Whether the stored expiry of the access token can be true: present, positive, at most 30 days ahead.
    pub fn has_plausible_expiry(&self, policy: &DuePolicy) -> bool {
        self.access_expires_at.is_some_and(|at| at.0 > 0 && at <= policy.plausible_until())
    }

    /// When the refresh token expires, if that is known. A stored number that is not positive says nothing, and TikTok is
    /// asked instead: a healthy integration must not be given up, nor its seller be warned, for a missing number.
    pub fn known_refresh_expiry(&self) -> Option<UnixTime> {
        self.refresh_expires_at.filter(|at| at.0 > 0)
    }

    /// Whether the refresh token is known to have expired.
    pub fn refresh_token_expired(&self, now: DateTime<Utc>) -> bool {
        self.known_refresh_expiry().is_some_and(|at| at.has_passed(now))
    }

    /// Whether the row's own facts, lease aside, call for a refresh.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn due(&self, policy: &DuePolicy) -> Result<DueReason, SkipReason> {
        match &self.status {
            Status::Active => {}
            Status::Error if policy.force => {}
            Status::Error | Status::Expired => return Err(SkipReason::Marked(self.status.clone())),
            Status::Other(status) => return Err(SkipReason::UserStatus(status.clone())),
        }
        if self.refresh_token_expired(policy.now) {
            return Err(SkipReason::RefreshTokenExpired);
        }
        if !self.has_plausible_expiry(policy) {
            return Ok(DueReason::ImplausibleExpiry);
        }
        if self.access_expires_at.is_none_or(|at| at <= policy.due_until()) {
            return Ok(DueReason::Expiring);
        }
        if policy.force { Ok(DueReason::Forced) } else { Err(SkipReason::NotDue) }
    }

    /// The warning that is due about the refresh token's expiry, if it was not published yet.
    pub fn notice_due(&self, now: DateTime<Utc>) -> Option<Notice> {
        let expires_at = self.known_refresh_expiry()?;
        if self.status != Status::Active || self.refresh_token_expired(now) {
            return None;
        }
        let within = |days: &&i64| expires_at.is_within(TimeDelta::days(**days), now);
        let days = *NOTICE_DAYS.iter().find(within)?;
        let told = self.notice.is_some_and(|told| told.expires_at == expires_at && told.days <= days);
        (!told).then_some(Notice { days, expires_at })
    }

    /// The lease that keeps others away at `now`, if there is one.
    pub fn live_lease(&self, now: DateTime<Utc>) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| !lease.has_expired(now))
    }

    /// The integration's state.
    pub fn health(&self, policy: &DuePolicy) -> Health {
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

    /// Whether an attempt may take this row now: due, with a refresh token, and nobody else at it.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn may_be_taken(&self, policy: &DuePolicy) -> Result<DueReason, SkipReason> {
        let due = self.candidate.due(policy);
        // A missing access token is an expired one, whatever expiry stands beside it.
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
            notice: None,
        }
    }

    fn with_status(status: Status) -> Candidate {
        Candidate { status, ..row(TimeDelta::hours(1)) }
    }

    #[test]
    fn the_access_token_borders_belong_to_the_worse_state() {
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
    fn a_token_is_due_up_to_the_last_second_of_the_window() {
        assert_eq!(row(AHEAD).due(&policy()), Ok(DueReason::Expiring));
        assert_eq!(row(AHEAD + TimeDelta::seconds(1)).due(&policy()), Err(SkipReason::NotDue));
        assert_eq!(row(TimeDelta::days(-9)).due(&policy()), Ok(DueReason::Expiring));
    }

    #[test]
    fn the_narrow_window_is_only_a_setting() {
        let narrow = DuePolicy { refresh_ahead: TimeDelta::minutes(5), ..policy() };
        assert_eq!(row(TimeDelta::minutes(5)).due(&narrow), Ok(DueReason::Expiring));
        assert_eq!(row(TimeDelta::minutes(6)).due(&narrow), Err(SkipReason::NotDue));
    }

    #[test]
    fn an_absurd_expiry_is_not_believed_and_counts_as_due() {
        let absurd = [
            None,
            Some(UnixTime(0)),
            Some(UnixTime(-5)),
            Some(UnixTime(i64::MAX)),
            Some(UnixTime::of(now() + PLAUSIBLE_AHEAD + TimeDelta::seconds(1))),
            Some(UnixTime(4_841_467_787)), // 2123, past u32
        ];
        for access_expires_at in absurd {
            let row = Candidate { access_expires_at, ..row(AHEAD) };
            assert_eq!(row.due(&policy()), Ok(DueReason::ImplausibleExpiry), "{access_expires_at:?}");
            assert!(row.health(&policy()) != Health::Healthy, "{access_expires_at:?}");
        }
        assert_eq!(row(PLAUSIBLE_AHEAD).due(&policy()), Err(SkipReason::NotDue));
    }

    #[test]
    fn a_stored_duration_is_a_moment_in_1970_and_so_expired() {
        let row = Candidate { access_expires_at: Some(UnixTime(604_800)), ..row(AHEAD) };
        assert_eq!(row.due(&policy()), Ok(DueReason::Expiring));
        assert_eq!(row.health(&policy()), Health::Expired);
    }

    #[test]
    fn a_refresh_token_expires_at_its_second_and_may_live_past_2106() {
        let expiring = |at| Candidate { refresh_expires_at: at, ..row(TimeDelta::hours(1)) };
        assert_eq!(expiring(Some(UnixTime::of(now()))).due(&policy()), Err(SkipReason::RefreshTokenExpired));
        assert_eq!(
            expiring(Some(UnixTime::of(now() + TimeDelta::seconds(1)))).due(&policy()),
            Ok(DueReason::Expiring)
        );
        assert_eq!(expiring(Some(UnixTime(4_841_467_787))).due(&policy()), Ok(DueReason::Expiring));
        assert_eq!(expiring(None).due(&policy()), Ok(DueReason::Expiring));
        assert_eq!(expiring(Some(UnixTime(0))).due(&policy()), Ok(DueReason::Expiring));
    }

    #[test]
    fn force_takes_fresh_tokens_and_rows_marked_error_and_no_others() {
        assert_eq!(row(TimeDelta::days(6)).due(&forced()), Ok(DueReason::Forced));
        assert_eq!(with_status(Status::Error).due(&forced()), Ok(DueReason::Expiring));
        assert_eq!(with_status(Status::Error).due(&policy()), Err(SkipReason::Marked(Status::Error)));
        assert_eq!(with_status(Status::Expired).due(&forced()), Err(SkipReason::Marked(Status::Expired)));
        assert_eq!(
            with_status(Status::Other("paused".into())).due(&forced()),
            Err(SkipReason::UserStatus("paused".into()))
        );
    }

    #[test]
    fn the_first_state_that_fits_is_the_integrations_state() {
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
    fn a_refresh_token_is_warned_of_once_at_each_of_four_borders() {
        let expiring = |in_days: i64, told: Option<i64>| {
            let expires_at = UnixTime::of(now() + TimeDelta::days(in_days));
            let notice = told.map(|days| Notice { days, expires_at });
            let row = Candidate { refresh_expires_at: Some(expires_at), notice, ..row(AHEAD) };
            row.notice_due(now()).map(|notice| notice.days)
        };
        assert_eq!(expiring(31, None), None);
        assert_eq!(expiring(30, None), Some(30));
        assert_eq!(expiring(30, Some(30)), None);
        assert_eq!(expiring(14, Some(30)), Some(14));
        assert_eq!(expiring(3, Some(14)), Some(7));
        assert_eq!(expiring(3, Some(7)), None);
        assert_eq!(expiring(1, None), Some(1), "the nearest border alone");
        assert_eq!(expiring(-1, None), None, "that is another event");
        let expires_at = UnixTime::of(now() + TimeDelta::days(20));
        let earlier = Some(Notice { days: 1, expires_at: UnixTime::of(now()) });
        let renewed = Candidate { refresh_expires_at: Some(expires_at), notice: earlier, ..row(AHEAD) };
        assert_eq!(
            renewed.notice_due(now()),
            Some(Notice { days: 30, expires_at }),
            "told of another expiry"
        );
        assert_eq!(
            Notice::parse(&Notice { days: 7, expires_at }.to_text()),
            Some(Notice { days: 7, expires_at })
        );
    }

    #[test]
    fn a_lease_keeps_others_away_until_its_last_second() {
        let leased = |expires_at| {
            let lease = Lease { owner: "a".into(), expires_at: UnixTime::of(expires_at) };
            Candidate { lease: Some(lease), ..row(TimeDelta::hours(1)) }
        };
        assert!(leased(now() + TimeDelta::seconds(1)).live_lease(now()).is_some());
        assert!(leased(now()).live_lease(now()).is_none());
    }

    proptest! {
        #[test]
        fn any_row_lands_in_exactly_one_decision_and_never_panics(
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
            let unforced = row.due(&DuePolicy { force: false, ..policy });
            // Force only ever widens, and never past a status or a dead refresh token.
            if unforced.is_ok() {
                prop_assert!(row.due(&policy).is_ok());
            }
            if row.due(&policy).is_ok() {
                prop_assert!(matches!(row.status, Status::Active | Status::Error));
                prop_assert!(!row.refresh_token_expired(policy.now));
            }
            if row.health(&policy) == Health::Healthy {
                prop_assert!(unforced.is_err());
            }
        }
    }
}
