//! Marks, warnings, and telling the user's platform of them.

use super::{Refresher, Rejected, error_code};
use crate::{
    aws::{
        dynamodb::{Change, Conflict},
        eventbridge,
    },
    domain::{
        integration::{Candidate, IntegrationKey, Notice, Skip, Status, UnixTime},
        outcome::{CHANGED, DELETED, EXPIRED, Outcome, Report, skipped},
    },
};
use std::{fmt::Display, sync::atomic::Ordering};
use tracing::{error, warn};

impl Refresher {
    /// Marks a rejected row as `error`, if it still holds the token that was rejected.
    pub async fn mark(&self, rejected: Rejected) -> Report {
        let Rejected { leased, error } = rejected;
        let (reason, message) = if leased.cut_off_before {
            let why = "probably a lost answer: an earlier attempt was cut off after TikTok may have acted";
            ("probably_lost_answer", format!("{error}; {why}"))
        } else {
            (error.reason(), error.to_string())
        };
        let report = leased.report(Outcome::CannotRefresh).because(reason, &message).with_code(error.code());
        let at = UnixTime::of(self.clock.now());
        let change = leased
            .noting(&error_code(&error), &message, at)
            .set_text("status", Status::Error.as_str())
            .release()
            .only_if("refresh_token", Some(leased.sent.expose()))
            .only_if("status", Some(leased.row.candidate.status.as_str()));
        let is_news = leased.row.candidate.status != Status::Error;
        match self.store.change(leased.key(), change).await {
            Ok(Ok(())) => {
                if is_news {
                    self.announce(eventbridge::Change::CannotRefresh, leased.key(), reason).await;
                }
                report
            }
            Ok(Err(Conflict::Deleted)) => leased.report(Outcome::NotDue).because(DELETED.0, DELETED.1),
            Ok(Err(Conflict::Changed(row)))
                if row.candidate.status == Status::Error && row.still_holds(&leased.sent) =>
            {
                // Our own mark, whose answer was lost; or that of a run which has overtaken us, and told of it.
                if is_news && row.error_at == Some(at) {
                    self.announce(eventbridge::Change::CannotRefresh, leased.key(), reason).await;
                }
                report
            }
            Ok(Err(Conflict::Changed(row))) => {
                self.write(&leased, leased.change().release(), "release the lease").await;
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

    /// Lets a rejected row go unmarked: the app is under suspicion, not the seller.
    pub async fn spare(&self, rejected: Rejected) -> Report {
        let Rejected { leased, error } = rejected;
        self.write(&leased, leased.change().release(), "release the lease").await;
        let message = format!("{error}; not marked, as the app itself is under suspicion");
        leased.report(Outcome::Failed).because("app_under_suspicion", message).with_code(error.code())
    }

    /// Marks a row whose refresh token's expiry has passed, unless it has changed since the scan.
    pub async fn mark_expired(&self, candidate: Candidate) -> Report {
        let now = self.clock.now();
        if let Some(lease) = candidate.live_lease(now) {
            return skipped(&candidate, &Skip::Locked(lease.clone()), now);
        }
        let report = skipped(&candidate, &Skip::RefreshTokenExpired, now);
        let change = Change::default()
            .set_text("status", Status::Error.as_str())
            .set_text("error_code", EXPIRED.0)
            .set_text("error_message", EXPIRED.1)
            .set_number("error_at", now.timestamp())
            .release()
            .only_if("status", Some(candidate.status.as_str()))
            .only_if_time("refresh_token_expires_at", candidate.refresh_expires_at)
            .only_if("lock_owner", candidate.lease.as_ref().map(|lease| lease.owner.as_str()));
        match self.store.change(&candidate.key, change).await {
            Ok(Ok(())) => {
                self.announce(eventbridge::Change::CannotRefresh, &candidate.key, EXPIRED.0).await;
                report
            }
            Ok(Err(Conflict::Deleted)) => {
                Report::new(candidate.key, Outcome::NotDue).because(DELETED.0, DELETED.1)
            }
            Ok(Err(Conflict::Changed(row))) => match row.may_be_taken(&self.rule()) {
                Err(skip) => skipped(&row.candidate, &skip, now),
                Ok(_) => Report::new(candidate.key, Outcome::NotDue)
                    .because(CHANGED.0, CHANGED.1)
                    .expiring(row.candidate.access_expires_at),
            },
            Err(error) => Report::new(candidate.key, Outcome::Failed)
                .because("store_error", format!("{}; not marked: {error}", EXPIRED.1)),
        }
    }

    /// Warns of a refresh token that will expire, once: whoever notes the warning in the row publishes it.
    pub async fn warn_of(&self, candidate: Candidate, notice: Notice) {
        let told = candidate.notice.as_ref().map(Notice::to_text);
        let change = Change::default()
            .set_text("refresh_token_notice", notice.to_text())
            .only_if("refresh_token_notice", told.as_deref())
            .only_if_time("refresh_token_expires_at", Some(notice.expires_at));
        let key = &candidate.key;
        match self.store.change(key, change).await {
            Ok(Ok(())) => {
                let reason = format!("expires_within_{}_days", notice.days);
                self.announce(eventbridge::Change::RefreshTokenExpiring, key, &reason).await;
            }
            Ok(Err(_)) => {}
            Err(error) => warn!(
                run_id = self.run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "could not note that the refresh token expires soon: {error}",
            ),
        }
    }

    /// Publishes a change of state, if there is a bus. That it could not is logged and counted, and undoes nothing.
    pub(super) async fn announce(&self, change: eventbridge::Change, key: &IntegrationKey, reason: &str) {
        let Some(bus) = &self.bus else { return };
        // Only now, and only here: a scan should not carry a name for each of a million rows.
        let seller_name = self.store.seller_name(key).await.unwrap_or_default();
        if let Err(error) = bus.announce(change, key, seller_name.as_deref(), reason, self.clock.now()).await
        {
            self.could_not_publish(key, error);
        }
    }

    /// Logs and counts a change of state that nobody was told of.
    pub fn could_not_publish(&self, key: &IntegrationKey, error: impl Display) {
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        error!(
            run_id = self.run_id,
            team_id = key.team_id.as_str(),
            integration_id = key.integration_id.as_str(),
            "a change of state could not be published: {error}",
        );
    }
}
