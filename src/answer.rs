//! What the function answers, and the tally behind it: every integration examined ends in exactly one outcome,
//! so the counts add up by construction.

use crate::{
    event::{CleanupRequest, RefreshRequest, Selection, Trigger},
    grant::Grant,
    health::StatusReport,
    integration::{IntegrationKey, UnixTime},
    report::{Outcome, Report},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, time::Duration};

/// How many integrations an answer lists at most, and how many of one outcome are kept in memory for it.
const MAX_LISTED: usize = 5_000;
/// How many bytes of JSON the list may take. Lambda's limit on the whole answer is 6 MB.
const MAX_LISTED_BYTES: usize = 4_000_000;

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
    fn of(&mut self, outcome: Outcome) -> &mut u64 {
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

/// Gathers the reports of a run in memory that does not grow with the table.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    listed: BTreeMap<Outcome, Vec<Report>>,
}

impl Tally {
    /// Counts an integration that is due.
    pub fn due(&mut self) {
        self.counts.due += 1;
    }

    /// Counts an integration's end.
    pub fn ended(&mut self, report: Report) {
        self.counts.examined += 1;
        *self.counts.of(report.outcome) += 1;
        let listed = self.listed.entry(report.outcome).or_default();
        if listed.len() < MAX_LISTED {
            listed.push(report);
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The listed integrations, what needs a person first, and how many were left out.
    fn into_list(self) -> (Vec<Report>, u64) {
        let mut list = Vec::new();
        let mut bytes = 0;
        for mut reports in self.listed.into_values() {
            reports.sort_by(|a, b| a.key.cmp(&b.key));
            for report in reports {
                bytes += serde_json::to_string(&report).map_or(0, |json| json.len() + 1);
                if list.len() == MAX_LISTED || bytes > MAX_LISTED_BYTES {
                    break;
                }
                list.push(report);
            }
        }
        let left_out = self.counts.examined - list.len() as u64;
        (list, left_out)
    }
}

/// The answer to a refresh.
#[derive(Clone, Debug, Serialize)]
pub struct RefreshAnswer {
    action: &'static str,
    /// This run's id, which is on each of its log lines.
    pub run_id: String,
    /// Who asked.
    pub trigger: Trigger,
    /// Whether nothing was called or written.
    pub dry_run: bool,
    /// Whether tokens that are not due were taken.
    pub force: bool,
    /// The team that the request named.
    pub team_id: Option<String>,
    /// When the run began.
    #[serde(serialize_with = "to_the_second")]
    pub started_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// False when anything was deferred.
    pub complete: bool,
    /// How many ended how.
    pub counts: Counts,
    /// The integrations, what needs a person first.
    pub integrations: Vec<Report>,
    /// How many integrations the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

impl RefreshAnswer {
    /// The answer of a run that began at `started_at` and took `took`.
    pub fn new(
        run_id: String,
        request: &RefreshRequest,
        started_at: DateTime<Utc>,
        took: Duration,
        tally: Tally,
    ) -> Self {
        let counts = tally.counts();
        let (integrations, left_out) = tally.into_list();
        Self {
            action: "refresh",
            run_id,
            trigger: request.trigger,
            dry_run: request.dry_run,
            force: request.force,
            team_id: request.selection.team_id().map(ToOwned::to_owned),
            started_at,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            complete: counts.deferred == 0,
            counts,
            integrations,
            truncated: (left_out > 0).then_some(left_out),
        }
    }
}

/// The answer to messages of the queue: which of them SQS is to deliver again.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueAnswer {
    /// The messages that could not be done.
    pub batch_item_failures: Vec<BatchItemFailure>,
}

/// A message that could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchItemFailure {
    /// The message's id.
    pub item_identifier: String,
}

/// Any answer of the function's.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To a refresh.
    Refresh(Box<RefreshAnswer>),
    /// To messages of the queue.
    Queue(QueueAnswer),
    /// To a status report.
    Status(Box<StatusReport>),
    /// To a status report for a person.
    Text(String),
    /// To a clean-up.
    Cleanup(Box<CleanupAnswer>),
    /// To a connection.
    Connect(Box<ConnectAnswer>),
    /// To a verification.
    Verify(Box<VerifyAnswer>),
}

/// The answer to a verification.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyAnswer {
    action: &'static str,
    /// This run's id, which is on each of its log lines.
    pub run_id: String,
    /// The team that the request named.
    pub team_id: Option<String>,
    /// How many ended how.
    pub counts: VerifyCounts,
    /// The integrations, failures first.
    pub integrations: Vec<VerifyReport>,
    /// How many integrations the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// How many integrations a verification ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyCounts {
    /// All that were looked at.
    pub examined: u64,
    /// TikTok took the stored token.
    pub valid: u64,
    /// TikTok took the token after a refresh.
    pub valid_after_refresh: u64,
    /// Not active.
    pub skipped: u64,
    /// TikTok did not take the token, or could not be asked.
    pub failed: u64,
}

/// One integration in the answer to a verification.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// `valid`, `valid_after_refresh`, `skipped` or `failed`.
    pub outcome: &'static str,
    /// Why, as a word a program can tell apart.
    pub reason: Option<String>,
    /// TikTok's code, where TikTok refused.
    pub tiktok_code: Option<i64>,
    /// Why, for a person.
    pub message: Option<String>,
    /// The ids of the shops that the token opens.
    pub shops: Vec<String>,
}

impl VerifyReport {
    fn new(key: IntegrationKey, outcome: &'static str) -> Self {
        Self { key, outcome, reason: None, tiktok_code: None, message: None, shops: Vec::new() }
    }

    /// Of a token that works.
    pub fn valid(key: IntegrationKey, was_refreshed: bool, shops: impl Iterator<Item = String>) -> Self {
        let outcome = if was_refreshed { "valid_after_refresh" } else { "valid" };
        Self { shops: shops.collect(), ..Self::new(key, outcome) }
    }

    /// Of a row that is not active.
    pub fn skipped(key: IntegrationKey, status: &str) -> Self {
        let message = Some(format!("its status is {status:?}"));
        Self { reason: Some("status".into()), message, ..Self::new(key, "skipped") }
    }

    /// Of a token that does not work.
    pub fn failed(key: IntegrationKey, reason: &str, message: String, code: Option<i64>) -> Self {
        let (reason, message) = (Some(reason.into()), Some(message));
        Self { reason, message, tiktok_code: code, ..Self::new(key, "failed") }
    }
}

impl VerifyAnswer {
    /// An answer to which nothing was added yet.
    pub fn new(run_id: String, selection: &Selection) -> Self {
        Self {
            action: "verify",
            run_id,
            team_id: selection.team_id().map(ToOwned::to_owned),
            counts: VerifyCounts::default(),
            integrations: Vec::new(),
            truncated: None,
        }
    }

    /// Counts an integration, and lists it as long as there is room: a failure before all others.
    pub fn add(&mut self, report: VerifyReport) {
        self.counts.examined += 1;
        *match report.outcome {
            "valid" => &mut self.counts.valid,
            "valid_after_refresh" => &mut self.counts.valid_after_refresh,
            "skipped" => &mut self.counts.skipped,
            _ => &mut self.counts.failed,
        } += 1;
        let at = if report.outcome == "failed" { 0 } else { self.integrations.len() };
        self.integrations.insert(at, report);
        if self.integrations.len() > MAX_LISTED {
            self.integrations.pop();
            *self.truncated.get_or_insert_default() += 1;
        }
    }
}

/// The answer to a connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectAnswer {
    action: &'static str,
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// `connected`, `reconnected` or `replaced`.
    pub outcome: &'static str,
    /// The seller's id for the app.
    pub open_id: Option<String>,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// What the app may do.
    pub granted_scopes: Option<Vec<String>>,
    /// When the access token expires.
    pub access_token_expires_at: Option<UnixTime>,
    /// When the refresh token expires.
    pub refresh_token_expires_at: Option<UnixTime>,
}

impl ConnectAnswer {
    /// What may be told of a grant that was stored.
    pub fn new(key: IntegrationKey, outcome: &'static str, grant: &Grant) -> Self {
        let seller = grant.seller.clone();
        Self {
            action: "connect",
            key,
            outcome,
            open_id: seller.open_id,
            seller_name: seller.name,
            granted_scopes: seller.granted_scopes,
            access_token_expires_at: grant.access_expires_at,
            refresh_token_expires_at: grant.refresh_expires_at,
        }
    }
}

/// The answer to a clean-up.
#[derive(Clone, Debug, Serialize)]
pub struct CleanupAnswer {
    action: &'static str,
    /// This run's id, which is on each of its log lines.
    pub run_id: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// The team that the request named.
    pub team_id: Option<String>,
    /// How many ended how.
    pub counts: CleanupCounts,
    /// The integrations that were marked, or would be, or could not be.
    pub integrations: Vec<CleanedUp>,
    /// How many integrations the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// How many integrations a clean-up ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CleanupCounts {
    /// All that were looked at.
    pub examined: u64,
    /// Marked `expired`.
    pub marked: u64,
    /// A real run would mark them.
    pub would_mark: u64,
    /// Left alone: nothing has expired, or the row is marked already, in other hands or the user's own.
    pub skipped: u64,
    /// Could not be marked.
    pub failed: u64,
}

/// One integration in the answer to a clean-up.
#[derive(Clone, Debug, Serialize)]
pub struct CleanedUp {
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// `marked`, `would_mark` or `failed`.
    pub outcome: &'static str,
    /// Why, for a person.
    pub message: Option<String>,
}

impl CleanupAnswer {
    /// An answer to which nothing was added yet.
    pub fn new(run_id: String, request: &CleanupRequest) -> Self {
        Self {
            action: "cleanup",
            run_id,
            dry_run: request.dry_run,
            team_id: request.selection.team_id().map(ToOwned::to_owned),
            counts: CleanupCounts::default(),
            integrations: Vec::new(),
            truncated: None,
        }
    }

    /// Lists an integration, as long as there is room.
    pub fn list(&mut self, key: IntegrationKey, outcome: &'static str, message: Option<String>) {
        if self.integrations.len() < MAX_LISTED {
            self.integrations.push(CleanedUp { key, outcome, message });
        } else {
            *self.truncated.get_or_insert_default() += 1;
        }
    }
}

fn to_the_second<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUTCOMES: [Outcome; 9] = [
        Outcome::Failed,
        Outcome::OutcomeUnknown,
        Outcome::CannotRefresh,
        Outcome::Deferred,
        Outcome::Queued,
        Outcome::Locked,
        Outcome::Refreshed,
        Outcome::WouldRefresh,
        Outcome::NotDue,
    ];

    fn key(id: usize) -> IntegrationKey {
        IntegrationKey { team_id: "1".into(), integration_id: id.to_string() }
    }

    fn answer(tally: Tally) -> RefreshAnswer {
        let request = RefreshRequest {
            selection: Selection::Team("1".into()),
            force: false,
            dry_run: false,
            trigger: Trigger::Manual,
        };
        let started_at = DateTime::from_timestamp(1_795_399_200, 999_000_000).unwrap();
        RefreshAnswer::new("r".into(), &request, started_at, Duration::from_millis(812), tally)
    }

    #[test]
    fn the_answer_is_written_as_the_contract_says() {
        let mut tally = Tally::default();
        tally.due();
        let expires_at = Some(UnixTime(1_764_100_000));
        tally.ended(Report::new(key(7), Outcome::Refreshed).expiring(expires_at));
        assert_eq!(
            serde_json::to_value(answer(tally)).unwrap(),
            serde_json::json!({
                "action": "refresh", "run_id": "r", "trigger": "manual", "dry_run": false, "force": false,
                "team_id": "1", "started_at": "2026-11-23T02:00:00Z", "duration_ms": 812, "complete": true,
                "counts": {"examined": 1, "due": 1, "refreshed": 1, "would_refresh": 0, "skipped_not_due": 0,
                           "skipped_locked": 0, "cannot_refresh": 0, "failed": 0, "outcome_unknown": 0,
                           "deferred": 0, "queued": 0},
                "integrations": [{"team_id": "1", "integration_id": "7", "outcome": "refreshed", "reason": null,
                                  "tiktok_code": null, "message": null, "access_token_expires_at": 1_764_100_000}],
            })
        );
    }

    #[test]
    fn what_needs_a_person_is_listed_first() {
        let mut tally = Tally::default();
        for (id, outcome) in OUTCOMES.iter().rev().enumerate() {
            tally.ended(Report::new(key(id), *outcome));
        }
        let listed: Vec<_> = answer(tally).integrations.iter().map(|report| report.outcome).collect();
        assert_eq!(listed, OUTCOMES);
    }

    #[test]
    fn a_run_that_deferred_anything_is_not_complete() {
        let mut tally = Tally::default();
        tally.ended(Report::new(key(1), Outcome::Deferred));
        assert!(!answer(tally).complete);
    }

    #[test]
    fn the_list_stays_well_below_lambdas_limit_whatever_the_rows_hold() {
        let mut tally = Tally::default();
        for id in 0..12_000 {
            let key = IntegrationKey { team_id: "\u{1}".repeat(2000), integration_id: id.to_string() };
            tally.ended(Report::new(key, Outcome::Failed).because("x", "y".repeat(9999)));
        }
        let answer = answer(tally);
        let listed = answer.integrations.len() as u64;
        assert_eq!(answer.truncated, Some(12_000 - listed));
        assert!(listed > 0 && serde_json::to_string(&answer).unwrap().len() < 5_000_000);
    }

    proptest! {
        #[test]
        fn the_counts_always_add_up(outcomes in proptest::collection::vec(0..OUTCOMES.len(), 0..200)) {
            let mut tally = Tally::default();
            for (id, outcome) in outcomes.iter().enumerate() {
                tally.ended(Report::new(key(id), OUTCOMES[*outcome]));
            }
            let c = tally.counts();
            let sum = c.refreshed + c.would_refresh + c.skipped_not_due + c.skipped_locked + c.cannot_refresh
                + c.failed + c.outcome_unknown + c.deferred + c.queued;
            prop_assert_eq!(c.examined, sum);
            prop_assert_eq!(c.examined, outcomes.len() as u64);
        }
    }
}
