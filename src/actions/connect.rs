//! `connect`: exchanges a seller's auth code for a token pair and stores the integration, new or connected again. Another
//! seller's row is taken over only if the request says so.

use crate::{
    aws::{
        dynamodb::{ConditionalWrite, Conflict, TableError, Update, updates},
        eventbridge::StateChange,
        secrets_manager::CredentialsError,
    },
    domain::{
        grant::Grant,
        integration::{Integration, Status},
    },
    event::ConnectRequest,
    response::ConnectResponse,
    services::Services,
    tiktok::CallError,
};
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use tracing::{Instrument, error, info, warn};

/// How often a connect reads a changed row and writes again before it gives up.
const MAX_CONFLICTS: u32 = 10;

/// Why an integration could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The secret does not hold the app.
    #[error("app_key: the secret has no app {0:?}")]
    UnknownApp(String),
    /// TikTok did not accept the code.
    #[error(
        "the auth code was not exchanged: {0}; an auth code works once and expires soon, so ask the seller to authorize the \
         app again"
    )]
    Exchange(CallError),
    /// The row belongs to another seller.
    #[error(
        "this row belongs to another seller ({row}), and the code to {code}: use another integration_id, or \
         \"replace\": true to give the row away; the code is used up, so the seller must authorize the app again"
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
            Self::Table(_) => "TableUnavailable",
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
pub(crate) async fn run(
    services: &Services,
    request: &ConnectRequest,
    deadline: DateTime<Utc>,
) -> Result<ConnectResponse, ConnectError> {
    connect(services, request, deadline).instrument(request.key.span()).await
}

async fn connect(
    services: &Services,
    request: &ConnectRequest,
    deadline: DateTime<Utc>,
) -> Result<ConnectResponse, ConnectError> {
    let apps = services.credentials.apps().await?;
    // Before the code is used up: a table that cannot be read could not be written either.
    let row = services.table.read(&request.key).await?;
    let named = request.app_key.as_deref().or(row.as_ref().and_then(|row| row.candidate.app_key.as_deref()));
    let app =
        apps.get(named).ok_or_else(|| ConnectError::UnknownApp(named.unwrap_or_default().to_owned()))?;
    services.rate_limiter.until_ready(&app.app_key).await;
    let mut result = services.tiktok.exchange(app, &request.auth_code).await;
    if let Err(CallError::Ambiguous { .. } | CallError::NotConnected { .. } | CallError::Busy { .. }) = result
    {
        tokio::time::sleep(services.retry_policy.lost_response_wait).await;
        result = services.tiktok.exchange(app, &request.auth_code).await;
    }
    let grant = result.map_err(ConnectError::Exchange)?;
    let outcome = store(services, request, row, &grant, deadline)
        .await
        .inspect_err(|error| error!("could not connect the TikTok Shop integration: {error}"))?;
    let new_expires_at = grant.access_expires_at.map(|at| at.0);
    info!(outcome, new_expires_at, "TikTok Shop integration connected");
    Ok(ConnectResponse::new(request.key.clone(), outcome, &grant))
}

/// Stores a token pair, whatever becomes of the row meanwhile. Returns the response's `outcome`.
async fn store(
    services: &Services,
    request: &ConnectRequest,
    mut row: Option<Integration>,
    grant: &Grant,
    deadline: DateTime<Utc>,
) -> Result<&'static str, ConnectError> {
    for _ in 0..MAX_CONFLICTS {
        let is_same_seller = is_same_seller(row.as_ref(), grant);
        if !is_same_seller && !request.replace {
            let seller =
                |open_id: Option<&String>| open_id.map_or_else(|| "of no known id".into(), Clone::clone);
            return Err(ConnectError::AnotherSeller {
                row: seller(row.as_ref().and_then(|row| row.open_id.as_ref())),
                code: seller(grant.seller.open_id.as_ref()),
            });
        }
        let update = updates::connect(grant, row.as_ref(), request.app_key.as_deref(), services.clock.now());
        let was_marked =
            row.as_ref().is_some_and(|row| matches!(row.candidate.status, Status::Error | Status::Expired));
        match write_with_retries(services, request, row.is_some(), update, deadline).await? {
            Ok(()) => {
                if was_marked {
                    publish_recovery(services, request, grant).await;
                }
                return Ok(match (row, is_same_seller) {
                    (None, _) => "connected",
                    (Some(_), true) => "reconnected",
                    (Some(_), false) => "replaced",
                });
            }
            // Our own write, whose response was lost.
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

/// A row without a known seller is anybody's; a grant without a known seller is nobody's.
fn is_same_seller(row: Option<&Integration>, grant: &Grant) -> bool {
    match row.and_then(|row| row.open_id.as_ref()) {
        None => true,
        ours => ours == grant.seller.open_id.as_ref(),
    }
}

/// Retries until the invocation's last second: the code is used up, and the token pair has no other place.
async fn write_with_retries(
    services: &Services,
    request: &ConnectRequest,
    exists: bool,
    update: Update,
    deadline: DateTime<Utc>,
) -> ConditionalWrite {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(services.retry_policy.save_backoff)
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times();
    let last_second = deadline - TimeDelta::seconds(1);
    let (table, key) = (&services.table, &request.key);
    (|| async {
        if exists { table.update(key, update.clone()).await } else { table.create(key, update.clone()).await }
    })
    .retry(backoff)
    .when(|_| services.clock.now() < last_second)
    .notify(|error, _| warn!("could not save the new token pair yet, retrying: {error}"))
    .await
}

async fn publish_recovery(services: &Services, request: &ConnectRequest, grant: &Grant) {
    let Some(bus) = &services.event_bus else { return };
    let (key, name, now) = (&request.key, grant.seller.name.as_deref(), services.clock.now());
    if let Err(error) = bus.publish(StateChange::Recovered, key, name, "connected", now).await {
        error!("could not publish a state change: {error}");
    }
}
