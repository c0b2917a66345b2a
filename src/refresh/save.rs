//! The save: TikTok's new pair into the row, whatever has become of the row meanwhile.

use super::{Attempt, Leased, Refresher};
use crate::{
    aws::{
        dynamodb::{Change, Conditional, Conflict},
        eventbridge,
    },
    domain::{
        circuit_breaker::Sign,
        grant::{Grant, Seller},
        integration::{Candidate, Integration, Rule, Status},
        message::Rescue,
        outcome::{Outcome, Report},
        secret::AccessToken,
    },
};
use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::{Duration, Instant};
use tracing::{error, warn};

/// How often a save looks at a changed row and writes again before it gives up.
const SAVE_ROUNDS: u32 = 10;

const MISMATCH: (&str, &str) = (
    "identity_mismatch",
    "TikTok answered with another seller's tokens; they are kept but must not be used: connect the seller again",
);

/// What became of a pair in hand.
enum Ending {
    /// It is stored, in a row that had this status before.
    Stored(Status),
    /// A later pair is stored.
    Superseded(Box<Integration>),
    /// The row is gone.
    Deleted,
    /// The queue has it: the table would not take it.
    Rescued,
    /// Nobody would take it.
    Unsaved(String),
}

impl Refresher {
    /// Saves a grant, before anything else looks at it.
    pub(super) async fn save(&self, leased: Leased, grant: &Grant) -> Attempt {
        let ending = self.put_away(&leased, grant, None).await;
        self.told(leased, grant, ending).await
    }

    /// Saves a pair that comes back from the queue, by the same rule. The queue goes on holding it if that fails.
    ///
    /// # Errors
    /// The report of a pair that the table still would not take.
    pub async fn save_rescued(&self, rescue: Rescue) -> Result<Report, Report> {
        let row = Integration {
            candidate: Candidate { status: rescue.status, ..Candidate::of_key(rescue.key, None) },
            access_token: rescue.access_token,
            refresh_token: Some(rescue.sent.clone()),
            open_id: rescue.open_id,
            consecutive_failures: 0,
            last_refreshed_at: None,
            error_at: None,
        };
        // The lease is long gone, and the save does not ask for it.
        let leased = Leased {
            attempt_id: String::new(),
            row: Box::new(row),
            sent: rescue.sent,
            cut_off_before: false,
        };
        let ending = self.put_away(&leased, &rescue.grant, Some(Instant::now())).await;
        let is_saved = !matches!(ending, Ending::Rescued | Ending::Unsaved(_));
        match self.told(leased, &rescue.grant, ending).await {
            Attempt::Done { report, .. } if is_saved => Ok(report),
            Attempt::Done { report, .. } => Err(report),
            Attempt::Rejected(rejected) => Err(Report::new(rejected.key().clone(), Outcome::Failed)),
        }
    }

    /// Puts a pair where it cannot be lost: into the row; or, when the table would not take it for a while, also into
    /// the queue. `rescued` is since when the queue has it.
    async fn put_away(&self, leased: &Leased, grant: &Grant, mut rescued: Option<Instant>) -> Ending {
        let mut changed: Option<Box<Integration>> = None;
        for _ in 0..SAVE_ROUNDS {
            let seen = changed.as_deref().unwrap_or(&leased.row);
            match self.write_until_the_end(leased, grant, seen, &mut rescued).await {
                Err(_) if rescued.is_some() => return Ending::Rescued,
                Err(error) => return Ending::Unsaved(error.to_string()),
                Ok(Ok(())) => return Ending::Stored(seen.candidate.status.clone()),
                Ok(Err(Conflict::Deleted)) => return Ending::Deleted,
                Ok(Err(Conflict::Changed(stored))) => match judge(&stored, leased, grant, &self.rule()) {
                    Judgement::OursIsStored => return Ending::Stored(seen.candidate.status.clone()),
                    Judgement::TheirsIsLater => return Ending::Superseded(stored),
                    Judgement::WriteAgain => changed = Some(stored),
                },
            }
        }
        Ending::Unsaved("the row changed again and again meanwhile".into())
    }

    /// Writes a pair over the row as it was `seen`, again and again until the invocation's last second: a token in hand
    /// has nothing to lose. Once the queue has the pair, a while longer is enough.
    async fn write_until_the_end(
        &self,
        leased: &Leased,
        grant: &Grant,
        seen: &Integration,
        rescued: &mut Option<Instant>,
    ) -> Conditional {
        let key = leased.key();
        let backoff = ExponentialBuilder::new()
            .with_min_delay(self.pace.save_retry_after)
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        let began = Instant::now();
        let now = self.clock.now();
        let mut waits = backoff.build();
        loop {
            let error = match self.store.change(key, saving(grant, leased, seen, now)).await {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            warn!(
                run_id = self.run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "TikTok's new pair is not saved yet, trying again: {error}",
            );
            let is_last = self.clock.now() >= self.deadline - TimeDelta::seconds(1);
            if rescued.is_none() && (is_last || began.elapsed() >= self.pace.rescue_after) {
                *rescued = self.rescue(leased, grant).await.then(Instant::now);
            }
            if is_last || rescued.is_some_and(|since| since.elapsed() >= self.pace.tries_after_rescue) {
                return Err(error);
            }
            tokio::time::sleep(waits.next().unwrap_or_default()).await;
        }
    }

    /// Sends a pair to the queue; whether the queue took it.
    async fn rescue(&self, leased: &Leased, grant: &Grant) -> bool {
        let Some(queue) = &self.queue else { return false };
        let rescue = Rescue {
            key: leased.key().clone(),
            status: leased.row.candidate.status.clone(),
            open_id: leased.row.open_id.clone(),
            access_token: leased.row.access_token.clone(),
            sent: leased.sent.clone(),
            grant: grant.clone(),
        };
        let sent = queue.send(&rescue.to_json()).await;
        let key = leased.key();
        match &sent {
            Ok(()) => warn!(
                run_id = self.run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "TikTok's new pair is in the queue until the table takes it",
            ),
            Err(error) => error!(
                run_id = self.run_id,
                team_id = key.team_id.as_str(),
                integration_id = key.integration_id.as_str(),
                "TikTok's new pair could not be put into the queue: {error}",
            ),
        }
        sent.is_ok()
    }

    /// Tells what became of a pair, to the caller and to the user's platform.
    async fn told(&self, leased: Leased, grant: &Grant, ending: Ending) -> Attempt {
        let (report, stored) = match ending {
            Ending::Stored(before) => {
                let mismatch = is_another_seller(grant, &leased);
                if mismatch && before != Status::Error {
                    self.announce(eventbridge::Change::CannotRefresh, leased.key(), MISMATCH.0).await;
                } else if !mismatch && before == Status::Error {
                    self.announce(eventbridge::Change::Recovered, leased.key(), "refreshed").await;
                }
                let report = if mismatch {
                    leased.report(Outcome::CannotRefresh).because(MISMATCH.0, MISMATCH.1)
                } else {
                    leased.report(Outcome::Refreshed)
                };
                let row = leased.row.candidate;
                let stored = Candidate {
                    status: if mismatch { Status::Error } else { Status::Active },
                    access_expires_at: grant.access_expires_at,
                    refresh_expires_at: grant.refresh_expires_at.or(row.refresh_expires_at),
                    lease: None,
                    ..row
                };
                (report.expiring(stored.access_expires_at), Some(Box::new(stored)))
            }
            Ending::Superseded(theirs) => {
                let message = "another pair, which expires later, was stored during the refresh; ours was dropped for it";
                let report = leased.report(Outcome::Refreshed).because("superseded", message);
                (report.expiring(theirs.candidate.access_expires_at), Some(Box::new(theirs.candidate)))
            }
            Ending::Deleted => {
                let message = "the integration was deleted while its token was being refreshed";
                (leased.report(Outcome::Failed).because("deleted", message), None)
            }
            Ending::Rescued => {
                let message = "the table would not take TikTok's new pair; it is in the queue until it does";
                (leased.report(Outcome::Queued).because("rescued", message), None)
            }
            Ending::Unsaved(why) => {
                let message = format!("TikTok's new pair could not be saved: {why}");
                (leased.report(Outcome::Failed).because("not_saved", message), None)
            }
        };
        Attempt::Done { report, sign: Some(Sign::Granted), stored }
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
    let mut change = with_pair(Change::default(), grant, now).release();
    // What was garbled in mid-flight holds no token to protect, and must not keep ours out for ever.
    if let Some(token) = &seen.refresh_token {
        change = change.only_if("refresh_token", Some(token.expose()));
    }
    if let Some(token) = &seen.access_token {
        // Where refresh tokens do not change, only this tells that another pair was stored.
        change = change.only_if("access_token", Some(token.expose()));
    }
    let status = &seen.candidate.status;
    if !status.as_str().is_empty() {
        // Somebody may pause the row meanwhile, or mark it for our sake: that is looked at before it is written.
        change = change.only_if("status", Some(status.as_str()));
    }
    if is_another_seller(grant, leased) {
        return change
            .set_text("status", Status::Error.as_str())
            .set_text("error_code", MISMATCH.0)
            .set_text("error_message", MISMATCH.1)
            .set_number("error_at", now.timestamp());
    }
    change = with_seller(change, &grant.seller);
    if *status == Status::Error {
        change = change.set_text("status", Status::Active.as_str());
    }
    change.remove(&["error_code", "error_message", "error_at", "consecutive_failures"])
}

/// The credential attributes of a grant. What TikTok did not say stays, but for the old expiry of the access token.
pub(crate) fn with_pair(change: Change, grant: &Grant, now: DateTime<Utc>) -> Change {
    let mut change = change
        .set_text("access_token", grant.access_token.expose())
        .set_number("last_refreshed_at", now.timestamp());
    change = match grant.access_expires_at {
        Some(at) => change.set_number("access_token_expires_at", at.0),
        None => change.remove(&["access_token_expires_at"]),
    };
    if let Some(token) = &grant.refresh_token {
        change = change.set_text("refresh_token", token.expose());
    }
    match grant.refresh_expires_at {
        Some(at) => change.set_number("refresh_token_expires_at", at.0),
        None => change,
    }
}

/// What TikTok said of the seller.
pub(crate) fn with_seller(mut change: Change, seller: &Seller) -> Change {
    if let Some(open_id) = &seller.open_id {
        change = change.set_text("open_id", open_id);
    }
    if let Some(name) = &seller.name {
        change = change.set_text("seller_name", name);
    }
    if let Some(region) = &seller.base_region {
        change = change.set_text("seller_base_region", region);
    }
    if let Some(scopes) = &seller.granted_scopes {
        change = change.set_list("granted_scopes", scopes.iter().cloned());
    }
    change
}

/// A pair that belongs to another seller than the row is kept, but must not be used: the row keeps its own seller,
/// so that the mismatch shows again at the next attempt.
fn is_another_seller(grant: &Grant, leased: &Leased) -> bool {
    matches!((&grant.seller.open_id, &leased.row.open_id), (Some(theirs), Some(ours)) if theirs != ours)
}
