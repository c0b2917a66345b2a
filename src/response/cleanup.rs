//! The response to `cleanup`.

use crate::domain::{bounded_list::BoundedList, integration::IntegrationKey, selection::CleanupRequest};
use serde::Serialize;

/// The response to `cleanup`.
#[derive(Clone, Debug, Serialize)]
pub struct CleanupResponse {
    action: &'static str,
    /// The run's id, which every log line of the run carries.
    pub run_id: String,
    /// Whether this was a dry run, which writes nothing.
    pub dry_run: bool,
    /// The team that the request names.
    pub team_id: Option<String>,
    /// Whether every row of the selection was read, and none was deferred.
    pub complete: bool,
    /// The number of integrations by outcome.
    pub counts: CleanupCounts,
    /// The integrations that were marked, would be marked or could not be marked; failures first.
    pub integrations: Vec<CleanupReport>,
    /// The number of integrations that the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// Collects the results of a cleanup, in memory that does not grow with the table.
#[derive(Debug, Default)]
pub struct CleanupResults {
    /// The number of integrations by outcome.
    pub counts: CleanupCounts,
    /// Whether every row of the selection was read.
    pub was_read_to_the_end: bool,
    /// Ranked with failures first.
    reports: BoundedList<(bool, IntegrationKey), CleanupReport>,
}

/// The number of integrations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CleanupCounts {
    /// All integrations in the selection.
    pub examined: u64,
    /// Marked `expired`.
    pub marked: u64,
    /// A run without `dry_run` would mark them `expired`.
    pub would_mark: u64,
    /// Left unchanged: the refresh token is valid, or the row is marked already, leased or has a custom status.
    pub skipped: u64,
    /// Could not be marked.
    pub failed: u64,
    /// There was no time left: the next clean-up finds them.
    pub deferred: u64,
}

/// The result of a cleanup for one integration.
#[derive(Clone, Debug, Serialize)]
pub struct CleanupReport {
    /// The integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// The seller's name, if the row has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seller_name: Option<String>,
    /// `marked`, `would_mark` or `failed`.
    pub outcome: &'static str,
    /// The reason, for people.
    pub message: Option<String>,
}

impl CleanupResults {
    /// Whether every row was read, and none was deferred.
    pub fn is_complete(&self) -> bool {
        self.was_read_to_the_end && self.counts.deferred == 0
    }

    /// Adds an integration to the list.
    pub fn list(&mut self, report: CleanupReport) {
        self.reports.push((report.outcome != "failed", report.key.clone()), report);
    }
}

impl CleanupResponse {
    /// Creates the response of a run.
    pub fn new(run_id: String, request: &CleanupRequest, results: CleanupResults) -> Self {
        let complete = results.is_complete();
        let (integrations, truncated) = results.reports.finish();
        Self {
            action: "cleanup",
            run_id,
            dry_run: request.dry_run,
            team_id: request.selection.team_id().map(ToOwned::to_owned),
            complete,
            counts: results.counts,
            integrations,
            truncated,
        }
    }
}
