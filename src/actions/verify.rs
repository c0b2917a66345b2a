//! Does a token work? Calls TikTok with it: the valid token first, on a token error one refresh by the same protocol and
//! one more try; any other error is named as what it is, and refreshes nothing.

use crate::{
    aws::{
        dynamodb::{Malformed, StoreError},
        secrets_manager::CredentialsError,
    },
    domain::{
        integration::{AccessState, Candidate, IntegrationKey, Rule, Status},
        outcome::Outcome,
        secret::{AccessToken, AppCredentials},
        selection::Selection,
    },
    refresh::{Attempt, Refresher},
    response::{VerifyAnswer, VerifyReport, VerifyTally},
    services::Services,
    tiktok::ApiError,
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use std::{future::Future, sync::Arc};
use tracing::{error, info};

/// Why a run could not be done as a whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The table cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Why there is no valid token, or no answer to a call with one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The row or the table says no.
    #[error("{message}")]
    NoToken {
        /// As in the answer.
        reason: &'static str,
        /// For a person.
        message: String,
        /// TikTok's code, where it gave one.
        code: Option<i64>,
    },
    /// TikTok refused the call.
    #[error(transparent)]
    Call(#[from] ApiError),
}

/// A call's result, and whether it took a refresh to get it.
#[derive(Debug)]
pub struct Fresh<T> {
    /// What the call answered.
    pub value: T,
    /// Whether the token was refreshed for it.
    pub was_refreshed: bool,
}

/// Verifies each active integration of a selection, by `deadline`.
///
/// # Errors
/// [`VerifyError`] if the table or the secret cannot be read.
pub async fn run(
    services: &Services,
    selection: &Selection,
    deadline: DateTime<Utc>,
) -> Result<VerifyAnswer, VerifyError> {
    let run_id = uuid::Uuid::new_v4().to_string();
    let refresher = Arc::new(refresher(services, &run_id, deadline).await?);
    // An operator who names a team has looked at it; over the whole table a rejection may be the app's fault.
    let marks = *selection != Selection::All;
    let mut tally = VerifyTally::default();
    let mut pages = services.store.candidates(selection);
    while let Some(page) = pages.next().await {
        // A task each: one that panics must not take another's save with it.
        let rows = stream::iter(page?).map(|row| tokio::spawn(examine(refresher.clone(), row, marks)));
        let mut reports = rows.buffer_unordered(services.settings.max_concurrency);
        while let Some(report) = reports.next().await {
            match report {
                Ok(report) => count(&mut tally, &run_id, report),
                Err(panic) => error!(run_id, "a verification was lost: {panic}"),
            }
        }
    }
    Ok(VerifyAnswer::new(run_id, selection, tally))
}

/// What the refreshes of a verification share. Forced, since a token that TikTok does not take is due whatever its row
/// says.
async fn refresher(
    services: &Services,
    run_id: &str,
    deadline: DateTime<Utc>,
) -> Result<Refresher, CredentialsError> {
    let rule = Rule {
        now: services.clock.now(),
        refresh_ahead: services.settings.refresh_ahead,
        force: true,
        unless_refreshed_since: None,
    };
    Ok(services.refresher(run_id, services.credentials.apps().await?, deadline, &rule))
}

async fn examine(refresher: Arc<Refresher>, row: Result<Candidate, Malformed>, marks: bool) -> VerifyReport {
    let row = match row {
        Ok(row) => row,
        Err(malformed) => {
            return VerifyReport::failed(malformed.key.clone(), "malformed_row", malformed.to_string(), None);
        }
    };
    if row.status != Status::Active {
        return VerifyReport::skipped(row.key, row.status.as_str());
    }
    let key = row.key.clone();
    let shops = call_with_valid_token(&refresher, row, marks, |app, token| {
        let refresher = refresher.clone();
        async move { refresher.tiktok.get_authorized_shops(&app, &token, refresher.clock.now()).await }
    });
    match shops.await {
        Ok(shops) => {
            VerifyReport::valid(key, shops.was_refreshed, shops.value.into_iter().map(|shop| shop.id))
        }
        Err(TokenError::NoToken { reason, message, code }) => {
            VerifyReport::failed(key, reason, message, code)
        }
        Err(TokenError::Call(error)) => {
            VerifyReport::failed(key, error.reason(), error.to_string(), error.code())
        }
    }
}

/// An access token that lives for more than 5 minutes: the stored one, or a new one.
///
/// # Errors
/// [`TokenError::NoToken`], with the reason.
pub async fn ensure_valid_access_token(
    services: &Services,
    key: &IntegrationKey,
    deadline: DateTime<Utc>,
) -> Result<AccessToken, TokenError> {
    let (refresher, row) = prepared(services, key, deadline).await?;
    match valid_token(&refresher, &row).await? {
        Some(token) => Ok(token),
        None => ensure_refreshed(&refresher, row, true).await,
    }
}

/// Makes a call with an integration's access token; see [`call_with_valid_token`].
///
/// # Errors
/// [`TokenError`], whose call's part is the call's own.
pub async fn call_for<T, F, Fut>(
    services: &Services,
    key: &IntegrationKey,
    deadline: DateTime<Utc>,
    call: F,
) -> Result<Fresh<T>, TokenError>
where
    F: Fn(AppCredentials, AccessToken) -> Fut,
    Fut: Future<Output = Result<T, ApiError>>,
{
    let (refresher, row) = prepared(services, key, deadline).await?;
    call_with_valid_token(&refresher, row, true, call).await
}

async fn prepared(
    services: &Services,
    key: &IntegrationKey,
    deadline: DateTime<Utc>,
) -> Result<(Arc<Refresher>, Candidate), TokenError> {
    let no_token = |reason, message| TokenError::NoToken { reason, message, code: None };
    let run_id = uuid::Uuid::new_v4().to_string();
    let refresher = refresher(services, &run_id, deadline)
        .await
        .map_err(|error| no_token("credentials_unavailable", error.to_string()))?;
    let row = services.store.read(key).await.map_err(|error| no_token("store_error", error.to_string()))?;
    match row {
        Some(row) if row.candidate.status == Status::Active => Ok((Arc::new(refresher), row.candidate)),
        Some(row) => Err(no_token("status", format!("its status is {:?}", row.candidate.status.as_str()))),
        None => Err(no_token("not_found", format!("there is no {key} in the table"))),
    }
}

/// The stored token, if it has not expired by its row.
async fn valid_token(refresher: &Refresher, row: &Candidate) -> Result<Option<AccessToken>, TokenError> {
    match row.access_state(refresher.clock.now()) {
        AccessState::Expired => Ok(None),
        AccessState::ExpiringSoon | AccessState::Ok => stored_token(refresher, row).await,
    }
}

/// Calls TikTok with an integration's access token. A token that has expired is refreshed before, one that TikTok does
/// not take is refreshed once and the call made again; no other error refreshes anything. With `marks`, a seller who
/// must connect again is marked.
///
/// # Errors
/// [`TokenError`], whose call's part is the call's own.
pub async fn call_with_valid_token<T, F, Fut>(
    refresher: &Arc<Refresher>,
    row: Candidate,
    marks: bool,
    call: F,
) -> Result<Fresh<T>, TokenError>
where
    F: Fn(AppCredentials, AccessToken) -> Fut,
    Fut: Future<Output = Result<T, ApiError>>,
{
    let no_app = || TokenError::NoToken {
        reason: "unknown_app_key",
        message: "the secret does not hold the app that the row names".into(),
        code: None,
    };
    if let Some(token) = valid_token(refresher, &row).await? {
        let app = refresher.app(&row).ok_or_else(no_app)?;
        refresher.limiter.until_ready(&app.app_key).await;
        match call((*app).clone(), token).await {
            Ok(value) => return Ok(Fresh { value, was_refreshed: false }),
            Err(ApiError::Token { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let token = ensure_refreshed(refresher, row.clone(), marks).await?;
    let app = refresher.app(&row).ok_or_else(no_app)?;
    refresher.limiter.until_ready(&app.app_key).await;
    Ok(Fresh { value: call((*app).clone(), token).await?, was_refreshed: true })
}

/// Refreshes an integration's token by the protocol, and answers the new one. In a task of its own: whoever waits for it
/// may give up, and a refresh in mid-flight must not end with that.
///
/// # Errors
/// [`TokenError::NoToken`] with the reason of the refresh.
async fn ensure_refreshed(
    refresher: &Arc<Refresher>,
    row: Candidate,
    marks: bool,
) -> Result<AccessToken, TokenError> {
    let (task_refresher, candidate) = (refresher.clone(), row.clone());
    let refresh = tokio::spawn(async move {
        match task_refresher.refresh(&candidate).await {
            Attempt::Done { report, .. } => report,
            Attempt::Rejected(rejected) if marks => task_refresher.mark(*rejected).await,
            Attempt::Rejected(rejected) => task_refresher.spare(*rejected).await,
        }
    });
    let no_token = |reason, message, code| TokenError::NoToken { reason, message, code };
    let report = refresh.await.map_err(|lost| no_token("internal_error", lost.to_string(), None))?;
    if report.outcome != Outcome::Refreshed {
        let reason = report.reason.unwrap_or(report.outcome.as_str());
        let message = report.message.clone().unwrap_or_else(|| "it was not refreshed".into());
        return Err(no_token(reason, message, report.tiktok_code));
    }
    stored_token(refresher, &row).await?.ok_or_else(|| no_token("deleted", "the row is gone".into(), None))
}

async fn stored_token(refresher: &Refresher, row: &Candidate) -> Result<Option<AccessToken>, TokenError> {
    let stored = refresher.store.read(&row.key).await.map_err(|error| TokenError::NoToken {
        reason: "store_error",
        message: error.to_string(),
        code: None,
    })?;
    Ok(stored.and_then(|row| row.access_token))
}

fn count(tally: &mut VerifyTally, run_id: &str, report: VerifyReport) {
    let (team_id, integration_id) = (report.key.team_id.as_str(), report.key.integration_id.as_str());
    let (outcome, reason) = (report.outcome, report.reason.as_deref());
    match &report.message {
        Some(why) if outcome == "failed" => {
            error!(run_id, team_id, integration_id, outcome, reason, "TikTok token not verified: {why}");
        }
        _ => info!(run_id, team_id, integration_id, outcome, reason, "TikTok token verified"),
    }
    tally.add(report);
}
