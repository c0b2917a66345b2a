//! Turns one event into one response, independently of what delivers the event.

use crate::{
    actions::{
        cleanup, connect,
        connect::ConnectError,
        connect_link::{self, ConnectLinkError},
        ensure::{self, EnsureError, Fresh, TokenError},
        import, queue,
        status::{self, Status},
        verify::{self, VerifyError},
    },
    aws::dynamodb::TableError,
    domain::{
        clock::Clock,
        integration::IntegrationKey,
        retry_policy::RetryPolicy,
        secret::{AccessToken, AppCredentials},
    },
    event::{self, BadEvent, Request},
    http,
    response::{
        CleanupResponse, ConnectLinkResponse, ConnectResponse, EnsureResponse, ImportResponse,
        RefreshResponse, VerifyResponse,
    },
    run::{self, RunError},
    services::Services,
    settings::Settings,
    status_report::{self, StatusReport},
    tiktok::ApiError,
};
pub use crate::{http::HttpResponse, services::EmitMetrics};
use aws_config::SdkConfig;
use aws_lambda_events::sqs::SqsBatchResponse;
use chrono::{DateTime, Utc};
use lambda_runtime::Diagnostic;
use serde::Serialize;
use std::{future::Future, sync::Arc};

/// The alias that accepts only `ensure`. An alias is the last part of the invoked ARN.
const ENSURE_ALIAS: &str = "ensure";

/// The function, with the clients that a warm environment keeps.
#[derive(Debug)]
pub struct Function {
    services: Arc<Services>,
}

/// A response to any event. It never contains a token or an app secret.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Response {
    /// To `refresh`.
    Refresh(Box<RefreshResponse>),
    /// To messages of the queue: lists those that SQS must deliver again.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>
    Queue(SqsBatchResponse),
    /// To `status`, for a program.
    Status(Box<StatusReport>),
    /// To `status`, for a person.
    Text(String),
    /// To `cleanup`.
    Cleanup(Box<CleanupResponse>),
    /// To `connect`.
    Connect(Box<ConnectResponse>),
    /// To `connect_link`.
    ConnectLink(ConnectLinkResponse),
    /// To a browser's request to the public endpoint.
    Http(HttpResponse),
    /// To `verify`.
    Verify(Box<VerifyResponse>),
    /// To `ensure`.
    Ensure(Box<EnsureResponse>),
    /// To `import`.
    Import(Box<ImportResponse>),
}

/// Why an invocation failed. Lambda shows the type and the message.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    /// The event is invalid.
    #[error(transparent)]
    Event(#[from] BadEvent),
    /// The run as a whole failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The table could not be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The tokens could not be verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// `ensure` failed without an answer.
    #[error(transparent)]
    Ensure(#[from] EnsureError),
    /// The integration could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No link could be made.
    #[error(transparent)]
    ConnectLink(#[from] ConnectLinkError),
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        Self { error_type: error.error_type().to_owned(), error_message: error.to_string() }
    }
}

impl InvocationError {
    /// The name of the error's kind, which Lambda shows as `errorType`.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Event(_) => "BadEvent",
            Self::Connect(error) => error.error_type(),
            Self::ConnectLink(error) => error.error_type(),
            Self::Table(_)
            | Self::Run(RunError::Table(_))
            | Self::Verify(VerifyError::Table(_))
            | Self::Ensure(EnsureError::Table(_) | EnsureError::OutOfTime) => "TableUnavailable",
            Self::Run(RunError::Credentials(_))
            | Self::Verify(VerifyError::Credentials(_))
            | Self::Ensure(EnsureError::Credentials(_)) => "CredentialsUnavailable",
            Self::Run(RunError::Apps(..)) => "AppRefused",
        }
    }
}

impl Function {
    /// Creates the function, with clients made from `sdk`. Connects to nothing yet.
    pub fn new(settings: Settings, sdk: &SdkConfig, clock: Clock, emit_metrics: EmitMetrics) -> Self {
        let retry_policy = RetryPolicy::with_call_timeout(settings.tiktok_timeout);
        Self::with_retry_policy(settings, sdk, clock, emit_metrics, retry_policy)
    }

    /// Like [`Function::new`], with the given retry policy.
    pub fn with_retry_policy(
        settings: Settings,
        sdk: &SdkConfig,
        clock: Clock,
        emit_metrics: EmitMetrics,
        retry_policy: RetryPolicy,
    ) -> Self {
        Self { services: Arc::new(Services::new(settings, sdk, clock, emit_metrics, retry_policy)) }
    }

    /// Returns an integration's access token, by the rules of the action `ensure`. If the stored token expires within 5 minutes,
    /// refreshes it first. If another attempt is refreshing it, waits for that attempt.
    ///
    /// ```no_run
    /// # use tiktok_token_refresh::{actions::ensure::TokenError, domain::integration::IntegrationKey, handler::Function};
    /// # async fn example(function: &Function) -> Result<(), TokenError> {
    /// let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
    /// let deadline = chrono::Utc::now() + chrono::TimeDelta::minutes(5);
    /// let token = function.ensure_valid_access_token(&key, deadline).await?;
    /// // Only `token.expose()` returns the text, so that nothing prints the token by accident.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TokenError::NoToken`], with the reason.
    pub async fn ensure_valid_access_token(
        &self,
        key: &IntegrationKey,
        deadline: DateTime<Utc>,
    ) -> Result<AccessToken, TokenError> {
        Box::pin(ensure::ensure_valid_access_token(&self.services, key, deadline)).await
    }

    /// Makes a call with an integration's access token. If TikTok rejects the token, gets a new one by the rules of the action
    /// `ensure` and makes the call again. Other errors of the call do not cause a refresh.
    ///
    /// ```no_run
    /// # use tiktok_token_refresh::{
    /// #     actions::ensure::TokenError, domain::integration::IntegrationKey, handler::Function, tiktok::TikTok,
    /// # };
    /// # async fn example(function: &Function, tiktok: &TikTok) -> Result<(), TokenError> {
    /// let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
    /// let deadline = chrono::Utc::now() + chrono::TimeDelta::minutes(5);
    /// let shops = function
    ///     .call_with_valid_token(&key, deadline, async |app, token| {
    ///         tiktok.get_authorized_shops(&app, &token, chrono::Utc::now()).await
    ///     })
    ///     .await?;
    /// println!("{} shops", shops.value.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TokenError`]. Its variant `Call` is the call's own error.
    pub async fn call_with_valid_token<T, F, Fut>(
        &self,
        key: &IntegrationKey,
        deadline: DateTime<Utc>,
        call: F,
    ) -> Result<Fresh<T>, TokenError>
    where
        F: Fn(AppCredentials, AccessToken) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        Box::pin(ensure::call_with_valid_token(&self.services, key, deadline, call)).await
    }

    /// Responds to one event that was sent to `function_arn`, by `deadline`. The alias `ensure` accepts only the action `ensure`.
    /// Applications get permission for the alias, because permission to invoke the function covers every action.
    ///
    /// # Errors
    /// As [`Function::handle`].
    pub async fn handle_invoked(
        &self,
        event: &str,
        function_arn: &str,
        deadline: DateTime<Utc>,
    ) -> Result<Response, InvocationError> {
        // The eighth part is the alias or the version. The seventh is the function's name, which may also be `ensure`.
        let is_alias = function_arn.split(':').nth(7) == Some(ENSURE_ALIAS);
        if !is_alias || self.services.settings.public_endpoint {
            return self.handle(event, deadline).await;
        }
        let request = event::parse_ensure(event).inspect_err(|error| tracing::error!("{error}"))?;
        self.respond(Request::Ensure(request), deadline).await
    }

    /// Responds to one event, by `deadline`. The public function (`PUBLIC_ENDPOINT=true`) accepts only HTTP requests, and the
    /// main function accepts none. Poll the future to its end: dropping it cancels the refreshes in flight.
    ///
    /// # Errors
    /// [`InvocationError`] if the event is invalid or the action as a whole failed.
    pub async fn handle(&self, event: &str, deadline: DateTime<Utc>) -> Result<Response, InvocationError> {
        if self.services.settings.public_endpoint {
            let response = Box::pin(http::respond(&self.services, event, deadline)).await;
            return Ok(Response::Http(response.inspect_err(|error| tracing::error!("{error}"))?));
        }
        let request = event::parse(event).inspect_err(|error| tracing::error!("{error}"))?;
        self.respond(request, deadline).await
    }

    async fn respond(&self, request: Request, deadline: DateTime<Utc>) -> Result<Response, InvocationError> {
        let services = &self.services;
        // The long futures are boxed: inlined, their depth is more than the compiler accepts.
        Ok(match request {
            Request::Refresh(request) => {
                Response::Refresh(Box::new(Box::pin(run::run(services, &request, deadline)).await?))
            }
            Request::Describe => Response::Text(status_report::HELP.into()),
            Request::Status(request) => match status::run(services, &request, deadline).await? {
                Status::Json(report) => Response::Status(report),
                Status::Text(text) => Response::Text(text),
            },
            Request::Verify(selection) => {
                Response::Verify(Box::new(Box::pin(verify::run(services, &selection, deadline)).await?))
            }
            Request::Ensure(request) => {
                Response::Ensure(Box::new(Box::pin(ensure::run(services, request, deadline)).await?))
            }
            Request::Import(request) => {
                Response::Import(Box::new(Box::pin(import::run(services, request, deadline)).await?))
            }
            Request::Connect(request) => {
                Response::Connect(Box::new(Box::pin(connect::run(services, &request, deadline)).await?))
            }
            Request::ConnectByState(request) => {
                let connected = Box::pin(connect::run_by_state(services, request, deadline)).await?;
                Response::Connect(Box::new(connected))
            }
            Request::ConnectLink(request) => {
                Response::ConnectLink(Box::pin(connect_link::run(services, &request, deadline)).await?)
            }
            Request::Cleanup(request) => {
                Response::Cleanup(Box::new(Box::pin(cleanup::run(services, &request, deadline)).await?))
            }
            Request::Queue(records) => {
                Response::Queue(Box::pin(queue::run(services, records, deadline)).await)
            }
        })
    }
}
