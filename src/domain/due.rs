//! Whether a row's refresh is due, and the states of its tokens. The current time and the settings are parameters, as a
//! [`DuePolicy`].
//!
//! The conditional write that acquires a lease states the same rule as a DynamoDB expression (`aws::dynamodb`). A property
//! test checks that both agree.

use crate::domain::{
    integration::{Candidate, Integration, Lease, NOTICE_DAYS, Notice, Status, UnixTime},
    reason::Reason,
    secret::Fingerprint,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use strum::IntoStaticStr;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
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
        self.into()
    }
}

impl Candidate {
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
    use crate::domain::integration::{IntegrationKey, LastFailure};
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
