//! One line in the log for each integration's outcome.

use crate::domain::outcome::{Outcome, Report};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Logs how an integration ended, after an attempt of `took`.
pub(super) fn ended(run_id: &str, report: &Report, took: Duration) {
    macro_rules! line {
        ($level:ident, $($message:tt)+) => {
            $level!(
                run_id,
                team_id = report.key.team_id.as_str(),
                integration_id = report.key.integration_id.as_str(),
                outcome = report.outcome.as_str(),
                reason = report.reason,
                tiktok_code = report.tiktok_code,
                duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                $($message)+
            )
        };
    }
    let why = report.message.as_deref().unwrap_or_default();
    match report.outcome {
        Outcome::Refreshed => line!(
            info,
            new_expires_at = report.access_token_expires_at.map(|at| at.0),
            "TikTok token refresh completed successfully"
        ),
        Outcome::Failed => line!(error, "TikTok token refresh failed: {why}"),
        Outcome::CannotRefresh => line!(error, "TikTok integration cannot be refreshed: {why}"),
        Outcome::OutcomeUnknown => line!(warn, "TikTok token refresh has an unknown outcome: {why}"),
        Outcome::Locked => line!(info, "TikTok token refresh skipped: {why}"),
        Outcome::WouldRefresh => line!(info, "TikTok token would be refreshed: {why}"),
        // As many as the table has rows; a run logs their numbers.
        Outcome::Deferred | Outcome::Queued => line!(debug, "TikTok token refresh left for later: {why}"),
        Outcome::NotDue => line!(debug, "TikTok token refresh not due: {why}"),
    }
}
