//! The answer to `verify`.

use crate::domain::{bounded_list::BoundedList, integration::IntegrationKey, selection::Selection};
use serde::Serialize;

/// The answer to a verification.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyResponse {
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

/// What a verification has found so far, in memory that does not grow with the table.
#[derive(Debug, Default)]
pub struct VerifyResults {
    counts: VerifyCounts,
    /// Failures first.
    listed: BoundedList<(bool, IntegrationKey), VerifyReport>,
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

impl VerifyResults {
    /// Counts and lists an integration.
    pub fn record(&mut self, report: VerifyReport) {
        self.counts.examined += 1;
        *match report.outcome {
            "valid" => &mut self.counts.valid,
            "valid_after_refresh" => &mut self.counts.valid_after_refresh,
            "skipped" => &mut self.counts.skipped,
            _ => &mut self.counts.failed,
        } += 1;
        self.listed.push((report.outcome != "failed", report.key.clone()), report);
    }
}

impl VerifyResponse {
    /// The answer of a run.
    pub fn new(run_id: String, selection: &Selection, results: VerifyResults) -> Self {
        let (integrations, truncated) = results.listed.finish();
        let team_id = selection.team_id().map(ToOwned::to_owned);
        Self { action: "verify", run_id, team_id, counts: results.counts, integrations, truncated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_stays_well_below_lambdas_limit_and_keeps_the_failures() {
        let mut results = VerifyResults::default();
        let key = |id: usize| IntegrationKey {
            team_id: "t".repeat(2000).into(),
            integration_id: id.to_string().into(),
        };
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
