//! `ensure`: decides what to do for a caller who is about to use an integration's access token. From the row, the current time
//! and the request, it derives the next step: give an answer, refresh the token, or wait for another attempt.
//!
//! Any number of concurrent callers causes only one redemption. If another attempt has replaced the token, the new token is used
//! and not replaced again. If another attempt has just noted a failure, that failure is the answer, without a call to TikTok.

use crate::domain::{
    due::DuePolicy,
    integration::{
        CLOCK_SKEW, Integration, IntegrationKey, LastFailure, Lease, REJECTION_CODES, Status, UnixTime,
    },
    outcome::{MISSING, NO_STATUS, Outcome, Report, leased, marked, truncated},
    reason::Reason,
    secret::{Fingerprint, TokenDigest},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

/// How long an attempt for a caller may take. So a lost answer locks a row for 40 s plus the clock skew, and not for the 15
/// minutes that an invocation may last.
pub const ATTEMPT: TimeDelta = TimeDelta::seconds(40);
/// The longest lease: an invocation on Lambda lasts at most 15 minutes, and its lease a minute longer.
const LONGEST_LEASE: i64 = 16 * 60;
/// How long a new token is not refreshed again, in seconds, even if its stored expiry is near or TikTok rejects it.
const JUST_REFRESHED: i64 = 300;
/// How long a noted rejection is repeated without asking TikTok, in seconds.
const REPEAT_REJECTION: i64 = 60;
/// The same for any other noted failure.
const REPEAT_FAILURE: i64 = 5;
/// How long an environment repeats that TikTok refuses an app's credentials, in seconds.
pub(super) const REPEAT_MISCONFIGURED: i64 = 30;
/// The longest `retry_after_seconds` while another attempt holds the lease. The attempt usually ends long before its lease.
const RETRY_WHEN_LOCKED: i64 = 30;
/// The `retry_after_seconds` after a failure that lasts until somebody changes the row or the secret.
const RETRY_AFTER_REPAIR: i64 = 60;

/// A request for a usable access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsureRequest {
    /// The integration.
    pub key: IntegrationKey,
    /// How long the token must stay valid.
    pub valid_for: TimeDelta,
    /// The access token that TikTok rejected, if the caller has tried one.
    pub rejected: Option<TokenDigest>,
}

/// How a request for a usable access token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[serde(into = "&'static str")]
pub enum EnsureOutcome {
    /// The stored token is usable.
    Valid,
    /// This request refreshed it.
    Refreshed,
    /// Another attempt refreshed it while this request was waiting.
    RefreshedByAnother,
    /// The seller must connect again.
    CannotRefresh,
    /// There is no usable token, for another reason.
    Failed,
    /// TikTok may or may not have redeemed the refresh token.
    OutcomeUnknown,
    /// Another attempt still holds the lease.
    Locked,
}

impl EnsureOutcome {
    /// Whether the stored token is usable.
    pub fn is_valid(self) -> bool {
        matches!(self, Self::Valid | Self::Refreshed | Self::RefreshedByAnother)
    }

    /// The name in responses and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// How it ended.
    pub outcome: EnsureOutcome,
    /// The machine-readable reason; `None` if the token is usable.
    pub reason: Option<String>,
    /// TikTok's error code, if TikTok sent one.
    pub tiktok_code: Option<i64>,
    /// The reason, for people.
    pub message: Option<String>,
    /// The stored expiry of the access token, in Unix seconds.
    pub access_token_expires_at: Option<UnixTime>,
    /// The seconds after which to ask again; `None` if the token is usable, or a person must act first.
    pub retry_after_seconds: Option<i64>,
}

/// What to do about a token that is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: this is the answer.
    Answer(Answer),
    /// Refresh it.
    Refresh,
    /// Another attempt holds the lease: wait for it. Give this answer if the time runs out.
    Wait(Answer),
}

impl Answer {
    /// An answer without a reason.
    pub fn new(outcome: EnsureOutcome) -> Self {
        Self {
            outcome,
            reason: None,
            tiktok_code: None,
            message: None,
            access_token_expires_at: None,
            retry_after_seconds: None,
        }
    }

    /// An answer about a row.
    pub fn of(row: &Integration, outcome: EnsureOutcome) -> Self {
        Self { access_token_expires_at: row.candidate.access_expires_at, ..Self::new(outcome) }
    }

    /// Sets the reason and the message.
    #[must_use]
    pub fn because(self, reason: Reason, message: impl AsRef<str>) -> Self {
        self.quoting(reason.as_str(), message)
    }

    /// The same with a reason that is a text already: the row's own, or an attempt's.
    fn quoting(mut self, reason: &str, message: impl AsRef<str>) -> Self {
        self.reason = Some(reason.to_owned());
        self.message = Some(truncated(message.as_ref()));
        self
    }

    /// Sets the seconds after which to ask again, at least 1.
    #[must_use]
    pub fn retry_after(mut self, seconds: i64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    fn with_code(mut self, code: Option<i64>) -> Self {
        self.tiktok_code = code;
        self
    }

    /// The answer after the caller's own attempt failed. `None` if it refreshed the token, or did not get the lease: then the row
    /// must be read again. `is_rejected` says whether TikTok rejected the refresh token, and `lease_seconds` in how many seconds
    /// the attempt's lease expires.
    pub fn of_attempt(report: &Report, is_rejected: bool, lease_seconds: i64) -> Option<Self> {
        let reason = report.reason.map_or(report.outcome.as_str(), Reason::as_str);
        let answer = |outcome| {
            let message = report.message.clone().unwrap_or_default();
            let answer = Self::new(outcome).quoting(reason, message).with_code(report.tiktok_code);
            Self { access_token_expires_at: report.access_token_expires_at, ..answer }
        };
        Some(match report.outcome {
            Outcome::Refreshed | Outcome::Locked | Outcome::NotDue | Outcome::WouldRefresh => return None,
            Outcome::CannotRefresh => answer(EnsureOutcome::CannotRefresh),
            Outcome::Failed if is_rejected => answer(EnsureOutcome::CannotRefresh),
            Outcome::Failed => answer(EnsureOutcome::Failed).retry_after(match report.reason {
                Some(Reason::Misconfigured) => REPEAT_MISCONFIGURED,
                Some(Reason::MalformedRow | Reason::UnknownAppKey) => RETRY_AFTER_REPAIR,
                Some(Reason::NotSaved) => lease_seconds,
                _ => REPEAT_FAILURE,
            }),
            // The rescue queue holds the new token pair.
            Outcome::Queued => answer(EnsureOutcome::Failed).retry_after(lease_seconds),
            Outcome::Deferred => {
                let message = "too little time is left to call TikTok and to save its answer";
                answer(EnsureOutcome::Failed).quoting(reason, message).retry_after(1)
            }
            Outcome::OutcomeUnknown => answer(EnsureOutcome::OutcomeUnknown).retry_after(lease_seconds),
        })
    }
}

impl EnsureRequest {
    /// A request for a token that is valid for more than 5 minutes.
    pub fn new(key: IntegrationKey) -> Self {
        Self { key, valid_for: Self::DEFAULT_VALID_FOR, rejected: None }
    }

    /// How long a token must stay valid, unless the request says otherwise.
    pub const DEFAULT_VALID_FOR: TimeDelta = TimeDelta::minutes(5);

    /// The answer if there is no row.
    pub fn not_found(&self) -> Answer {
        let message = format!("there is no {} in the table", self.key);
        Answer::new(EnsureOutcome::Failed).because(Reason::NotFound, message)
    }

    /// The answer, if the row alone determines it: its token is usable, or its status forbids a refresh. `first` is the row as
    /// this request first read it.
    pub fn answer(
        &self,
        first: Option<&Integration>,
        row: Option<&Integration>,
        now: DateTime<Utc>,
    ) -> Option<Answer> {
        let Some(row) = row else { return Some(self.not_found()) };
        let candidate = &row.candidate;
        match &candidate.status {
            Status::Active => {}
            status @ (Status::Error | Status::Expired) => {
                let last = candidate.last_failure.as_ref();
                let message = marked(candidate, status).message.unwrap_or_default();
                let answer = Answer::of(row, EnsureOutcome::CannotRefresh).because(Reason::Marked, message);
                return Some(answer.with_code(last.and_then(tiktok_code)));
            }
            // The row is read leniently, so that a status of another type is an empty one.
            Status::Other(status) if status.is_empty() => {
                let answer = Answer::of(row, EnsureOutcome::Failed).because(Reason::MalformedRow, NO_STATUS);
                return Some(answer.retry_after(RETRY_AFTER_REPAIR));
            }
            Status::Other(status) => {
                let message = format!("its status is {status:?}");
                return Some(Answer::of(row, EnsureOutcome::Failed).because(Reason::Status, message));
            }
        }
        let token = row.access_token.as_ref()?;
        let refreshed_ago = seconds_ago(row.last_refreshed_at, now).filter(|ago| *ago < JUST_REFRESHED);
        if self.rejected.is_some_and(|rejected| rejected == token.sha256()) {
            let ago = refreshed_ago?;
            let message = "TikTok rejects an access token that was refreshed less than 5 minutes ago, so another refresh \
                           would not help: check which shop and which app the call is for";
            let answer = Answer::of(row, EnsureOutcome::Failed).because(Reason::JustRefreshed, message);
            return Some(answer.retry_after(JUST_REFRESHED - ago));
        }
        if !self.lives_long_enough(row, now) && refreshed_ago.is_none() {
            return None;
        }
        let is_as_first =
            first.and_then(|first| first.access_token.as_ref()).is_some_and(|first| first.is_same_as(token));
        let outcome = if is_as_first { EnsureOutcome::Valid } else { EnsureOutcome::RefreshedByAnother };
        Some(Answer::of(row, outcome))
    }

    /// Whether the stored expiry is plausible, and later than the request demands.
    fn lives_long_enough(&self, row: &Integration, now: DateTime<Utc>) -> bool {
        let policy =
            DuePolicy { now, refresh_ahead: TimeDelta::zero(), force: false, unless_refreshed_since: None };
        row.candidate.has_plausible_expiry(&policy)
            && row.candidate.access_expires_at.is_some_and(|at| at > UnixTime::after(now, self.valid_for))
    }

    /// What to do about an active row whose token is not usable. `in_use` is the fingerprint of the row's credentials.
    pub fn next_step(
        &self,
        first: &Integration,
        row: &Integration,
        in_use: Option<&Fingerprint>,
        now: DateTime<Utc>,
    ) -> Step {
        if let Some(answer) = noted_failure(first, row, in_use, now) {
            return Step::Answer(answer);
        }
        if row.refresh_token.is_none() {
            let answer = Answer::of(row, EnsureOutcome::CannotRefresh);
            return Step::Answer(answer.because(Reason::RefreshTokenMissing, MISSING));
        }
        match row.candidate.live_lease(now) {
            None => Step::Refresh,
            Some(lease) => Step::Wait(locked(row, lease, now)),
        }
    }
}

/// The answer if other attempts changed the row until the time ran out.
pub fn lost_every_race(row: &Integration) -> Answer {
    let message = "other attempts kept changing the row";
    Answer::of(row, EnsureOutcome::Locked).because(Reason::Leased, message).retry_after(1)
}

fn locked(row: &Integration, lease: &Lease, now: DateTime<Utc>) -> Answer {
    let seconds = lease.expires_at.seconds_from(now);
    Answer::of(row, EnsureOutcome::Locked)
        .because(Reason::Leased, leased(seconds))
        .retry_after(seconds.min(RETRY_WHEN_LOCKED))
}

/// The failure noted in the row, if it answers the request: it was noted after this request first read the row, or shortly
/// before.
fn noted_failure(
    first: &Integration,
    row: &Integration,
    in_use: Option<&Fingerprint>,
    now: DateTime<Utc>,
) -> Option<Answer> {
    let last = row.candidate.last_failure.as_ref()?;
    let ago = seconds_ago(row.error_at, now)?;
    let is_new = row.error_at != first.error_at;
    let is_rejection = last.code.as_deref().is_some_and(|code| REJECTION_CODES.contains(&code));
    let unnamed = if is_rejection { Reason::Reauthorize.as_str() } else { EnsureOutcome::Failed.as_str() };
    let reason = last.reason.as_deref().unwrap_or(unnamed);
    let answer = |outcome| {
        let message = last.message.as_deref().unwrap_or("an attempt a moment ago failed");
        Answer::of(row, outcome).quoting(reason, message).with_code(tiktok_code(last))
    };
    if is_rejection {
        let holds = is_new || (ago < REPEAT_REJECTION && last.rejected_by.as_ref() == in_use);
        return holds.then(|| answer(EnsureOutcome::CannotRefresh));
    }
    if reason == Reason::NoReadableAnswer.as_str()
        && let Some(lease) = row.candidate.live_lease(now)
    {
        let answer = answer(EnsureOutcome::OutcomeUnknown).retry_after(lease.expires_at.seconds_from(now));
        return (is_new || !is_older_than_lease(first, row, lease)).then_some(answer);
    }
    (is_new || ago < REPEAT_FAILURE).then(|| answer(EnsureOutcome::Failed).retry_after(REPEAT_FAILURE - ago))
}

/// Whether the failure was noted before the live lease was acquired. Then a new attempt is under way, and the caller waits for
/// it.
fn is_older_than_lease(first: &Integration, row: &Integration, lease: &Lease) -> bool {
    let has_replaced = first.candidate.lease.as_ref().is_none_or(|first| first.owner != lease.owner);
    // If the lease does not say when it was acquired, it cannot be older than the longest possible lease.
    let acquired_at =
        lease.acquired_at().unwrap_or(UnixTime(lease.expires_at.0.saturating_sub(LONGEST_LEASE)));
    has_replaced || row.error_at.is_some_and(|at| at < acquired_at)
}

/// How long ago a time was, in seconds. `None` if the time is in the future by more than the clock skew.
fn seconds_ago(at: Option<UnixTime>, now: DateTime<Utc>) -> Option<i64> {
    at.map(|at| -at.seconds_from(now).max(-i64::MAX)).filter(|ago| *ago >= -CLOCK_SKEW.num_seconds())
}

/// The TikTok code of a noted failure.
fn tiktok_code(last: &LastFailure) -> Option<i64> {
    last.code.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{integration::Candidate, secret::AccessToken};
    use proptest::prelude::*;

    const NOW: i64 = 1_795_000_000;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW, 0).unwrap()
    }

    fn key() -> IntegrationKey {
        IntegrationKey { team_id: "1".into(), integration_id: "7".into() }
    }

    fn token(text: &str) -> AccessToken {
        text.to_owned().into()
    }

    /// An active row whose access token expires in so many seconds.
    fn row(expires_in: i64) -> Integration {
        let access_expires_at = Some(UnixTime(NOW + expires_in));
        Integration {
            candidate: Candidate { access_expires_at, ..Candidate::of_key(key(), None) },
            access_token: Some(token("a")),
            refresh_token: Some("r".to_owned().into()),
            open_id: None,
            authorization_id: None,
            consecutive_failures: 0,
            last_refreshed_at: None,
            error_at: None,
            authorized_shops: Vec::new(),
        }
    }

    fn leased_by(owner: &str, until: i64, row: Integration) -> Integration {
        let lease = Some(Lease { owner: owner.into(), expires_at: UnixTime(NOW + until) });
        Integration { candidate: Candidate { lease, ..row.candidate }, ..row }
    }

    fn failed(reason: &str, code: &str, ago: i64, row: Integration) -> Integration {
        let last_failure = Some(LastFailure {
            reason: Some(reason.into()),
            code: Some(code.into()),
            message: Some("why".into()),
            rejected_by: Some(in_use()),
        });
        let candidate = Candidate { last_failure, ..row.candidate };
        Integration { candidate, error_at: Some(UnixTime(NOW - ago)), ..row }
    }

    fn rejected(ago: i64, row: Integration) -> Integration {
        failed("reauthorize", "36004005", ago, row)
    }

    fn in_use() -> Fingerprint {
        Fingerprint("in use".into())
    }

    fn request() -> EnsureRequest {
        EnsureRequest::new(key())
    }

    fn step(row: &Integration) -> Step {
        step_after(row, row)
    }

    fn step_after(first: &Integration, row: &Integration) -> Step {
        assert_eq!(request().answer(Some(first), Some(row), now()), None, "the token is not usable");
        request().next_step(first, row, Some(&in_use()), now())
    }

    /// The outcome and when to ask again.
    fn brief(step: &Step) -> (&'static str, Option<i64>) {
        match step {
            Step::Answer(answer) => (answer.outcome.as_str(), answer.retry_after_seconds),
            Step::Refresh => ("refresh", None),
            Step::Wait(answer) => ("wait", answer.retry_after_seconds),
        }
    }

    #[test]
    fn a_token_lives_longer_than_asked_or_is_not_usable() {
        let outcome = |expires_in, valid_for| {
            let request = EnsureRequest { valid_for: TimeDelta::seconds(valid_for), ..request() };
            let row = row(expires_in);
            request.answer(Some(&row), Some(&row), now()).map(|answer| answer.outcome)
        };
        let month = 30 * 86_400;
        for (expires_in, valid_for, is_valid) in [
            (301, 300, true),
            (300, 300, false),
            (1, 0, true),
            (0, 0, false),
            (month, 300, true),
            (month + 1, 300, false),
        ] {
            let expected = is_valid.then_some(EnsureOutcome::Valid);
            assert_eq!(outcome(expires_in, valid_for), expected, "{expires_in} {valid_for}");
        }
    }

    #[test]
    fn a_token_that_differs_from_the_first_was_refreshed_by_another() {
        let first = row(0);
        let newer = Integration { access_token: Some(token("b")), ..row(3_600) };
        let answer = request().answer(Some(&first), Some(&newer), now()).unwrap();
        assert_eq!(answer.outcome, EnsureOutcome::RefreshedByAnother);
        let none = Integration { access_token: None, ..row(3_600) };
        assert_eq!(request().answer(Some(&none), Some(&none), now()), None);
        let answer = request().answer(Some(&none), Some(&newer), now()).unwrap();
        assert_eq!(answer.outcome, EnsureOutcome::RefreshedByAnother);
    }

    #[test]
    fn a_noted_rejection_is_repeated_for_a_minute_under_the_same_credentials() {
        assert_eq!(brief(&step(&rejected(59, row(0)))), ("cannot_refresh", None));
        assert_eq!(brief(&step(&rejected(60, row(0)))), ("refresh", None));
        let noted = rejected(1, row(0));
        let others = Fingerprint("others".into());
        assert_eq!(request().next_step(&noted, &noted, Some(&others), now()), Step::Refresh);
        let Step::Answer(answer) = step(&failed("probably_lost_answer", "36004001", 1, row(0))) else {
            panic!("expected an answer")
        };
        assert_eq!(
            (answer.reason.as_deref(), answer.tiktok_code),
            (Some("probably_lost_answer"), Some(36_004_001))
        );
        // The clock of whoever noted it is fast, or wrong.
        assert_eq!(brief(&step(&rejected(-60, row(0)))), ("cannot_refresh", None));
        assert_eq!(brief(&step(&rejected(-61, row(0)))), ("refresh", None));
        // A later failure of another kind leaves `rejected_by` in the row.
        assert_eq!(brief(&step(&failed("refused", "36009999", 6, row(0)))), ("refresh", None));
    }

    #[test]
    fn another_noted_failure_is_repeated_for_five_seconds() {
        assert_eq!(brief(&step(&failed("provider_busy", "429", 0, row(0)))), ("failed", Some(5)));
        assert_eq!(brief(&step(&failed("provider_busy", "429", 4, row(0)))), ("failed", Some(1)));
        assert_eq!(brief(&step(&failed("provider_busy", "429", 5, row(0)))), ("refresh", None));
    }

    #[test]
    fn what_the_holder_notes_while_a_caller_waits_is_the_callers_answer() {
        let first = leased_by("holder", 900, row(0));
        assert_eq!(brief(&step(&first)), ("wait", Some(30)));
        assert_eq!(brief(&step_after(&first, &rejected(120, row(0)))), ("cannot_refresh", None));
        assert_eq!(brief(&step_after(&first, &failed("refused", "1", 120, row(0)))), ("failed", Some(1)));
        // An older note says nothing of this holder.
        let first = failed("refused", "1", 120, first);
        assert_eq!(brief(&step_after(&first, &first)), ("wait", Some(30)));
    }

    #[test]
    fn an_unknown_outcome_is_told_while_its_lease_lives() {
        let unknown = |ago, row| failed("no_readable_answer", "no_readable_answer", ago, row);
        // Of an attempt for a caller, and of a run.
        assert_eq!(brief(&step(&unknown(20, leased_by("a", 80, row(0))))), ("outcome_unknown", Some(80)));
        assert_eq!(brief(&step(&unknown(300, leased_by("a", 600, row(0))))), ("outcome_unknown", Some(600)));
        assert_eq!(brief(&step(&unknown(80, leased_by("a", 0, row(0))))), ("refresh", None));
        assert_eq!(brief(&step(&unknown(750, leased_by("a", 50, row(0))))), ("outcome_unknown", Some(50)));
        // The lease is younger than the note: an attempt is under way again.
        let acquired = |ago: i64| Lease::new_owner("b", UnixTime(NOW - ago));
        assert_eq!(brief(&step(&unknown(90, leased_by(&acquired(1), 900, row(0))))), ("wait", Some(30)));
        assert_eq!(
            brief(&step(&unknown(1, leased_by(&acquired(1), 50, row(0))))),
            ("outcome_unknown", Some(50))
        );
        assert_eq!(brief(&step(&unknown(86_400, leased_by("old version", 900, row(0))))), ("wait", Some(30)));
        let first = unknown(90, leased_by("a", -1, row(0)));
        let taken = unknown(90, leased_by("b", 600, row(0)));
        assert_eq!(brief(&step_after(&first, &taken)), ("wait", Some(30)));
        // And it ends as the one before.
        let again = unknown(0, leased_by("b", 600, row(0)));
        assert_eq!(brief(&step_after(&first, &again)), ("outcome_unknown", Some(600)));
    }

    #[test]
    fn a_row_without_a_refresh_token_needs_its_seller() {
        let lost = Integration { refresh_token: None, ..row(0) };
        assert_eq!(brief(&step(&lost)), ("cannot_refresh", None));
    }

    #[test]
    fn an_attempt_that_did_not_take_the_row_is_no_answer() {
        let report = |outcome| Report::new(key(), outcome);
        for outcome in [Outcome::Refreshed, Outcome::Locked, Outcome::NotDue, Outcome::WouldRefresh] {
            assert_eq!(Answer::of_attempt(&report(outcome), false, 90), None);
        }
        let of = |report: Report, is_rejected| {
            let answer = Answer::of_attempt(&report, is_rejected, 90).unwrap();
            (answer.outcome.as_str(), answer.retry_after_seconds)
        };
        let failed = |reason| report(Outcome::Failed).because(reason, "why");
        assert_eq!(of(failed(Reason::Reauthorize), true), ("cannot_refresh", None));
        assert_eq!(of(failed(Reason::Misconfigured), false), ("failed", Some(30)));
        assert_eq!(of(failed(Reason::NotSaved), false), ("failed", Some(90)));
        assert_eq!(of(failed(Reason::StoreError), false), ("failed", Some(5)));
        assert_eq!(of(report(Outcome::Deferred).because(Reason::OutOfTime, ""), false), ("failed", Some(1)));
        assert_eq!(of(report(Outcome::OutcomeUnknown), false), ("outcome_unknown", Some(90)));
    }

    proptest! {
        #[test]
        fn every_row_gets_a_safe_answer(
            expiry in proptest::option::of(prop_oneof![any::<i64>(), NOW - 400..NOW + 90_000]),
            refreshed in proptest::option::of(prop_oneof![any::<i64>(), NOW - 400..NOW + 400]),
            error_at in proptest::option::of(prop_oneof![any::<i64>(), NOW - 200..NOW + 200]),
            lease in proptest::option::of(prop_oneof![any::<i64>(), NOW - 200..NOW + 1_000]),
            status in "active|active|active|error|expired|paused",
            reason in "reauthorize|no_readable_answer|refused",
            code in "36004005|no_readable_answer|36009999",
            has_token: bool,
            has_refresh_token: bool,
            is_rejected: bool,
            valid_for in 0..86_400_i64,
        ) {
            let mut row = failed(&reason, &code, 0, row(0));
            row.error_at = error_at.map(UnixTime);
            row.last_refreshed_at = refreshed.map(UnixTime);
            row.access_token = has_token.then(|| token("a"));
            row.refresh_token = row.refresh_token.filter(|_| has_refresh_token);
            row.candidate.access_expires_at = expiry.map(UnixTime);
            row.candidate.status = Status::parse(&status);
            row.candidate.lease = lease.map(|at| Lease { owner: "a".into(), expires_at: UnixTime(at) });
            let request = EnsureRequest {
                valid_for: TimeDelta::seconds(valid_for),
                rejected: is_rejected.then(|| token("a").sha256()),
                ..request()
            };
            let answer = match request.answer(Some(&row), Some(&row), now()) {
                Some(answer) => answer,
                None => match request.next_step(&row, &row, Some(&in_use()), now()) {
                    Step::Answer(answer) => answer,
                    Step::Wait(answer) => {
                        prop_assert!(row.candidate.live_lease(now()).is_some());
                        answer
                    }
                    Step::Refresh => {
                        prop_assert!(row.candidate.live_lease(now()).is_none() && has_refresh_token);
                        prop_assert!(row.candidate.status == Status::Active);
                        let is_noted = error_at.is_some_and(|at| (NOW - 59..=NOW + 60).contains(&at));
                        prop_assert!(!is_noted || code != "36004005", "a rejection is not asked for again");
                        return Ok(());
                    }
                },
            };
            prop_assert!(!answer.outcome.is_valid() || (has_token && !is_rejected));
            let needs_a_person = answer.outcome == EnsureOutcome::CannotRefresh
                || answer.reason.as_deref() == Some("status");
            prop_assert_eq!(
                answer.retry_after_seconds.is_none(),
                answer.outcome.is_valid() || needs_a_person
            );
            prop_assert!(answer.retry_after_seconds.is_none_or(|seconds| seconds > 0));
        }
    }
}
