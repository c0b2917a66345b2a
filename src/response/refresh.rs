//! The response to `refresh`. Every examined integration has exactly one outcome, so the counts add up.

use crate::domain::{
    bounded_list::BoundedList,
    clock,
    integration::IntegrationKey,
    latency::millis,
    outcome::{Counts, Outcome, Report},
    selection::{RefreshRequest, Trigger},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::time::Duration;

/// Collects the results of a run, in memory that does not grow with the table.
#[derive(Debug, Default)]
pub struct RefreshResults {
    counts: Counts,
    /// Whether the time ran out before every row was read.
    is_cut_off: bool,
    reports: BoundedList<(Outcome, IntegrationKey), Report>,
}

impl RefreshResults {
    /// Counts a due integration.
    pub fn record_due(&mut self) {
        self.counts.due += 1;
    }

    /// Records the outcome of an integration.
    pub fn record(&mut self, report: Report) {
        self.counts.examined += 1;
        *self.counts.of(report.outcome) += 1;
        self.counts.newly_marked += u64::from(report.is_newly_marked);
        self.reports.push((report.outcome, report.key.clone()), report);
    }

    /// Notes that the time ran out before every row was read.
    pub fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// Whether every row was read, and none was deferred to the next run.
    pub fn is_complete(&self) -> bool {
        !self.is_cut_off && self.counts.deferred == 0
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// The response to `refresh`.
#[derive(Clone, Debug, Serialize)]
pub struct RefreshResponse {
    action: &'static str,
    /// The run's id, which every log line of the run carries.
    pub run_id: String,
    /// What started the run.
    pub trigger: Trigger,
    /// Whether this was a dry run, which calls nothing and writes nothing.
    pub dry_run: bool,
    /// Whether the run also refreshed tokens that were not due.
    pub force: bool,
    /// The team that the request names.
    pub team_id: Option<String>,
    /// When the run started.
    #[serde(serialize_with = "clock::to_the_second")]
    pub started_at: DateTime<Utc>,
    /// The duration of the run, in milliseconds.
    pub duration_ms: u64,
    /// Whether every row was read, and none was deferred to the next run.
    pub complete: bool,
    /// The number of integrations by outcome.
    pub counts: Counts,
    /// The integrations, those that need attention first.
    pub integrations: Vec<Report>,
    /// The number of integrations that the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

impl RefreshResponse {
    /// Creates the response of a run that started at `started_at` and took `duration`.
    pub fn new(
        run_id: String,
        request: &RefreshRequest,
        started_at: DateTime<Utc>,
        duration: Duration,
        results: RefreshResults,
    ) -> Self {
        let (complete, counts) = (results.is_complete(), results.counts());
        let (integrations, truncated) = results.reports.finish();
        Self {
            action: "refresh",
            run_id,
            trigger: request.trigger,
            dry_run: request.dry_run,
            force: request.force,
            team_id: request.selection.team_id().map(ToOwned::to_owned),
            started_at,
            duration_ms: millis(duration),
            complete,
            counts,
            integrations,
            truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{integration::UnixTime, reason::Reason, selection::Selection};
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

    fn response(results: RefreshResults) -> RefreshResponse {
        let request = RefreshRequest {
            selection: Selection::Team("1".into()),
            force: false,
            dry_run: false,
            trigger: Trigger::Manual,
        };
        let started_at = DateTime::from_timestamp(1_795_399_200, 999_000_000).unwrap();
        RefreshResponse::new("r".into(), &request, started_at, Duration::from_millis(812), results)
    }

    #[test]
    fn the_response_has_the_documented_json() {
        let mut results = RefreshResults::default();
        results.record_due();
        let expires_at = Some(UnixTime(1_764_100_000));
        results.record(Report::new(key(7), Outcome::Refreshed).expiring(expires_at));
        assert_eq!(
            serde_json::to_value(response(results)).unwrap(),
            serde_json::json!({
                "action": "refresh", "run_id": "r", "trigger": "manual", "dry_run": false, "force": false,
                "team_id": "1", "started_at": "2026-11-23T02:00:00Z", "duration_ms": 812, "complete": true,
                "counts": {"examined": 1, "due": 1, "refreshed": 1, "would_refresh": 0, "skipped_not_due": 0,
                           "skipped_locked": 0, "cannot_refresh": 0, "newly_marked": 0, "failed": 0, "outcome_unknown": 0,
                           "deferred": 0, "queued": 0},
                "integrations": [{"team_id": "1", "integration_id": "7", "outcome": "refreshed", "reason": null,
                                  "tiktok_code": null, "message": null, "access_token_expires_at": 1_764_100_000}],
            })
        );
    }

    #[test]
    fn integrations_that_need_attention_are_listed_first() {
        let mut results = RefreshResults::default();
        for (id, outcome) in OUTCOMES.iter().rev().enumerate() {
            results.record(Report::new(key(id), *outcome));
        }
        let listed: Vec<_> = response(results).integrations.iter().map(|report| report.outcome).collect();
        assert_eq!(listed, OUTCOMES);
    }

    #[test]
    fn a_run_that_deferred_an_integration_is_not_complete() {
        let mut results = RefreshResults::default();
        results.record(Report::new(key(1), Outcome::Deferred));
        assert!(!response(results).complete);
    }

    #[test]
    fn the_list_stays_below_lambdas_limit_for_any_row_content() {
        let mut results = RefreshResults::default();
        for id in 0..12_000 {
            let key = IntegrationKey { team_id: "\u{1}".repeat(2000), integration_id: id.to_string() };
            results.record(Report::new(key, Outcome::Failed).because(Reason::Refused, "y".repeat(9999)));
        }
        let response = response(results);
        let listed = response.integrations.len() as u64;
        assert_eq!(response.truncated, Some(12_000 - listed));
        assert!(listed > 0 && serde_json::to_string(&response).unwrap().len() < 5_000_000);
    }

    proptest! {
        #[test]
        fn the_counts_always_add_up(outcomes in proptest::collection::vec(0..OUTCOMES.len(), 0..200)) {
            let mut results = RefreshResults::default();
            for (id, outcome) in outcomes.iter().enumerate() {
                results.record(Report::new(key(id), OUTCOMES[*outcome]));
            }
            let c = results.counts();
            let sum = c.refreshed + c.would_refresh + c.skipped_not_due + c.skipped_locked + c.cannot_refresh
                + c.failed + c.outcome_unknown + c.deferred + c.queued;
            prop_assert_eq!(c.examined, sum);
            prop_assert_eq!(c.examined, outcomes.len() as u64);
        }
    }
}
