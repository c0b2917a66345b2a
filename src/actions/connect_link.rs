//! `connect_link`: makes a link with which a seller connects one integration. Also verifies the link's state when it comes back.

use crate::{
    aws::{dynamodb::TableError, secrets_manager::CredentialsError},
    domain::{
        connect_link::{ConnectState, LinkTarget, StateError},
        integration::UnixTime,
        quoted::quoted,
        secret::Apps,
    },
    event::ConnectLinkRequest,
    response::ConnectLinkResponse,
    services::{Services, last_read},
};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use tracing::{Instrument, error, info};

/// Why no link could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectLinkError {
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table or the secret did not respond in time.
    #[error("the invocation's time ran out")]
    OutOfTime,
    /// The secret does not hold the app, which is [`quoted`].
    #[error("app_key: the secret has no app {0}")]
    UnknownApp(String),
    /// The request and the row name different apps, which are [`quoted`].
    #[error(
        "app_key: got {requested}, but the seller of this integration authorized the app {row}; leave app_key out"
    )]
    AnotherApp {
        /// The app that the request names.
        requested: String,
        /// The row's app.
        row: String,
    },
    /// The secret has no usable `service_id` for the app.
    #[error(
        "the secret has no service_id for the app {0:?}: add the number on the app's page in TikTok's Partner Center (not the \
         app key), as \"service_id\" beside \"app_key\""
    )]
    NoService(String),
    /// With these ids, the link would be too long.
    #[error("the ids are too long for a link")]
    TooLong,
}

impl ConnectLinkError {
    /// The name of the error's kind, as Lambda's `errorType`.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "CredentialsUnavailable",
            Self::Table(_) => "TableUnavailable",
            Self::OutOfTime => "OutOfTime",
            Self::UnknownApp(_) | Self::AnotherApp { .. } | Self::TooLong => "BadEvent",
            Self::NoService(_) => "NoServiceId",
        }
    }
}

/// Makes a link, by `deadline`.
///
/// # Errors
/// [`ConnectLinkError`], with what to do about it.
pub(crate) async fn run(
    services: &Services,
    request: &ConnectLinkRequest,
    deadline: DateTime<Utc>,
) -> Result<ConnectLinkResponse, ConnectLinkError> {
    let make = async {
        let made = services.by(last_read(deadline), make(services, request)).await;
        let made = made.unwrap_or(Err(ConnectLinkError::OutOfTime));
        made.inspect(|link| info!(expires_at = link.expires_at.0, "made a link for the seller to connect"))
            .inspect_err(|error| error!("could not make a link for the seller to connect: {error}"))
    };
    make.instrument(request.key.span()).await
}

async fn make(
    services: &Services,
    request: &ConnectLinkRequest,
) -> Result<ConnectLinkResponse, ConnectLinkError> {
    let apps = services.credentials.apps().await?;
    let row = services.table.read(&request.key).await?.and_then(|row| row.candidate.app_key);
    let app_key = match (&request.app_key, row) {
        (Some(requested), Some(row)) if *requested != row => {
            return Err(ConnectLinkError::AnotherApp { requested: quoted(requested), row: quoted(&row) });
        }
        (requested, row) => requested.clone().or(row),
    };
    // Perhaps the app or its service_id was added since the secret was read.
    let has_service = |apps: &Apps| apps.get(app_key.as_deref()).is_some_and(|app| app.service.is_some());
    let apps: Arc<Apps> = if has_service(&apps) { apps } else { services.credentials.read_again().await? };
    let app = apps
        .get(app_key.as_deref())
        .ok_or_else(|| ConnectLinkError::UnknownApp(quoted(app_key.as_deref().unwrap_or_default())))?;
    if app.service.is_none() {
        return Err(ConnectLinkError::NoService(app.app_key.clone()));
    }
    let expires_at = UnixTime::after(services.clock.now(), request.valid_for);
    let url = services
        .connect_url(app, &request.key, request.market, expires_at)
        .ok_or(ConnectLinkError::TooLong)?;
    Ok(ConnectLinkResponse::new(url, expires_at))
}

/// Why a state could not be verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnverifiedError {
    /// The state is not accepted.
    #[error(transparent)]
    State(#[from] StateError),
    /// The secret cannot be read, so the state could not be checked.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Verifies a state with the secret of the app that it names: first with the current version, then with the other versions that may
/// have signed it. Tries no other app's secret.
pub(crate) async fn verify(services: &Services, state: &ConnectState) -> Result<LinkTarget, UnverifiedError> {
    let now = services.clock.now();
    let verify_with = |apps: &Apps| match apps.get(Some(state.app_key())) {
        Some(app) => state.verify(&app.app_secret, now).cloned(),
        None => Err(StateError::Forged),
    };
    match verify_with(&*services.credentials.apps().await?) {
        Err(StateError::Forged) => {}
        result => return Ok(result?),
    }
    for apps in services.credentials.versions().await? {
        match verify_with(&apps) {
            Err(StateError::Forged) => {}
            result => return Ok(result?),
        }
    }
    Err(StateError::Forged.into())
}
