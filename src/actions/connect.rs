//! The way in, and the way back: exchanges a seller's auth code for a pair and stores the integration, new or connected
//! again. Another seller's row is not taken over unless the request says so.

use crate::{
    aws::{
        dynamodb::{Change, Conditional, Conflict, StoreError},
        eventbridge,
        secrets_manager::CredentialsError,
    },
    domain::{
        grant::Grant,
        integration::{Integration, Status},
    },
    event::ConnectRequest,
    refresh::{with_pair, with_seller},
    response::ConnectAnswer,
    services::Services,
    tiktok::CallError,
};
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use tracing::{error, info, warn};

/// How often a changed row is looked at and written again.
const ROUNDS: u32 = 10;

/// Why an integration could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The table cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret does not hold the app.
    #[error("app_key: the secret has no app {0:?}")]
    UnknownApp(String),
    /// TikTok did not take the code.
    #[error(
        "the auth code was not exchanged: {0}; auth codes work once and not for long, so ask the seller to authorize the app again"
    )]
    Exchange(CallError),
    /// The row is another seller's.
    #[error(
        "this row belongs to another seller ({row}), and the code to {code}: use another integration_id, or \
         \"replace\": true to give the row away; the code is used up now, so the seller must authorize the app again"
    )]
    AnotherSeller {
        /// The row's `open_id`.
        row: String,
        /// The code's `open_id`.
        code: String,
    },
    /// Others write the row all the time.
    #[error(
        "the row changed again and again meanwhile; the code is used up, so the seller must authorize the app again"
    )]
    Contended,
}

impl ConnectError {
    /// The name of the error's kind, as Lambda's `errorType`.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "CredentialsUnavailable",
            Self::Store(_) => "TableUnavailable",
            Self::UnknownApp(_) => "BadEvent",
            Self::Exchange(_) => "CodeRefused",
            Self::AnotherSeller { .. } | Self::Contended => "ConnectRefused",
        }
    }
}

/// Connects an integration, by `deadline`.
///
/// # Errors
/// [`ConnectError`], with what to do about it.
pub async fn run(
    services: &Services,
    request: &ConnectRequest,
    deadline: DateTime<Utc>,
) -> Result<ConnectAnswer, ConnectError> {
    let key = &request.key;
    let apps = services.credentials.apps().await?;
    // Read before the code is used: what cannot be read could not be written either.
    let row = services.store.read(key).await?;
    let named = request.app_key.as_deref().or(row.as_ref().and_then(|row| row.candidate.app_key.as_deref()));
    let app =
        apps.get(named).ok_or_else(|| ConnectError::UnknownApp(named.unwrap_or_default().to_owned()))?;
    services.limiter.until_ready(&app.app_key).await;
    let mut answer = services.tiktok.exchange(app, &request.auth_code).await;
    if let Err(CallError::Ambiguous { .. } | CallError::NotConnected { .. } | CallError::Busy { .. }) = answer
    {
        tokio::time::sleep(services.pace.ask_again_after).await;
        answer = services.tiktok.exchange(app, &request.auth_code).await;
    }
    let grant = answer.map_err(ConnectError::Exchange)?;
    let outcome = store(services, request, row, &grant, deadline).await.inspect_err(|error| {
        error!(
            team_id = key.team_id.as_str(),
            integration_id = key.integration_id.as_str(),
            "not connected: {error}"
        );
    })?;
    info!(
        team_id = key.team_id.as_str(),
        integration_id = key.integration_id.as_str(),
        outcome,
        new_expires_at = grant.access_expires_at.map(|at| at.0),
        "TikTok Shop integration connected",
    );
    Ok(ConnectAnswer::new(key.clone(), outcome, &grant))
}

/// Stores a pair, whatever becomes of the row meanwhile.
async fn store(
    services: &Services,
    request: &ConnectRequest,
    mut row: Option<Integration>,
    grant: &Grant,
    deadline: DateTime<Utc>,
) -> Result<&'static str, ConnectError> {
    for _ in 0..ROUNDS {
        let is_same_seller = is_same_seller(row.as_ref(), grant);
        if !is_same_seller && !request.replace {
            let seller =
                |open_id: Option<&String>| open_id.map_or_else(|| "of no known id".into(), Clone::clone);
            return Err(ConnectError::AnotherSeller {
                row: seller(row.as_ref().and_then(|row| row.open_id.as_ref())),
                code: seller(grant.seller.open_id.as_ref()),
            });
        }
        let change = connecting(request, row.as_ref(), grant, services.clock.now());
        let was_marked =
            row.as_ref().is_some_and(|row| matches!(row.candidate.status, Status::Error | Status::Expired));
        match write(services, request, row.is_some(), change, deadline).await? {
            Ok(()) => {
                if was_marked {
                    announce_recovery(services, request, grant).await;
                }
                return Ok(match (row, is_same_seller) {
                    (None, _) => "connected",
                    (Some(_), true) => "reconnected",
                    (Some(_), false) => "replaced",
                });
            }
            // Our own write, whose answer was lost.
            Err(Conflict::Changed(stored))
                if stored
                    .access_token
                    .as_ref()
                    .is_some_and(|token| token.is_same_as(&grant.access_token)) =>
            {
                return Ok(if row.is_some() { "reconnected" } else { "connected" });
            }
            Err(Conflict::Changed(stored)) => row = Some(*stored),
            Err(Conflict::Deleted) => row = None,
        }
    }
    Err(ConnectError::Contended)
}

/// A row of no known seller is anybody's; a grant of no known seller is nobody's.
fn is_same_seller(row: Option<&Integration>, grant: &Grant) -> bool {
    match row.and_then(|row| row.open_id.as_ref()) {
        None => true,
        ours => ours == grant.seller.open_id.as_ref(),
    }
}

fn connecting(
    request: &ConnectRequest,
    row: Option<&Integration>,
    grant: &Grant,
    now: DateTime<Utc>,
) -> Change {
    let mut change = with_seller(with_pair(Change::default(), grant, now), &grant.seller)
        .release()
        .remove(&["error_code", "error_message", "error_at", "consecutive_failures", "refresh_token_notice"]);
    if let Some(app_key) = &request.app_key {
        change = change.set_text("app_key", app_key);
    }
    // A status of the user's own stays; what this function marked is healed.
    match row.map(|row| &row.candidate.status) {
        Some(Status::Other(status)) if !status.is_empty() => change = change.only_if("status", Some(status)),
        Some(status) if !status.as_str().is_empty() => {
            change =
                change.only_if("status", Some(status.as_str())).set_text("status", Status::Active.as_str());
        }
        _ => change = change.set_text("status", Status::Active.as_str()),
    }
    match row.and_then(|row| row.open_id.as_deref()) {
        Some(open_id) => change.only_if("open_id", Some(open_id)),
        None => change,
    }
}

/// Writes until the invocation's last second: the code is used up, and the pair has no other place.
async fn write(
    services: &Services,
    request: &ConnectRequest,
    exists: bool,
    change: Change,
    deadline: DateTime<Utc>,
) -> Conditional {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(services.pace.save_retry_after)
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times();
    let last_second = deadline - TimeDelta::seconds(1);
    let (store, key) = (&services.store, &request.key);
    (|| async {
        if exists { store.change(key, change.clone()).await } else { store.create(key, change.clone()).await }
    })
    .retry(backoff)
    .when(|_| services.clock.now() < last_second)
    .notify(|error, _| {
        warn!(
            team_id = key.team_id.as_str(),
            integration_id = key.integration_id.as_str(),
            "TikTok's new pair is not saved yet, trying again: {error}",
        );
    })
    .await
}

async fn announce_recovery(services: &Services, request: &ConnectRequest, grant: &Grant) {
    let Some(bus) = &services.bus else { return };
    let (key, name, now) = (&request.key, grant.seller.name.as_deref(), services.clock.now());
    if let Err(error) = bus.announce(eventbridge::Change::Recovered, key, name, "connected", now).await {
        error!(
            team_id = key.team_id.as_str(),
            integration_id = key.integration_id.as_str(),
            "a change of state could not be published: {error}",
        );
    }
}
