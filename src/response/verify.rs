//! The response to `verify`.

use crate::domain::{
    bounded_list::BoundedList, integration::IntegrationKey, reason::Reason, selection::Selection,
};
use serde::Serialize;

/// The response to `verify`.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyResponse {
    action: &'static str,
    /// The run's id, which every log line of the run carries.
    pub run_id: String,
    /// The team that the request names.
    pub team_id: Option<String>,
    /// Whether every row of the selection was read, and none was deferred.
    pub complete: bool,
    /// The number of integrations by outcome.
    pub counts: VerifyCounts,
    /// The integrations, failures first.
    pub integrations: Vec<VerifyReport>,
    /// The number of integrations that the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// Collects the results of a verification, in memory that does not grow with the table.
#[derive(Debug, Default)]
pub struct VerifyResults {
    /// The number of integrations by outcome.
    pub counts: VerifyCounts,
    /// Whether every row of the selection was read.
    pub was_read_to_the_end: bool,
    /// Ranked with failures first.
    reports: BoundedList<(bool, IntegrationKey), VerifyReport>,
}

/// The number of integrations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyCounts {
    /// All integrations in the selection.
    pub examined: u64,
    /// TikTok accepted the stored token.
    pub valid: u64,
    /// TikTok accepted the token after a refresh.
    pub valid_after_refresh: u64,
    /// The row's status is not `active`.
    pub skipped: u64,
    /// TikTok rejected the token, or the call failed.
    pub failed: u64,
    /// There was no time left.
    pub deferred: u64,
}

/// The result of a verification for one integration.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// The integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// The seller's name, if the row has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seller_name: Option<String>,
    /// `valid`, `valid_after_refresh`, `skipped`, `failed` or `deferred`.
    pub outcome: &'static str,
    /// The reason, as an identifier for programs.
    pub reason: Option<String>,
    /// TikTok's error code, if TikTok rejected the call.
    pub tiktok_code: Option<i64>,
    /// The reason, for people.
    pub message: Option<String>,
    /// The ids of the shops that the token has access to.
    pub shops: Vec<String>,
}

impl VerifyReport {
    fn new(key: IntegrationKey, outcome: &'static str) -> Self {
        Self {
            key,
            seller_name: None,
            outcome,
            reason: None,
            tiktok_code: None,
            message: None,
            shops: Vec::new(),
        }
    }

    /// Adds the seller's name.
    #[must_use]
    pub fn of_seller(self, seller_name: Option<String>) -> Self {
        Self { seller_name, ..self }
    }

    /// Reports a token that TikTok accepted.
    pub fn valid(key: IntegrationKey, was_refreshed: bool, shops: impl Iterator<Item = String>) -> Self {
        let outcome = if was_refreshed { "valid_after_refresh" } else { "valid" };
        Self { shops: shops.collect(), ..Self::new(key, outcome) }
    }

    /// Reports a row that is not active.
    pub fn skipped(key: IntegrationKey, status: &str) -> Self {
        let message = Some(format!("its status is {status:?}"));
        Self { reason: Some(Reason::Status.as_str().into()), message, ..Self::new(key, "skipped") }
    }

    /// Reports a row for which there was no time.
    pub fn deferred(key: IntegrationKey) -> Self {
        let message = Some("there was no time left to check it".into());
        Self { reason: Some(Reason::OutOfTime.as_str().into()), message, ..Self::new(key, "deferred") }
    }

    /// Reports a token that TikTok rejected or that could not be checked.
    pub fn failed(key: IntegrationKey, reason: &str, message: String, code: Option<i64>) -> Self {
        let (reason, message) = (Some(reason.into()), Some(message));
        Self { reason, message, tiktok_code: code, ..Self::new(key, "failed") }
    }
}

impl VerifyResults {
    /// Whether every row was read, and none was deferred.
    pub fn is_complete(&self) -> bool {
        self.was_read_to_the_end && self.counts.deferred == 0
    }

    /// Counts an integration and adds it to the list.
    pub fn record(&mut self, report: VerifyReport) {
        self.counts.examined += 1;
        *match report.outcome {
            "valid" => &mut self.counts.valid,
            "valid_after_refresh" => &mut self.counts.valid_after_refresh,
            "skipped" => &mut self.counts.skipped,
            "deferred" => &mut self.counts.deferred,
            _ => &mut self.counts.failed,
        } += 1;
        self.reports.push((report.outcome != "failed", report.key.clone()), report);
    }
}

impl VerifyResponse {
    /// Creates the response of a run.
    pub fn new(run_id: String, selection: &Selection, results: VerifyResults) -> Self {
        let complete = results.is_complete();
        let (integrations, truncated) = results.reports.finish();
        let team_id = selection.team_id().map(ToOwned::to_owned);
        Self { action: "verify", run_id, team_id, complete, counts: results.counts, integrations, truncated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_stays_below_lambdas_limit_and_keeps_the_failures() {
        let mut results = VerifyResults::default();
        let key = |id: usize| IntegrationKey { team_id: "t".repeat(2000), integration_id: id.to_string() };
        for id in 0..4_000 {
            results.record(VerifyReport::valid(key(id), false, std::iter::once("7495".into())));
        }
        results.record(VerifyReport::failed(key(9_999), "refused", "why".into(), None));
        let response = VerifyResponse::new("r".into(), &Selection::All, results);
        assert!(serde_json::to_string(&response).unwrap().len() < 5_000_000);
        assert_eq!(response.integrations[0].outcome, "failed");
        assert_eq!(response.truncated, Some(4_001 - response.integrations.len() as u64));
    }
}
