//! Marks: which rejected rows are marked, and what is published. A mark is a second write, after the rejection was noted, so
//! that it can wait for proof without a lease.

use super::{Leased, Refresher};
use crate::{
    aws::{
        dynamodb::{Conflict, updates},
        eventbridge::StateChange,
    },
    domain::{
        due::AccessState,
        integration::{Candidate, Integration, IntegrationKey, Notice, Status, UnixTime},
        outcome::{CHANGED, DELETED, Outcome, Report, marked},
        proof::Evidence,
        reason::Reason,
        secret::{AccessToken, AppCredentials, Fingerprint},
    },
    tiktok::{ApiError, CallError},
};
use chrono::TimeDelta;
use std::{fmt::Display, sync::Arc};
use tokio::time::timeout;
use tracing::{error, info, warn};

/// The most witnesses that are asked for one app.
const MAX_WITNESSES: usize = 3;
/// How long the link in a published event works.
const LINK_LIFE: TimeDelta = TimeDelta::days(30);

/// A row whose refresh token TikTok rejected. The rejection is noted in the row, and the lease is released.
#[derive(Debug)]
pub(crate) struct Rejected {
    /// The row as it was when its lease was acquired.
    row: Box<Integration>,
    /// The app that the rejection counts for, and its credentials.
    app: Arc<AppCredentials>,
    pub(crate) fingerprint: Fingerprint,
    /// The fingerprint of everything the row was tried with, as the row notes it.
    tried: Fingerprint,
    failure: updates::Failure,
    tiktok_code: Option<i64>,
    /// Whether the row's access token was tried and nobody knows whether it works.
    pub(crate) may_have_live_token: bool,
}

impl Rejected {
    pub(super) fn new(
        leased: Leased,
        app: Arc<AppCredentials>,
        tried: Fingerprint,
        failure: updates::Failure,
        code: Option<i64>,
    ) -> Self {
        Self {
            row: leased.row,
            fingerprint: app.fingerprint(),
            app,
            tried,
            failure,
            tiktok_code: code,
            may_have_live_token: false,
        }
    }

    pub(crate) fn key(&self) -> &IntegrationKey {
        &self.row.candidate.key
    }

    pub(crate) fn app_key(&self) -> &str {
        &self.app.app_key
    }

    /// TikTok's answer, for people.
    pub(crate) fn message(&self) -> &str {
        &self.failure.message
    }

    /// Whether an earlier run marked the row: then this rejection says nothing new of the app.
    pub(crate) fn was_marked(&self) -> bool {
        self.row.candidate.status == Status::Error
    }

    /// The report of a row that an earlier run marked.
    pub(crate) fn report_marked(&self) -> Report {
        let status = &self.row.candidate.status;
        let report = marked(&self.row.candidate, status).because(Reason::Marked, self.message());
        Report { error_reason: Some(self.failure.reason.as_str().to_owned()), ..report }
            .with_code(self.tiktok_code)
    }

    /// The report of a row that is not marked, because of its own rejection.
    pub(crate) fn report_noted(&self) -> Report {
        self.report(Outcome::Failed).because(self.failure.reason, self.message())
    }

    /// The report of a row that is not marked, because of its app.
    pub(crate) fn report_suspicion(&self) -> Report {
        let message =
            format!("{}; not marked, as nothing proves that the app's credentials are right", self.message());
        self.report(Outcome::Failed).because(Reason::AppUnderSuspicion, message)
    }

    fn report(&self, outcome: Outcome) -> Report {
        Report::of(&self.row.candidate, outcome).with_code(self.tiktok_code)
    }
}

impl Refresher {
    /// Whether a rejected row's own access token still works. If it does, the authorization is alive and only the row's refresh
    /// token is stale: another row of the same authorization has used it, or TikTok's response was lost. Returns the evidence
    /// and the key of the app that it is about.
    pub(crate) async fn check_own_token(&self, rejected: &Rejected) -> (Evidence, String) {
        let row = &rejected.row.candidate;
        let has_expired = row.has_plausible_expiry(&self.due_policy())
            && row.access_expires_at.is_some_and(|at| at.has_passed(self.services.clock.now()));
        let Some(token) = rejected.row.access_token.as_ref().filter(|_| !has_expired) else {
            return (Evidence::DeadToken, rejected.app.app_key.clone());
        };
        // A row that names no app may belong to any.
        let others =
            self.run.apps.0.iter().filter(|app| row.app_key.is_none() && app.app_key != rejected.app.app_key);
        let mut last = (Evidence::DeadToken, rejected.app.app_key.clone());
        for app in std::iter::once(&rejected.app).chain(others) {
            match self.evidence(row, app, token).await {
                Evidence::DeadToken => {}
                proof @ Evidence::Proves(_) => return (proof, app.app_key.clone()),
                other => last = (other, app.app_key.clone()),
            }
        }
        last
    }

    /// Reports a row whose access token works although its refresh token was rejected, and corrects the reason in the row.
    pub(crate) async fn report_lost_token(&self, rejected: &Rejected) -> Report {
        let reason = Reason::RefreshTokenLost;
        let update = updates::correct_reason(&rejected.tried, rejected.failure.at, reason);
        if let Err(error) = self.in_time(self.services.table.update(rejected.key(), update)).await {
            warn!("could not correct the reason that is noted in the row: {error}");
        }
        let message = format!(
            "{}; its access token still works, so only the stored refresh token is stale: another row holds the same \
             authorization, or a response was lost; the seller must connect again before the access token expires",
            rejected.message()
        );
        rejected.report(Outcome::Failed).because(reason, message)
    }

    /// Asks other rows of an app whether its credentials are right: each is a witness if its access token works.
    pub(crate) async fn ask_witnesses(&self, app_key: &str, witnesses: &[IntegrationKey]) -> Evidence {
        let Some(app) = self.app_by_key(Some(app_key)) else { return Evidence::Nothing };
        let mut asked = 0;
        for key in witnesses {
            if asked == MAX_WITNESSES {
                break;
            }
            if !self.has_time_for_a_call() {
                return Evidence::OutOfTime;
            }
            let row = match self.in_time(self.services.table.read(key)).await {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(error) => {
                    warn!("could not read a row that may prove the credentials of app {app_key}: {error}");
                    continue;
                }
            };
            let is_witness = row.candidate.status == Status::Active
                && row.candidate.has_plausible_expiry(&self.due_policy())
                && row.candidate.access_state(self.services.clock.now()) != AccessState::Expired;
            let Some(token) = row.access_token.as_ref().filter(|_| is_witness) else { continue };
            asked += 1;
            match self.evidence(&row.candidate, &app, token).await {
                Evidence::DeadToken | Evidence::Nothing => {}
                Evidence::OutOfTime => return Evidence::OutOfTime,
                conclusive => {
                    let _span = key.span().entered();
                    info!(app_key, "this integration's access token was tried: {conclusive}");
                    return conclusive;
                }
            }
        }
        Evidence::Nothing
    }

    /// Calls Get Authorized Shops with a row's access token, and says what the answer proves.
    async fn evidence(&self, row: &Candidate, app: &AppCredentials, token: &AccessToken) -> Evidence {
        self.services.rate_limiter.until_ready(&app.app_key).await;
        if !self.has_time_for_a_call() {
            return Evidence::OutOfTime;
        }
        match self.get_authorized_shops_once(app, token).await {
            Ok(_) | Err(ApiError::Scope { .. }) => Evidence::Proves(app.fingerprint()),
            Err(ApiError::Token { .. }) => Evidence::DeadToken,
            // The token may be another app's.
            Err(ApiError::Call(CallError::Misconfigured { .. }))
                if row.app_key.is_none() && self.run.apps.0.len() > 1 =>
            {
                Evidence::Nothing
            }
            Err(error @ (ApiError::Signature { .. } | ApiError::Call(CallError::Misconfigured { .. }))) => {
                Evidence::Disproves(error.to_string())
            }
            Err(ApiError::Shop { .. } | ApiError::Call(_)) => Evidence::Nothing,
        }
    }

    /// Marks a rejected row as `error`, if it is still as TikTok rejected it. The next run decides if there is no time, or if
    /// nobody knows whether its access token works.
    pub(crate) async fn mark(&self, rejected: Rejected) -> Report {
        if rejected.may_have_live_token || !self.has_time_for_a_call() {
            return rejected.report_noted();
        }
        let key = rejected.key();
        let reason = rejected.failure.reason;
        let report = rejected.report(Outcome::CannotRefresh).because(reason, rejected.message());
        let newly_marked = Report { is_newly_marked: true, ..report };
        let update = updates::mark(&rejected.row, &rejected.tried, &rejected.failure);
        match self.in_time(self.services.table.update(key, update)).await {
            Ok(Ok(())) => {
                self.publish(StateChange::CannotRefresh, &rejected.row.candidate, reason.as_str()).await;
                newly_marked
            }
            Ok(Err(Conflict::Deleted)) => rejected.report(Outcome::NotDue).because(Reason::Deleted, DELETED),
            Ok(Err(Conflict::Changed(row))) if row.candidate.status == Status::Error => {
                let is_our_note = row.error_at == Some(rejected.failure.at)
                    && row.consecutive_failures == rejected.failure.consecutive_failures;
                if !is_our_note {
                    // Another run's mark, which that run published and counted.
                    return Report { is_newly_marked: false, ..newly_marked };
                }
                // Our own mark, whose response was lost.
                self.publish(StateChange::CannotRefresh, &rejected.row.candidate, reason.as_str()).await;
                newly_marked
            }
            Ok(Err(Conflict::Changed(row))) => rejected
                .report(Outcome::NotDue)
                .because(Reason::ChangedMeanwhile, CHANGED)
                .expiring(row.candidate.access_expires_at),
            Err(error) => {
                let message = format!("{}; not marked: {error}", rejected.message());
                rejected.report(Outcome::Failed).because(Reason::StoreError, message)
            }
        }
    }

    /// Publishes once that a refresh token expires soon: whoever notes the warning in the row publishes it.
    pub(crate) async fn warn_of_expiry(&self, candidate: &Candidate, notice: Notice) {
        let note = updates::note_expiry_warning(candidate, notice);
        match self.in_time(self.services.table.update(&candidate.key, note)).await {
            Ok(Ok(())) => {
                let reason = format!("expires_within_{}_days", notice.days);
                self.publish(StateChange::RefreshTokenExpiring, candidate, &reason).await;
            }
            // Another run has noted it, or the token was renewed.
            Ok(Err(_)) => {}
            Err(error) => warn!("could not note in the row that its refresh token expires soon: {error}"),
        }
    }

    /// Publishes a state change, if there is an event bus. A failure is logged and counted, and undoes nothing.
    pub(super) async fn publish(&self, change: StateChange, row: &Candidate, reason: &str) {
        let Some(bus) = &self.services.event_bus else { return };
        let (seller_name, now) = (row.seller_name.as_deref(), self.services.clock.now());
        // The current version's secret, whichever TikTok accepts in this run: links outlive a rotation by one version.
        let app = self.run.apps.get(row.app_key.as_deref()).filter(|_| change.asks_the_seller());
        let expires_at = UnixTime::after(now, LINK_LIFE);
        let url = app.and_then(|app| self.services.connect_url(app, &row.key, None, expires_at));
        let publish = bus.publish(change, &row.key, seller_name, reason, now, url.as_deref());
        match timeout(self.services.time_for_a_request(self.run.deadline), publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.record_unpublished(error),
            Err(_) => self.record_unpublished("the invocation's time runs out"),
        }
    }

    /// Logs and counts a state change that was not published.
    pub(crate) fn record_unpublished(&self, error: impl Display) {
        self.record(|statistics| statistics.unpublished += 1);
        error!("could not publish a state change: {error}");
    }
}
