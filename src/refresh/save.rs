//! The save: TikTok's new token pair goes into the row, whatever has become of the row meanwhile.

use super::{Attempt, Leased, Refresher};
use crate::{
    aws::{
        dynamodb::{ConditionalWrite, Conflict, updates},
        eventbridge::StateChange,
    },
    domain::{
        circuit_breaker::CallOutcome,
        due::DuePolicy,
        grant::Grant,
        integration::{Candidate, Integration, Lease, Status, UnixTime},
        message::{Generation, Rescue},
        outcome::{MISMATCH, Outcome, Report},
        reason::Reason,
    },
};
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::future::{Either, pending, select};
use std::{future::Future, time::Duration};
use tokio::time::timeout;
use tracing::{error, warn};

/// How many conflicts are resolved even if the deadline seems to have passed: this clock may be fast.
const MIN_CONFLICTS: u32 = 10;
const LAST_SECOND: Duration = Duration::from_secs(1);

/// What became of a token pair in hand.
enum Saved {
    /// The row holds it; the row had this status before.
    Stored(Status),
    /// The row holds a later pair.
    Superseded(Box<Integration>),
    /// There is no row any more.
    Deleted,
    /// The rescue queue holds it: DynamoDB did not accept it.
    Rescued,
    /// Neither DynamoDB nor the queue accepted it.
    Failed(String),
}

impl Refresher {
    /// Saves a grant, before anything else looks at it.
    pub(super) async fn save(&self, leased: Leased, grant: &Grant) -> Attempt {
        let app = leased.app.clone();
        let app_key = app.as_ref().map(|app| app.app_key.as_str());
        let saved = self.save_pair(&leased, app_key, grant).await;
        let call = leased.call(CallOutcome::Granted);
        let (report, stored) = self.report_save(leased, grant, saved).await;
        Attempt::Done { report, call, stored }
    }

    /// Saves a token pair from the rescue queue, by the same rules.
    ///
    /// # Errors
    /// The report, if DynamoDB still does not accept the pair: the queue must keep it.
    pub(crate) async fn save_rescued(&self, rescue: Rescue) -> Result<Report, Report> {
        let row = Integration {
            candidate: Candidate { status: rescue.status, ..Candidate::of_key(rescue.key, None) },
            access_token: rescue.access_token,
            refresh_token: Some(rescue.sent.clone()),
            open_id: rescue.open_id,
            authorization_id: match &rescue.generation {
                Generation::Known(id) => id.clone(),
                Generation::Unknown => None,
            },
            consecutive_failures: 0,
            last_refreshed_at: None,
            error_at: None,
            authorized_shops: Vec::new(),
        };
        // The lease has expired long ago, and the save does not need it.
        let leased = Leased {
            attempt_id: String::new(),
            row: Box::new(row),
            sent: rescue.sent,
            generation: rescue.generation,
            app: None,
            was_interrupted: false,
        };
        let app_key = rescue.app_key.as_deref();
        let saved = self.save_in_queue(Box::pin(self.write_pair(&leased, app_key, &rescue.grant))).await;
        let is_saved = !matches!(saved, Saved::Rescued | Saved::Failed(_));
        let (report, _) = self.report_save(leased, &rescue.grant, saved).await;
        if is_saved { Ok(report) } else { Err(report) }
    }

    /// Puts a token pair where it cannot be lost: into the row and, if that takes longer than `rescue_after`, also into the
    /// rescue queue. The two run side by side: a DynamoDB that hangs must cost no more than one that refuses.
    async fn save_pair(&self, leased: &Leased, app_key: Option<&str>, grant: &Grant) -> Saved {
        let policy = &self.services.retry_policy;
        let write = Box::pin(self.write_pair(leased, app_key, grant));
        let rescue = Box::pin(async {
            tokio::time::sleep(policy.rescue_after).await;
            self.send_to_rescue_queue(leased, app_key, grant).await;
        });
        match select(write, rescue).await {
            Either::Left((Saved::Failed(why), _)) if self.services.queue.is_some() => {
                // The last second, or a row that never settles.
                let send = Box::pin(self.send_to_rescue_queue(leased, app_key, grant));
                let limit = self.services.time_for_a_request(self.run.deadline).min(LAST_SECOND);
                match timeout(limit, send).await {
                    Ok(()) => Saved::Rescued,
                    Err(_) => Saved::Failed(why),
                }
            }
            Either::Left((saved, _)) => saved,
            Either::Right(((), write)) => self.save_in_queue(write).await,
        }
    }

    /// Writes a token pair that the queue holds already, for a limited time.
    async fn save_in_queue(&self, write: impl Future<Output = Saved>) -> Saved {
        match timeout(self.services.retry_policy.save_time_after_rescue, write).await {
            Ok(Saved::Failed(_)) | Err(_) => Saved::Rescued,
            Ok(saved) => saved,
        }
    }

    /// Writes a token pair into the row. Resolves conflicts, and retries until the invocation's last second.
    async fn write_pair(&self, leased: &Leased, app_key: Option<&str>, grant: &Grant) -> Saved {
        // The row, once it is known to differ from the leased one.
        let mut changed: Option<Box<Integration>> = None;
        if leased.generation == Generation::Unknown {
            // Only the row itself can tell which authorization it holds.
            match self.in_time(self.services.table.read(leased.key())).await {
                Ok(Some(row)) => changed = Some(Box::new(row)),
                Ok(None) => return Saved::Deleted,
                Err(error) => return Saved::Failed(error.to_string()),
            }
        }
        let mut status_before = leased.row.candidate.status.clone();
        for conflicts in 0.. {
            if let Some(stored) = changed {
                match resolve_conflict(&stored, leased, app_key, grant, &self.due_policy()) {
                    Resolution::OursIsStored => return Saved::Stored(status_before),
                    Resolution::GiveWay => return Saved::Superseded(stored),
                    Resolution::WriteAgain if conflicts > MIN_CONFLICTS && self.is_last_second() => break,
                    Resolution::WriteAgain => changed = Some(stored),
                }
            }
            let seen = changed.as_deref().unwrap_or(&leased.row);
            status_before = seen.candidate.status.clone();
            match self.write_with_retries(leased, app_key, grant, seen).await {
                Ok(Ok(())) => return Saved::Stored(status_before),
                Ok(Err(Conflict::Changed(stored))) => changed = Some(stored),
                Ok(Err(Conflict::Deleted)) => return Saved::Deleted,
                Err(error) => return Saved::Failed(error.to_string()),
            }
        }
        Saved::Failed("the row changed again and again during the save".into())
    }

    fn is_last_second(&self) -> bool {
        self.services.clock.now() + LAST_SECOND >= self.run.deadline
    }

    /// Writes a token pair over the row as it was `seen`. Retries until the invocation's last second.
    async fn write_with_retries(
        &self,
        leased: &Leased,
        app_key: Option<&str>,
        grant: &Grant,
        seen: &Integration,
    ) -> ConditionalWrite {
        let mut waits = self.save_backoff();
        let now = self.services.clock.now();
        loop {
            let is_other_seller = is_another_seller(grant, leased);
            let update = updates::save(grant, app_key, seen, is_other_seller, now);
            let error = match self.in_time(self.services.table.update(leased.key(), update)).await {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            warn!("could not save the new token pair yet, retrying: {error}");
            if self.is_last_second() {
                return Err(error);
            }
            tokio::time::sleep(waits.next().unwrap_or_default()).await;
        }
    }

    fn save_backoff(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::new()
            .with_min_delay(self.services.retry_policy.save_backoff)
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times()
            .build()
    }

    /// Sends a token pair to the rescue queue, again and again until the queue accepts it. Never ends if there is no queue.
    async fn send_to_rescue_queue(&self, leased: &Leased, app_key: Option<&str>, grant: &Grant) {
        let Some(queue) = &self.services.queue else { return pending().await };
        let rescue = Rescue {
            key: leased.key().clone(),
            status: leased.row.candidate.status.clone(),
            open_id: leased.row.open_id.clone(),
            generation: leased.generation.clone(),
            app_key: app_key.map(ToOwned::to_owned),
            access_token: leased.row.access_token.clone(),
            sent: leased.sent.clone(),
            grant: grant.clone(),
        };
        let mut waits = self.save_backoff();
        while let Err(error) = queue.send(&rescue.to_json()).await {
            error!("could not send the new token pair to the rescue queue: {error}");
            tokio::time::sleep(waits.next().unwrap_or_default()).await;
        }
        warn!("sent the new token pair to the rescue queue until DynamoDB accepts it");
    }

    /// Reports what became of a token pair, to the caller and to the event bus.
    async fn report_save(
        &self,
        leased: Leased,
        grant: &Grant,
        saved: Saved,
    ) -> (Report, Option<Box<Candidate>>) {
        match saved {
            Saved::Stored(before) => {
                let is_other_seller = is_another_seller(grant, &leased);
                let is_newly_marked = is_other_seller && before == Status::Active;
                let seller_name = grant.seller.name.clone().or(leased.row.candidate.seller_name.clone());
                let named = Candidate { seller_name, ..leased.row.candidate.clone() };
                let mismatch = Reason::IdentityMismatch;
                if is_newly_marked {
                    self.publish(StateChange::CannotRefresh, &leased.row.candidate, mismatch.as_str()).await;
                } else if !is_other_seller && before == Status::Error {
                    self.publish(StateChange::Recovered, &named, "refreshed").await;
                }
                let report = if is_other_seller {
                    let report = leased.report(Outcome::CannotRefresh).because(mismatch, MISMATCH);
                    Report { is_newly_marked, ..report }
                } else {
                    leased.report(Outcome::Refreshed)
                };
                let stored = Candidate {
                    status: match before {
                        Status::Active | Status::Error if is_other_seller => Status::Error,
                        Status::Error => Status::Active,
                        unchanged => unchanged,
                    },
                    access_expires_at: grant.access_expires_at,
                    refresh_expires_at: grant.refresh_expires_at.or(named.refresh_expires_at),
                    lease: None,
                    last_failure: None,
                    ..named
                };
                (report.expiring(stored.access_expires_at), Some(Box::new(stored)))
            }
            Saved::Superseded(theirs) => {
                let is_ours = |lease: &Lease| lease.owner == leased.attempt_id;
                if theirs.candidate.lease.as_ref().is_some_and(is_ours) {
                    self.release(&leased).await;
                }
                let message = "a newer token pair was stored during the refresh; ours was dropped";
                let report = leased.report(Outcome::Refreshed).because(Reason::Superseded, message);
                (report.expiring(theirs.candidate.access_expires_at), Some(Box::new(theirs.candidate)))
            }
            Saved::Deleted => {
                let message = "the integration was deleted while its token was being refreshed";
                (leased.report(Outcome::Failed).because(Reason::Deleted, message), None)
            }
            Saved::Rescued => {
                let message = "DynamoDB did not accept TikTok's new token pair; the rescue queue holds it";
                (leased.report(Outcome::Queued).because(Reason::Rescued, message), None)
            }
            Saved::Failed(why) => {
                let message = format!("TikTok's new token pair could not be saved: {why}");
                (leased.report(Outcome::Failed).because(Reason::NotSaved, message), None)
            }
        }
    }
}

/// Which token pair a row must keep.
#[derive(Debug, PartialEq, Eq)]
enum Resolution {
    OursIsStored,
    /// The row holds a newer authorization, or a later redemption.
    GiveWay,
    WriteAgain,
}

/// Decides between the pair in hand and a row that changed during the refresh.
fn resolve_conflict(
    stored: &Integration,
    leased: &Leased,
    app_key: Option<&str>,
    grant: &Grant,
    policy: &DuePolicy,
) -> Resolution {
    let new_refresh_token = grant.refresh_token.as_ref().unwrap_or(&leased.sent);
    if stored.still_holds(new_refresh_token) && stored.holds_access_token(Some(&grant.access_token)) {
        return Resolution::OursIsStored;
    }
    let is_rotated = !new_refresh_token.is_same_as(&leased.sent);
    if is_rotated && stored.still_holds(&leased.sent) {
        // Whatever else changed, nobody has redeemed the token but we: a backfilled attribute is no new authorization.
        return Resolution::WriteAgain;
    }
    if is_other_authorization(stored, leased, app_key, grant) {
        // The expiry says nothing across authorizations.
        return Resolution::GiveWay;
    }
    if stored.still_holds(&leased.sent) && stored.holds_access_token(leased.row.access_token.as_ref()) {
        // The pair is the one that was redeemed; only another attribute changed.
        return Resolution::WriteAgain;
    }
    // TikTok's live pair is that of its last redemption, and the absolute expiry is the fencing number. An implausible expiry
    // loses.
    let plausible = |at: Option<UnixTime>| at.filter(|at| policy.is_plausible(*at));
    let (theirs, ours) = (plausible(stored.candidate.access_expires_at), plausible(grant.access_expires_at));
    if theirs.is_some() && theirs >= ours { Resolution::GiveWay } else { Resolution::WriteAgain }
}

/// Whether the row holds another authorization than the one that was refreshed: another generation, or another seller or app
/// where both sides name one.
fn is_other_authorization(
    stored: &Integration,
    leased: &Leased,
    app_key: Option<&str>,
    grant: &Grant,
) -> bool {
    let other_generation =
        matches!(&leased.generation, Generation::Known(id) if *id != stored.authorization_id);
    let differ = |ours: Option<&str>, theirs: Option<&str>| matches!((ours, theirs), (Some(ours), Some(theirs)) if ours != theirs);
    let open_id = leased.row.open_id.as_deref().or(grant.seller.open_id.as_deref());
    other_generation
        || differ(open_id, stored.open_id.as_deref())
        || differ(app_key, stored.candidate.app_key.as_deref())
}

/// A pair that belongs to another seller than the row is kept, but must not be used. The row keeps its own `open_id`, so that
/// the mismatch shows again at the next attempt.
fn is_another_seller(grant: &Grant, leased: &Leased) -> bool {
    matches!((&grant.seller.open_id, &leased.row.open_id), (Some(theirs), Some(ours)) if theirs != ours)
}
