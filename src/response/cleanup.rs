//! The answer to `cleanup`.

use crate::domain::{bounded_list::BoundedList, integration::IntegrationKey, selection::CleanupRequest};
use serde::Serialize;

/// The answer to a clean-up.
#[derive(Clone, Debug, Serialize)]
pub struct CleanupResponse {
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

/// What a clean-up has done so far, in memory that does not grow with the table.
#[derive(Debug, Default)]
pub struct CleanupResults {
    /// How many ended how.
    pub counts: CleanupCounts,
    /// Failures first.
    listed: BoundedList<(bool, IntegrationKey), CleanedUp>,
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

impl CleanupResults {
    /// Lists an integration.
    pub fn list(&mut self, key: IntegrationKey, outcome: &'static str, message: Option<String>) {
        self.listed.push((outcome != "failed", key.clone()), CleanedUp { key, outcome, message });
    }
}

impl CleanupResponse {
    /// The answer of a run.
    pub fn new(run_id: String, request: &CleanupRequest, results: CleanupResults) -> Self {
        let (integrations, truncated) = results.listed.finish();
        Self {
            action: "cleanup",
            run_id,
            dry_run: request.dry_run,
            team_id: request.selection.team_id().map(ToOwned::to_owned),
            counts: results.counts,
            integrations,
            truncated,
        }
    }
}
