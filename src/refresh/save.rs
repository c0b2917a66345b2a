//! The save: TikTok's new pair into the row, whatever has become of the row meanwhile.

use super::{Attempt, Leased, Refresher, Stored};
use crate::{
    breaker::Sign,
    grant::Grant,
    integration::{Integration, IntegrationKey, Rule, Status},
    report::{Outcome, Report},
    secret::{AccessToken, RefreshToken},
    store::{Change, Conflict, StoreError},
};
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use tracing::warn;

/// How often a save looks at a changed row and writes again before it gives up.
const SAVE_ROUNDS: u32 = 10;

const MISMATCH: (&str, &str) = (
    "identity_mismatch",
    "TikTok answered with another seller's tokens; they are kept but must not be used: connect the seller again",
);

impl Refresher {
    /// Saves a grant, before anything else looks at it.
    pub(super) async fn save(&self, leased: Leased, grant: Grant) -> Attempt {
        let mut seen = leased.row.clone();
        for _ in 0..SAVE_ROUNDS {
            let change = saving(&grant, &leased, &seen, self.clock.now());
            match self.write_until_the_end(leased.key(), change).await {
                Err(error) => {
                    let message = format!("TikTok's new pair could not be saved: {error}");
                    return granted(leased.report(Outcome::Failed).because("not_saved", message), None);
                }
                Ok(Ok(())) => return saved(&leased, &grant),
                Ok(Err(Conflict::Deleted)) => {
                    let message = "the integration was deleted while its token was being refreshed";
                    return granted(leased.report(Outcome::Failed).because("deleted", message), None);
                }
                Ok(Err(Conflict::Changed(stored))) => match judge(&stored, &leased, &grant, &self.rule()) {
                    Judgement::OursIsStored => return saved(&leased, &grant),
                    Judgement::TheirsIsLater => return superseded(&leased, &stored),
                    Judgement::WriteAgain => seen = stored,
                },
            }
        }
        let message = "the row changed again and again while TikTok's new pair was being saved";
        granted(leased.report(Outcome::Failed).because("not_saved", message), None)
    }

    /// Writes a change, again and again until the invocation's last second: a token in hand has nothing to lose.
    async fn write_until_the_end(
        &self,
        key: &IntegrationKey,
        change: Change,
    ) -> Result<Result<(), Conflict>, StoreError> {
        let backoff = ExponentialBuilder::new()
            .with_min_delay(self.pace.save_retry_after)
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        let last_second = self.deadline - TimeDelta::seconds(1);
        (|| self.store.change(key, change.clone()))
            .retry(backoff)
            .when(|_| self.clock.now() < last_second)
            .notify(|error, _| {
                warn!(
                    run_id = self.run_id,
                    team_id = key.team_id,
                    integration_id = key.integration_id,
                    "TikTok's new pair is not saved yet, trying again: {error}",
                );
            })
            .await
    }
}

/// Which pair a row must keep.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    OursIsStored,
    TheirsIsLater,
    WriteAgain,
}

/// Decides between the pair in hand and a row that changed in mid-flight. TikTok's live pair is its last
/// redemption, and the absolute expiry is the fencing number: the pair that expires later stays, and a stored
/// expiry that is not to be believed loses.
fn judge(stored: &Integration, leased: &Leased, grant: &Grant, rule: &Rule) -> Judgement {
    let new_refresh_token = grant.refresh_token.as_ref().unwrap_or(&leased.sent);
    let stored_access = |token: Option<&AccessToken>| match (&stored.access_token, token) {
        (Some(stored), Some(token)) => stored.is_same_as(token),
        (stored, token) => stored.is_none() && token.is_none(),
    };
    if stored.still_holds(new_refresh_token) && stored_access(Some(&grant.access_token)) {
        return Judgement::OursIsStored;
    }
    let rotated = !new_refresh_token.is_same_as(&leased.sent);
    if stored.still_holds(&leased.sent) && (rotated || stored_access(leased.row.access_token.as_ref())) {
        // The pair is as it was, something beside it changed.
        return Judgement::WriteAgain;
    }
    let theirs = stored.candidate.access_expires_at.filter(|_| stored.candidate.expiry_is_believed(rule));
    if theirs.is_some() && theirs >= grant.access_expires_at {
        Judgement::TheirsIsLater
    } else {
        Judgement::WriteAgain
    }
}

/// The change that stores a grant over the row as it was `seen`: four credential attributes, what TikTok said of
/// the seller, lease and error away, nothing else.
fn saving(grant: &Grant, leased: &Leased, seen: &Integration, now: DateTime<Utc>) -> Change {
    let mut change = Change::default()
        .set_text("access_token", grant.access_token.expose())
        .set_number("last_refreshed_at", now.timestamp())
        .release();
    // What was garbled in mid-flight holds no token to protect, and must not keep ours out for ever.
    if let Some(token) = &seen.refresh_token {
        change = change.only_if("refresh_token", Some(token.expose()));
    }
    let keeps_refresh_token = grant.refresh_token.as_ref().is_none_or(|token| seen.still_holds(token));
    if keeps_refresh_token && let Some(token) = &seen.access_token {
        // The refresh token cannot tell then whether another pair was stored; the access token can.
        change = change.only_if("access_token", Some(token.expose()));
    }
    let status = &seen.candidate.status;
    if !status.as_str().is_empty() {
        // Somebody may pause the row meanwhile, or mark it for our sake: that is looked at before it is written.
        change = change.only_if("status", Some(status.as_str()));
    }
    change = match grant.access_expires_at {
        Some(at) => change.set_number("access_token_expires_at", at.0),
        None => change.remove(&["access_token_expires_at"]),
    };
    if let Some(token) = &grant.refresh_token {
        change = change.set_text("refresh_token", token.expose());
    }
    if let Some(at) = grant.refresh_expires_at {
        change = change.set_number("refresh_token_expires_at", at.0);
    }
    if is_another_seller(grant, leased) {
        return change
            .set_text("status", Status::Error.as_str())
            .set_text("error_code", MISMATCH.0)
            .set_text("error_message", MISMATCH.1)
            .set_number("error_at", now.timestamp());
    }
    if let Some(open_id) = &grant.seller.open_id {
        change = change.set_text("open_id", open_id);
    }
    if let Some(name) = &grant.seller.name {
        change = change.set_text("seller_name", name);
    }
    if let Some(region) = &grant.seller.base_region {
        change = change.set_text("seller_base_region", region);
    }
    if let Some(scopes) = &grant.seller.granted_scopes {
        change = change.set_list("granted_scopes", scopes.iter().cloned());
    }
    if *status == Status::Error {
        change = change.set_text("status", Status::Active.as_str());
    }
    change.remove(&["error_code", "error_message", "error_at", "consecutive_failures"])
}

/// A pair that belongs to another seller than the row is kept, but must not be used: the row keeps its own seller,
/// so that the mismatch shows again at the next attempt.
fn is_another_seller(grant: &Grant, leased: &Leased) -> bool {
    matches!((&grant.seller.open_id, &leased.row.open_id), (Some(theirs), Some(ours)) if theirs != ours)
}

fn granted(report: Report, stored: Option<Stored>) -> Attempt {
    Attempt::Done { report, sign: Some(Sign::Granted), stored }
}

fn saved(leased: &Leased, grant: &Grant) -> Attempt {
    let report = if is_another_seller(grant, leased) {
        leased.report(Outcome::CannotRefresh).because(MISMATCH.0, MISMATCH.1)
    } else {
        leased.report(Outcome::Refreshed)
    };
    let stored = Stored {
        access_expires_at: grant.access_expires_at,
        refresh_expires_at: grant.refresh_expires_at.or(leased.row.candidate.refresh_expires_at),
    };
    granted(report.expiring(stored.access_expires_at), Some(stored))
}

fn superseded(leased: &Leased, stored: &Integration) -> Attempt {
    let message = "another pair, which expires later, was stored during the refresh; ours was dropped for it";
    let stored = Stored {
        access_expires_at: stored.candidate.access_expires_at,
        refresh_expires_at: stored.candidate.refresh_expires_at,
    };
    let report = leased.report(Outcome::Refreshed).because("superseded", message);
    granted(report.expiring(stored.access_expires_at), Some(stored))
}
