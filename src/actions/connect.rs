//! `connect`: exchanges a seller's auth code for a token pair, and stores it in a new or an existing row. Replaces another seller's
//! row only if the request says so.

use super::{
    connect_link::{self, UnverifiedError},
    shops,
};
use crate::{
    aws::{
        dynamodb::{
            ConditionalWrite, Conflict, TableError, Update,
            updates::{self, Authorization},
        },
        eventbridge::StateChange,
        secrets_manager::CredentialsError,
    },
    domain::{
        grant::Grant,
        integration::{Integration, Status},
        quoted::quoted,
        secret::AppCredentials,
    },
    event::{BadEvent, ConnectByState, ConnectRequest},
    response::ConnectResponse,
    services::Services,
    tiktok::CallError,
};
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, TimeDelta, Utc};
use std::{future::Future, sync::Arc, time::Duration};
use tracing::{Instrument, error, info, warn};

/// The number of write conflicts that are resolved even if the deadline seems to have passed, because this clock may be fast.
const MIN_CONFLICTS: u32 = 10;
const OUT_OF_TIME: &str = "the invocation's time ran out";

/// Why an integration could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The state is not accepted, or does not match the request.
    #[error(transparent)]
    BadEvent(#[from] BadEvent),
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table cannot be written.
    #[error("{0}; the auth code is used up, so the seller must authorize the app again")]
    NotStored(TableError),
    /// The secret does not hold the app, which is [`quoted`].
    #[error("app_key: the secret has no app {0}")]
    UnknownApp(String),
    /// The code was not exchanged: TikTok refused it, or did not answer.
    #[error(
        "the auth code was not exchanged: {0}; an auth code works once and expires soon, so ask the seller to authorize the \
         app again"
    )]
    Exchange(CallError),
    /// There is too little time left for the exchange.
    #[error(
        "too little time was left to exchange the auth code; the code is not used up, so connect again with it"
    )]
    OutOfTime,
    /// The row belongs to another seller.
    #[error(
        "the row belongs to another seller ({row}) than the auth code ({code}): use another integration_id, or pass \
         \"replace\": true to give the row to the new seller; the code is used up, so the seller must authorize the app again"
    )]
    AnotherSeller {
        /// The row's `open_id`.
        row: String,
        /// The code's `open_id`.
        code: String,
    },
    /// Another connect has stored a later authorization.
    #[error(
        "another connect has stored a later authorization in this row, which stays; if it is the wrong one, the seller \
         must authorize the app again"
    )]
    Overtaken,
    /// Other writers kept changing the row.
    #[error(
        "other writers kept changing the row; the code is used up, so the seller must authorize the app again"
    )]
    Contended,
}

impl ConnectError {
    /// The name of the error's kind, as Lambda's `errorType`.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "CredentialsUnavailable",
            Self::Table(_) | Self::NotStored(_) => "TableUnavailable",
            Self::OutOfTime => "OutOfTime",
            Self::UnknownApp(_) | Self::BadEvent(_) => "BadEvent",
            Self::Exchange(_) => "CodeRefused",
            Self::AnotherSeller { .. } | Self::Overtaken | Self::Contended => "ConnectRefused",
        }
    }
}

/// Connects the integration that a link was made for, by `deadline`.
///
/// # Errors
/// [`ConnectError`], with what to do about it.
pub(crate) async fn run_by_state(
    services: &Services,
    request: ConnectByState,
    deadline: DateTime<Utc>,
) -> Result<ConnectResponse, ConnectError> {
    let verified = in_time(services, deadline, connect_link::verify(services, &request.state)).await;
    let request = match verified.ok_or(ConnectError::OutOfTime)? {
        Ok(target) => request.for_target(target),
        Err(UnverifiedError::State(error)) => Err(BadEvent::of_state(error)),
        Err(UnverifiedError::Credentials(error)) => return Err(error.into()),
    };
    // Logged as a bad event, because anyone can send a state.
    let request = request.inspect_err(|error| error!("{error}"))?;
    run(services, &request, deadline).await
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
    let connect = async {
        let connected = connect(services, request, deadline).await;
        connected.inspect_err(|error| error!("could not connect the TikTok Shop integration: {error}"))
    };
    connect.instrument(request.key.span()).await
}

async fn connect(
    services: &Services,
    request: &ConnectRequest,
    deadline: DateTime<Utc>,
) -> Result<ConnectResponse, ConnectError> {
    let prepared = in_time(services, deadline, prepare(services, request)).await;
    let Prepared { row, app, is_default } = prepared.ok_or(ConnectError::OutOfTime)??;
    let (app, grant) = exchange(services, request, app, is_default, deadline).await?;
    let new = Authorization { grant: &grant, app_key: &app.app_key, id: &request.auth_code.sha256() };
    let outcome = store(services, request, row, new, deadline).await?;
    let new_expires_at = grant.access_expires_at.map(|at| at.0);
    info!(outcome, new_expires_at, "TikTok Shop integration connected");
    // The integration is connected, even if the shops cannot be stored.
    if in_time(services, deadline, store_shops(services, request, &app, new)).await.is_none() {
        warn!("could not fetch the integration's shops: {OUT_OF_TIME}");
    }
    Ok(ConnectResponse::new(request.key.clone(), outcome, &grant))
}

/// What `connect` reads before it uses up the auth code.
struct Prepared {
    row: Option<Integration>,
    app: Arc<AppCredentials>,
    /// Whether neither the request nor the row names the app.
    is_default: bool,
}

async fn prepare(services: &Services, request: &ConnectRequest) -> Result<Prepared, ConnectError> {
    let apps = services.credentials.apps().await?;
    // A table that cannot be read could not be written either.
    let row = services.table.read(&request.key).await?;
    let app_key =
        request.app_key.as_deref().or(row.as_ref().and_then(|row| row.candidate.app_key.as_deref()));
    let app = match apps.get(app_key) {
        Some(app) => app.clone(),
        // Perhaps the app was added since the secret was read.
        None => services
            .credentials
            .read_again()
            .await?
            .get(app_key)
            .cloned()
            .ok_or_else(|| ConnectError::UnknownApp(quoted(app_key.unwrap_or_default())))?,
    };
    let is_default = app_key.is_none();
    Ok(Prepared { row, app, is_default })
}

/// Exchanges the auth code. If TikTok refuses the app, tries the secret's other versions. If TikTok may not have acted, tries once
/// more. Returns the grant, and the credentials that TikTok accepted.
async fn exchange(
    services: &Services,
    request: &ConnectRequest,
    mut app: Arc<AppCredentials>,
    is_default: bool,
    deadline: DateTime<Utc>,
) -> Result<(Arc<AppCredentials>, Grant), ConnectError> {
    let policy = &services.retry_policy;
    let needed = TimeDelta::from_std(policy.call_timeout + policy.save_reserve).unwrap_or(TimeDelta::MAX);
    let has_time = || deadline - services.clock.now() > needed;
    let call = async |app: &AppCredentials| {
        services.rate_limiter.until_ready(&app.app_key).await;
        if !has_time() {
            return Err(ConnectError::OutOfTime);
        }
        services.tiktok.exchange(app, &request.auth_code).await.map_err(ConnectError::Exchange)
    };
    let mut result = call(&app).await;
    if let Err(ConnectError::Exchange(CallError::Misconfigured { .. })) = result {
        let others = services.credentials.others(&app, is_default);
        let others = in_time(services, deadline, others).await.transpose()?.unwrap_or_default();
        for other in others {
            let with_other = call(&other).await;
            if with_other.is_ok() {
                warn!(app_key = other.app_key, "TikTok accepts another version of the app's secret");
            }
            if !matches!(with_other, Err(ConnectError::Exchange(CallError::Misconfigured { .. }))) {
                (app, result) = (other, with_other);
                break;
            }
        }
    }
    if let Err(ConnectError::Exchange(
        CallError::Ambiguous { .. } | CallError::NotConnected { .. } | CallError::Busy { .. },
    )) = result
    {
        tokio::time::sleep(policy.lost_response_wait).await;
        match call(&app).await {
            // The first answer is more informative.
            Err(ConnectError::OutOfTime) => {}
            second => result = second,
        }
    }
    Ok((app, result?))
}

/// Stores a new authorization, even if others write the row at the same time. Returns the response's `outcome`.
async fn store(
    services: &Services,
    request: &ConnectRequest,
    mut row: Option<Integration>,
    new: Authorization<'_>,
    deadline: DateTime<Utc>,
) -> Result<&'static str, ConnectError> {
    let first_generation = row.as_ref().and_then(|row| row.authorization_id.clone());
    for conflicts in 0.. {
        // A row without a known seller goes to the first connect that writes it.
        let is_taken = row.as_ref().is_some_and(|row| row.authorization_id != first_generation);
        let is_same_seller = is_same_seller(row.as_ref(), new.grant, is_taken);
        if !is_same_seller && !request.replace {
            let seller = |open_id: Option<&String>| open_id.map_or_else(|| "unknown".into(), Clone::clone);
            return Err(ConnectError::AnotherSeller {
                row: seller(row.as_ref().and_then(|row| row.open_id.as_ref())),
                code: seller(new.grant.seller.open_id.as_ref()),
            });
        }
        if is_taken && !is_later(new.grant, row.as_ref()) {
            return Err(ConnectError::Overtaken);
        }
        let outcome = match (&row, is_same_seller) {
            (None, _) => "connected",
            (Some(_), true) => "reconnected",
            (Some(_), false) => "replaced",
        };
        let update = updates::connect(new, row.as_ref(), services.clock.now());
        let was_marked =
            row.as_ref().is_some_and(|row| matches!(row.candidate.status, Status::Error | Status::Expired));
        match write_with_retries(services, request, row.is_some(), update, deadline)
            .await
            .map_err(ConnectError::NotStored)?
        {
            Ok(()) => {
                publish_recovery(services, request, new.grant, was_marked, deadline).await;
                return Ok(outcome);
            }
            // Our own write, whose response was lost.
            Err(Conflict::Changed(stored)) if stored.authorization_id.as_deref() == Some(new.id) => {
                publish_recovery(services, request, new.grant, was_marked, deadline).await;
                return Ok(outcome);
            }
            Err(_) if conflicts > MIN_CONFLICTS && services.clock.now() >= last_second(deadline) => break,
            Err(Conflict::Changed(stored)) => row = Some(*stored),
            Err(Conflict::Deleted) => row = None,
        }
    }
    Err(ConnectError::Contended)
}

/// Whether the row accepts the grant without `replace`. A row with a known seller accepts only that seller's grants. A row without
/// one accepts any grant, unless another connect has written the row meanwhile (`is_taken`).
fn is_same_seller(row: Option<&Integration>, grant: &Grant, is_taken: bool) -> bool {
    match row.and_then(|row| row.open_id.as_ref()) {
        None => !is_taken,
        known => known == grant.seller.open_id.as_ref(),
    }
}

/// Whether TikTok granted this authorization after the one in the row. All access tokens live equally long, so the later grant has
/// the later expiry.
fn is_later(grant: &Grant, row: Option<&Integration>) -> bool {
    let stored = row.and_then(|row| row.candidate.access_expires_at);
    stored.is_none() || grant.access_expires_at > stored
}

/// The output of `work`, or `None` if it takes longer than until the invocation's last second.
async fn in_time<T>(
    services: &Services,
    deadline: DateTime<Utc>,
    work: impl Future<Output = T>,
) -> Option<T> {
    services.by(last_second(deadline), work).await
}

fn last_second(deadline: DateTime<Utc>) -> DateTime<Utc> {
    deadline - TimeDelta::seconds(1)
}

/// Writes the token pair, and retries until the invocation's last second: the code is used up, and the pair exists nowhere else.
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
    let (table, key) = (&services.table, &request.key);
    let write = (|| async {
        if exists { table.update(key, update.clone()).await } else { table.create(key, update.clone()).await }
    })
    .retry(backoff)
    .when(|_| services.clock.now() < last_second(deadline))
    .notify(|error, _| warn!("could not save the new token pair yet, retrying: {error}"));
    let out_of_time = || TableError::NoResponse { cause: OUT_OF_TIME.into() };
    in_time(services, deadline, write).await.ok_or_else(out_of_time)?
}

/// Stores the shops of a new authorization.
async fn store_shops(
    services: &Services,
    request: &ConnectRequest,
    app: &AppCredentials,
    new: Authorization<'_>,
) {
    let token = &new.grant.access_token;
    services.rate_limiter.until_ready(&app.app_key).await;
    match services.tiktok.get_authorized_shops(app, token, services.clock.now()).await {
        Ok(shops) => shops::store(services, &request.key, token, Some(new.id), &shops).await,
        Err(error) => warn!("could not fetch the integration's shops: {error}"),
    }
}

async fn publish_recovery(
    services: &Services,
    request: &ConnectRequest,
    grant: &Grant,
    was_marked: bool,
    deadline: DateTime<Utc>,
) {
    let Some(bus) = services.event_bus.as_ref().filter(|_| was_marked) else { return };
    let (key, name, now) = (&request.key, grant.seller.name.as_deref(), services.clock.now());
    let publish = bus.publish(StateChange::Recovered, key, name, "connected", now, None);
    match in_time(services, deadline, publish).await {
        Some(Ok(())) => {}
        Some(Err(error)) => error!("could not publish a state change: {error}"),
        None => error!("could not publish a state change: {OUT_OF_TIME}"),
    }
}
