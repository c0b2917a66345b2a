//! `verify`, and valid tokens for callers in Rust: calls TikTok with the stored token; on a token error refreshes once, by the
//! same protocol as the nightly run, and calls again. Any other error is reported as what it is and refreshes nothing.

use crate::{
    aws::{
        dynamodb::{MalformedRow, TableError},
        secrets_manager::CredentialsError,
    },
    domain::{
        integration::{AccessState, Candidate, IntegrationKey, Status},
        outcome::Outcome,
        secret::{AccessToken, AppCredentials},
        selection::Selection,
    },
    refresh::{Attempt, Refresher, RunContext},
    response::{VerifyReport, VerifyResponse, VerifyResults},
    services::{Services, last_read},
    tiktok::{ApiError, CallError},
};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryFutureExt, stream};
use std::{future::Future, sync::Arc};
use tracing::{Instrument, debug, error, error_span, info, warn};

/// Why a verification failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Why there is no valid token, or no result of a call with one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no valid token.
    #[error("{message}")]
    NoToken {
        /// As in a response.
        reason: &'static str,
        /// For a person.
        message: String,
        /// TikTok's code, where it gave one.
        code: Option<i64>,
    },
    /// The invocation's time ran out before there was a token.
    #[error("the invocation's time ran out")]
    OutOfTime,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] ApiError),
}

/// A call's result, and whether it took a refresh to get it.
#[derive(Debug)]
pub struct Fresh<T> {
    /// What the call returned.
    pub value: T,
    /// Whether the token was refreshed for it.
    pub was_refreshed: bool,
}

/// Gets valid access tokens for one run.
#[derive(Clone)]
struct TokenSource {
    services: Arc<Services>,
    refresher: Arc<Refresher>,
    /// When to stop waiting for anything but a refresh.
    last_read: DateTime<Utc>,
}

/// Verifies each active integration of a selection, by `deadline`.
///
/// # Errors
/// [`VerifyError`] if the table or the secret cannot be read.
pub(crate) async fn run(
    services: &Arc<Services>,
    selection: &Selection,
    deadline: DateTime<Utc>,
) -> Result<VerifyResponse, VerifyError> {
    let run_id = uuid::Uuid::new_v4().to_string();
    let span = error_span!("verify", run_id);
    let verify_all = async {
        let source = TokenSource::new(services, run_id.clone(), deadline).await?;
        let mut results = VerifyResults::default();
        let mut pages = services.table.candidates(selection);
        results.was_read_to_the_end = loop {
            let page = match services.by(source.last_read, pages.next()).await {
                Some(Some(page)) => page?,
                Some(None) => break true,
                None => break false,
            };
            // A task for each row: a panic must not take another row's save with it.
            let rows = stream::iter(page).map(|row| {
                let key = row.as_ref().map_or_else(|malformed| &malformed.key, |row| &row.key).clone();
                let task = tokio::spawn(verify(source.clone(), row).in_current_span());
                task.unwrap_or_else(|_| {
                    let message = "the verification panicked; this is a bug in the function";
                    VerifyReport::failed(key, "internal_error", message.into(), None)
                })
            });
            let mut reports = rows.buffer_unordered(services.settings.max_concurrency);
            while let Some(report) = reports.next().await {
                log(&report);
                results.record(report);
            }
        };
        if !results.is_complete() {
            warn!(deferred = results.counts.deferred, "the time ran out before every row was read and done");
        }
        Ok::<_, VerifyError>(results)
    };
    let results = verify_all.instrument(span).await?;
    Ok(VerifyResponse::new(run_id, selection, results))
}

async fn verify(source: TokenSource, row: Result<Candidate, MalformedRow>) -> VerifyReport {
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
    let shops = source.call(row, |app, token| {
        let TokenSource { services, refresher, last_read } = source.clone();
        async move {
            let shops = refresher.get_authorized_shops(&app, &token);
            services.by(last_read, shops).await.transpose()
        }
    });
    match shops.instrument(key.span()).await {
        Ok(Fresh { value: Some(shops), was_refreshed }) => {
            VerifyReport::valid(key, was_refreshed, shops.into_iter().map(|shop| shop.id))
        }
        Ok(Fresh { value: None, .. }) | Err(TokenError::OutOfTime) => VerifyReport::deferred(key),
        Err(TokenError::NoToken { reason, message, code }) => {
            VerifyReport::failed(key, reason, message, code)
        }
        Err(TokenError::Call(error)) => {
            VerifyReport::failed(key, error.reason(), error.to_string(), error.code())
        }
    }
}

fn log(report: &VerifyReport) {
    let _span = report.key.span().entered();
    let (outcome, reason) = (report.outcome, report.reason.as_deref());
    let why = report.message.as_deref().unwrap_or_default();
    match outcome {
        "failed" => error!(outcome, reason, "TikTok access token verification failed: {why}"),
        "deferred" => debug!(outcome, reason, "TikTok access token verification deferred: {why}"),
        "skipped" => info!(outcome, reason, "TikTok access token verification skipped: {why}"),
        _ => info!(outcome, "TikTok access token verified"),
    }
}

/// An access token that lives for more than 5 minutes: the stored one, or a new one.
///
/// # Errors
/// [`TokenError::NoToken`], with the reason.
pub(crate) async fn ensure_valid_access_token(
    services: &Arc<Services>,
    key: &IntegrationKey,
    deadline: DateTime<Utc>,
) -> Result<AccessToken, TokenError> {
    let ensure = async {
        let (source, row) = TokenSource::for_integration(services, key, deadline).await?;
        match source.stored_if_valid(&row).await? {
            Some((_, token)) => Ok(token),
            None => Ok(source.refreshed(row).await?.1),
        }
    };
    ensure.instrument(key.span()).await
}

/// Makes a call with an integration's access token. A token that has expired is refreshed before; a token that TikTok does not
/// accept is refreshed once and the call made again.
///
/// # Errors
/// [`TokenError`]; its `Call` variant is the call's own error.
pub(crate) async fn call_with_valid_token<T, F, Fut>(
    services: &Arc<Services>,
    key: &IntegrationKey,
    deadline: DateTime<Utc>,
    call: F,
) -> Result<Fresh<T>, TokenError>
where
    F: Fn(AppCredentials, AccessToken) -> Fut,
    Fut: Future<Output = Result<T, ApiError>>,
{
    let ensure_and_call = async {
        let (source, row) = TokenSource::for_integration(services, key, deadline).await?;
        source.call(row, call).await
    };
    ensure_and_call.instrument(key.span()).await
}

fn no_token(reason: &'static str, message: impl Into<String>) -> TokenError {
    TokenError::NoToken { reason, message: message.into(), code: None }
}

/// Whether a call failed for the app's credentials: TikTok refuses them, or what was signed with them.
fn is_about_the_app(error: &ApiError) -> bool {
    matches!(error, ApiError::Signature { .. } | ApiError::Call(CallError::Misconfigured { .. }))
}

impl TokenSource {
    async fn new(
        services: &Arc<Services>,
        run_id: String,
        deadline: DateTime<Utc>,
    ) -> Result<Self, CredentialsError> {
        let apps = services.credentials.apps().await?;
        // Forced: a token that TikTok does not accept is due, whatever its row says.
        let run = RunContext { run_id, deadline, force: true, unless_refreshed_since: None, apps };
        let refresher = Arc::new(Refresher::new(services.clone(), run));
        Ok(Self { services: services.clone(), refresher, last_read: last_read(deadline) })
    }

    async fn for_integration(
        services: &Arc<Services>,
        key: &IntegrationKey,
        deadline: DateTime<Utc>,
    ) -> Result<(Self, Candidate), TokenError> {
        let source = Self::new(services, uuid::Uuid::new_v4().to_string(), deadline)
            .await
            .map_err(|error| no_token("credentials_unavailable", error.to_string()))?;
        let row =
            services.table.read(key).await.map_err(|error| no_token("store_error", error.to_string()))?;
        match row {
            Some(row) if row.candidate.status == Status::Active => Ok((source, row.candidate)),
            Some(row) => {
                Err(no_token("status", format!("its status is {:?}", row.candidate.status.as_str())))
            }
            None => Err(no_token("not_found", format!("there is no {key} in the table"))),
        }
    }

    async fn call<T, F, Fut>(&self, row: Candidate, call: F) -> Result<Fresh<T>, TokenError>
    where
        F: Fn(AppCredentials, AccessToken) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        if let Some((stored, token)) = self.stored_if_valid(&row).await? {
            match self.call_once(&stored, token, &call).await {
                Ok(value) => return Ok(Fresh { value, was_refreshed: false }),
                Err(TokenError::Call(ApiError::Token { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let (stored, token) = self.refreshed(row).await?;
        Ok(Fresh { value: self.call_once(&stored, token, &call).await?, was_refreshed: true })
    }

    /// Makes a call; with the secret's other versions if TikTok refuses the app or the signature.
    async fn call_once<T, F, Fut>(
        &self,
        row: &Candidate,
        token: AccessToken,
        call: &F,
    ) -> Result<T, TokenError>
    where
        F: Fn(AppCredentials, AccessToken) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        let app = self.app(row).await?;
        let result = call(app.clone(), token.clone()).await;
        if !result.as_ref().is_err_and(is_about_the_app) {
            return Ok(result?);
        }
        let retry = |app: Arc<AppCredentials>| call((*app).clone(), token.clone());
        let is_refused = |_: &AppCredentials, error: &ApiError| is_about_the_app(error);
        let retried = self.refresher.with_other_secrets(&app, row, retry, is_refused).await;
        Ok(retried.map_or(result, |(_, retried)| retried)?)
    }

    /// The row's app, once the rate limiter lets it be called.
    async fn app(&self, row: &Candidate) -> Result<AppCredentials, TokenError> {
        let app = self.refresher.app(row).ok_or_else(|| {
            no_token("unknown_app_key", "the secret does not hold the app that the row names")
        })?;
        let is_ready = self.services.rate_limiter.until_ready(&app.app_key);
        self.services.by(self.last_read, is_ready).await.ok_or(TokenError::OutOfTime)?;
        Ok((*app).clone())
    }

    /// The stored token, unless it has expired by its row.
    async fn stored_if_valid(&self, row: &Candidate) -> Result<Option<(Candidate, AccessToken)>, TokenError> {
        match row.access_state(self.services.clock.now()) {
            AccessState::Expired => Ok(None),
            AccessState::ExpiringSoon | AccessState::Ok => self.stored(row).await,
        }
    }

    /// The stored token and the row that it was read with: only that row names the app which the token belongs to.
    async fn stored(&self, row: &Candidate) -> Result<Option<(Candidate, AccessToken)>, TokenError> {
        let stored = self.services.by(self.last_read, self.services.table.read(&row.key)).await;
        let stored = stored.ok_or(TokenError::OutOfTime)?;
        let stored = stored.map_err(|error| no_token("store_error", error.to_string()))?;
        Ok(stored.and_then(|row| Some((row.candidate, row.access_token?))))
    }

    /// Refreshes the token and returns the new one. In a task of its own: the caller may stop waiting, and a refresh must not
    /// end with that.
    async fn refreshed(&self, row: Candidate) -> Result<(Candidate, AccessToken), TokenError> {
        if !self.refresher.has_time_for_a_call() {
            return Err(TokenError::OutOfTime);
        }
        let (refresher, candidate) = (self.refresher.clone(), row.clone());
        let refresh = async move {
            match refresher.refresh(&candidate).await {
                Attempt::Done { report, .. } => report,
                // Noted in the row, and never marked from here: one caller cannot tell a revoked seller from a wrong secret.
                Attempt::Rejected(rejected) => rejected.report_noted(),
            }
        };
        let report = tokio::spawn(refresh.in_current_span())
            .await
            .map_err(|panic| no_token("internal_error", panic.to_string()))?;
        if report.outcome == Outcome::Deferred {
            return Err(TokenError::OutOfTime);
        }
        if report.outcome != Outcome::Refreshed {
            return Err(TokenError::NoToken {
                reason: report.reason.unwrap_or(report.outcome.as_str()),
                message: report.message.unwrap_or_else(|| "it was not refreshed".into()),
                code: report.tiktok_code,
            });
        }
        self.stored(&row).await?.ok_or_else(|| no_token("deleted", "the row was deleted"))
    }
}
