//! One event in, one answer out: what the function does for an invocation, whoever carries it here.

use crate::{
    actions::{
        cleanup,
        connect::{self, ConnectError},
        queue, status,
        verify::{self, Fresh, TokenError, VerifyError},
    },
    aws::{
        dynamodb::{Store, StoreError},
        eventbridge::EventBus,
        secrets_manager::Credentials,
        sqs::Queue,
    },
    domain::{
        clock::Clock,
        integration::IntegrationKey,
        secret::{AccessToken, AppCredentials},
    },
    event::{self, BadEvent, Request},
    refresh::Pace,
    response::Answer,
    run::{self, RunError},
    services::{Emit, Services},
    settings::Settings,
    status_report,
    tiktok::{ApiError, RateLimiter, TikTok},
};
use aws_config::SdkConfig;
use chrono::{DateTime, Utc};
use governor::Quota;
use lambda_runtime::Diagnostic;
use std::{future::Future, num::NonZeroU32, sync::Arc};

/// The function, with the clients that a warm environment keeps.
#[derive(Debug)]
pub struct Function {
    services: Services,
}

/// Why an invocation failed. It carries the type and the message that Lambda shows.
#[derive(Debug, thiserror::Error)]
pub enum InvocationError {
    /// The event was not understood.
    #[error(transparent)]
    Event(#[from] BadEvent),
    /// The run as a whole could not be done.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The table could not be read.
    #[error(transparent)]
    Table(#[from] StoreError),
    /// The tokens could not be verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The integration could not be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        Self { error_type: error.error_type().to_owned(), error_message: error.to_string() }
    }
}

impl InvocationError {
    /// The name of the error's kind, as Lambda's `errorType`.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Event(_) => "BadEvent",
            Self::Connect(error) => error.error_type(),
            Self::Table(_) | Self::Run(RunError::Table(_)) | Self::Verify(VerifyError::Store(_)) => {
                "TableUnavailable"
            }
            Self::Run(RunError::Credentials(_)) | Self::Verify(VerifyError::Credentials(_)) => {
                "CredentialsUnavailable"
            }
            Self::Run(RunError::Apps(..)) => "AppRefused",
        }
    }
}

impl Function {
    /// The function with clients made from `sdk`. Nothing is connected yet, and no root certificate read.
    pub fn new(settings: Settings, sdk: &SdkConfig, clock: Clock, emit: Emit) -> Self {
        let pace = Pace::with_call(settings.tiktok_timeout);
        Self::with_pace(settings, sdk, clock, emit, pace)
    }

    /// As [`Function::new`], with waits of one's own.
    pub fn with_pace(settings: Settings, sdk: &SdkConfig, clock: Clock, emit: Emit, pace: Pace) -> Self {
        let rate = settings.max_requests_per_second;
        // A small burst evens out late timers; a large one would double the rate of the first second.
        let burst = NonZeroU32::new(rate.get().div_ceil(10)).unwrap_or(NonZeroU32::MIN);
        let secrets = aws_sdk_secretsmanager::Client::new(sdk);
        Self {
            services: Services {
                store: Store::new(aws_sdk_dynamodb::Client::new(sdk), &settings.table_name),
                tiktok: TikTok::new(
                    &settings.tiktok_auth_url,
                    &settings.tiktok_api_url,
                    settings.tiktok_timeout,
                ),
                credentials: Arc::new(Credentials::new(&settings.credentials, secrets, clock.clone())),
                limiter: Arc::new(RateLimiter::new(Quota::per_second(rate).allow_burst(burst))),
                queue: settings
                    .work_queue_url
                    .as_ref()
                    .map(|url| Queue::new(aws_sdk_sqs::Client::new(sdk), url)),
                bus: settings
                    .event_bus_name
                    .as_ref()
                    .map(|name| EventBus::new(aws_sdk_eventbridge::Client::new(sdk), name)),
                settings,
                clock,
                pace,
                emit,
            },
        }
    }

    /// An access token of an integration that lives for more than 5 minutes: the stored one, or a new one, had by the
    /// same protocol as the nightly run's.
    ///
    /// ```no_run
    /// # use tiktok_token_refresh::{actions::verify::TokenError, domain::integration::IntegrationKey, handler::Function};
    /// # async fn example(function: &Function) -> Result<(), TokenError> {
    /// let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
    /// let deadline = chrono::Utc::now() + chrono::TimeDelta::minutes(5);
    /// let token = function.ensure_valid_access_token(&key, deadline).await?;
    /// // Its text is had by `token.expose()` alone, and never printed by accident.
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
        Box::pin(verify::ensure_valid_access_token(&self.services, key, deadline)).await
    }

    /// Makes a call with an integration's access token. If TikTok does not take the token, it is refreshed once and the
    /// call made again; no other error refreshes anything.
    ///
    /// ```no_run
    /// # use tiktok_token_refresh::{
    /// #     actions::verify::TokenError, domain::integration::IntegrationKey, handler::Function, tiktok::TikTok,
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
    /// [`TokenError`], whose call's part is the call's own.
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
        Box::pin(verify::call_for(&self.services, key, deadline, call)).await
    }

    /// Answers one event, by `deadline`. The future is to be polled to its end: one that is dropped before takes its
    /// refreshes in mid-flight with it.
    ///
    /// # Errors
    /// [`InvocationError`] if the event is not understood or the run as a whole could not be done.
    pub async fn handle(&self, event: &str, deadline: DateTime<Utc>) -> Result<Answer, InvocationError> {
        match event::parse(event) {
            Ok(Request::Refresh(request)) => {
                // Boxed, as the compiler gives up on a future of that depth.
                let run = Box::pin(run::run(&self.services, &request, deadline));
                Ok(Answer::Refresh(Box::new(run.await?)))
            }
            Ok(Request::Describe) => Ok(Answer::Text(status_report::HELP.into())),
            Ok(Request::Status(request)) => Ok(status::run(&self.services, &request).await?),
            Ok(Request::Verify(selection)) => {
                let run = Box::pin(verify::run(&self.services, &selection, deadline));
                Ok(Answer::Verify(Box::new(run.await?)))
            }
            Ok(Request::Connect(request)) => {
                Ok(Answer::Connect(Box::new(connect::run(&self.services, &request, deadline).await?)))
            }
            Ok(Request::Cleanup(request)) => {
                Ok(Answer::Cleanup(Box::new(cleanup::run(&self.services, &request).await?)))
            }
            Ok(Request::Queue(records)) => {
                Ok(Answer::Queue(Box::pin(queue::run(&self.services, records, deadline)).await))
            }
            Err(error) => {
                tracing::error!("{error}");
                Err(error.into())
            }
        }
    }
}
