//! Marks and warnings in the row, and the events published for them.

use super::{Refresher, Rejected};
use crate::{
    aws::{
        dynamodb::{Conflict, updates},
        eventbridge::StateChange,
    },
    domain::{
        integration::{Candidate, IntegrationKey, Notice, SkipReason, Status},
        outcome::{CHANGED, DELETED, EXPIRED, Outcome, Report, skipped},
    },
};
use std::fmt::Display;
use tracing::{error, warn};

impl Refresher {
    /// Marks a rejected row as `error`, if it still holds the refresh token that TikTok rejected.
    pub(crate) async fn mark(&self, rejected: Rejected) -> Report {
        let Rejected { leased, error } = rejected;
        let mut failure = leased.failure(&error, self.services.clock.now());
        let reason = if leased.was_interrupted {
            failure.message.push_str(
                "; probably a lost response: an earlier attempt was interrupted after TikTok may have acted",
            );
            "probably_lost_answer"
        } else {
            error.reason()
        };
        let message = failure.message.clone();
        let report = leased.report(Outcome::CannotRefresh).because(reason, &message).with_code(error.code());
        let update =
            updates::mark_rejected(&leased.attempt_id, &failure, &leased.sent, &leased.row.candidate.status);
        let is_newly_marked = leased.row.candidate.status != Status::Error;
        match self.services.table.update(leased.key(), update).await {
            Ok(Ok(())) => {
                if is_newly_marked {
                    self.publish(StateChange::CannotRefresh, leased.key(), reason).await;
                }
                report
            }
            Ok(Err(Conflict::Deleted)) => leased.report(Outcome::NotDue).because(DELETED.0, DELETED.1),
            Ok(Err(Conflict::Changed(row)))
                if row.candidate.status == Status::Error && row.still_holds(&leased.sent) =>
            {
                // Our own mark, whose response was lost; or that of a run that overtook this one, and published it.
                if is_newly_marked && row.error_at == Some(failure.at) {
                    self.publish(StateChange::CannotRefresh, leased.key(), reason).await;
                }
                report
            }
            Ok(Err(Conflict::Changed(row))) => {
                self.release(&leased).await;
                leased
                    .report(Outcome::NotDue)
                    .because(CHANGED.0, CHANGED.1)
                    .expiring(row.candidate.access_expires_at)
            }
            Err(error) => leased
                .report(Outcome::Failed)
                .because("store_error", format!("{message}; not marked: {error}")),
        }
    }

    /// Leaves a rejected row unmarked: the app is under suspicion, not the seller.
    pub(crate) async fn leave_unmarked(&self, rejected: Rejected) -> Report {
        let Rejected { leased, error } = rejected;
        self.release(&leased).await;
        let message = format!("{error}; not marked, as the app itself is under suspicion");
        leased.report(Outcome::Failed).because("app_under_suspicion", message).with_code(error.code())
    }

    /// Marks a row whose refresh token has expired, unless the row has changed since the scan.
    pub(crate) async fn mark_expired(&self, candidate: Candidate) -> Report {
        let now = self.services.clock.now();
        if let Some(lease) = candidate.live_lease(now) {
            return skipped(&candidate, &SkipReason::Locked(lease.clone()), now);
        }
        let report = skipped(&candidate, &SkipReason::RefreshTokenExpired, now);
        let update = updates::mark_expired(&candidate, EXPIRED, now);
        match self.services.table.update(&candidate.key, update).await {
            Ok(Ok(())) => {
                self.publish(StateChange::CannotRefresh, &candidate.key, EXPIRED.0).await;
                report
            }
            Ok(Err(Conflict::Deleted)) => {
                Report::new(candidate.key, Outcome::NotDue).because(DELETED.0, DELETED.1)
            }
            Ok(Err(Conflict::Changed(row))) => match row.may_be_taken(&self.due_policy()) {
                Err(skip) => skipped(&row.candidate, &skip, now),
                Ok(_) => Report::new(candidate.key, Outcome::NotDue)
                    .because(CHANGED.0, CHANGED.1)
                    .expiring(row.candidate.access_expires_at),
            },
            Err(error) => Report::new(candidate.key, Outcome::Failed)
                .because("store_error", format!("{}; not marked: {error}", EXPIRED.1)),
        }
    }

    /// Publishes once that a refresh token expires soon: whoever notes the warning in the row publishes it.
    pub(crate) async fn warn_of_expiry(&self, candidate: &Candidate, notice: Notice) {
        let key = &candidate.key;
        match self.services.table.update(key, updates::note_expiry_warning(candidate, notice)).await {
            Ok(Ok(())) => {
                let reason = format!("expires_within_{}_days", notice.days);
                self.publish(StateChange::RefreshTokenExpiring, key, &reason).await;
            }
            // Another run has noted it, or the token was renewed.
            Ok(Err(_)) => {}
            Err(error) => warn!("could not note in the row that its refresh token expires soon: {error}"),
        }
    }

    /// Publishes a state change, if there is an event bus. A failure is logged and counted, and undoes nothing.
    pub(super) async fn publish(&self, change: StateChange, key: &IntegrationKey, reason: &str) {
        let Some(bus) = &self.services.event_bus else { return };
        // Read here and not by the scan, which would carry a name for each of a million rows.
        let seller_name = self.services.table.seller_name(key).await.unwrap_or_default();
        let published =
            bus.publish(change, key, seller_name.as_deref(), reason, self.services.clock.now()).await;
        if let Err(error) = published {
            self.record_unpublished(error);
        }
    }

    /// Logs and counts a state change that was not published.
    pub(crate) fn record_unpublished(&self, error: impl Display) {
        self.record(|statistics| statistics.unpublished += 1);
        error!("could not publish a state change: {error}");
    }
}
