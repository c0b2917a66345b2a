//! One line in the log for each integration's outcome.

use crate::domain::{
    latency::millis,
    outcome::{Outcome, Report},
    reason::Reason,
};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Logs a refresh that worked, in the span of its integration: the same line for a run and for an on-demand caller.
pub(crate) fn refreshed(report: &Report, took: Duration) {
    info!(
        outcome = report.outcome.as_str(),
        reason = report.reason.map(Reason::as_str),
        tiktok_code = report.tiktok_code,
        duration_ms = millis(took),
        new_expires_at = report.access_token_expires_at.map(|at| at.0),
        "TikTok token refresh completed successfully"
    );
}

/// Logs how an integration's attempt ended, and how long it took.
pub(super) fn outcome(report: &Report, took: Duration) {
    let _span = report.key.span().entered();
    macro_rules! line {
        ($level:ident, $($message:tt)+) => {
            $level!(
                outcome = report.outcome.as_str(),
                reason = report.reason.map(Reason::as_str),
                tiktok_code = report.tiktok_code,
                duration_ms = millis(took),
                $($message)+
            )
        };
    }
    let why = report.message.as_deref().unwrap_or_default();
    match report.outcome {
        Outcome::Refreshed => refreshed(report, took),
        Outcome::Failed => line!(error, "TikTok token refresh failed: {why}"),
        // An earlier run has logged it as an error.
        Outcome::CannotRefresh if report.reason == Some(Reason::Marked) => {
            line!(info, "TikTok integration is still marked: {why}");
        }
        Outcome::CannotRefresh => line!(error, "TikTok integration cannot be refreshed: {why}"),
        Outcome::OutcomeUnknown => line!(warn, "TikTok token refresh has an unknown outcome: {why}"),
        Outcome::Locked => line!(info, "TikTok token refresh skipped: {why}"),
        Outcome::WouldRefresh => line!(info, "TikTok token would be refreshed: {why}"),
        // As many as the table has rows: the run's last line has their numbers.
        Outcome::Deferred => line!(debug, "TikTok token refresh deferred to the next run: {why}"),
        Outcome::Queued => line!(debug, "TikTok token refresh queued: {why}"),
        Outcome::NotDue => line!(debug, "TikTok token is not due for a refresh: {why}"),
    }
}
