//! `ensure`, and the same for callers in Rust. A good stored token is left as it is. Any other token is refreshed, by the protocol
//! of the nightly run and only once for all concurrent callers: one attempt gets the lease, and the other callers wait for it.
//!
//! This module never marks a row, because one caller cannot tell a revoked authorization from a wrong app secret.

use crate::{
    aws::{dynamodb::TableError, secrets_manager::CredentialsError},
    domain::{
        circuit_breaker::CallOutcome,
        ensure::{ATTEMPT, Answer, EnsureOutcome, EnsureRequest, Step, lost_every_race},
        integration::{CLOCK_SKEW, Candidate, Integration, IntegrationKey},
        outcome::{Outcome, Report},
        reason::Reason,
        secret::{AccessToken, AppCredentials},
    },
    refresh::{Attempt, Refresher, RunContext, Verdict},
    response::EnsureResponse,
    run::log,
    services::Services,
    tiktok::{ApiError, CallError},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::OnceCell, time::Instant};
use tracing::{Instrument, debug, error, error_span, info, warn};

/// How long a caller waits for another attempt, if it has this much time.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The wait before the row is read for the second time. It doubles with each further read.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest of these waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The time that a wait leaves for the answer.
const FOR_THE_ANSWER: TimeDelta = TimeDelta::seconds(1);

/// Why `ensure` failed without an answer.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The secret cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The invocation's time ran out before the row was read.
    #[error("the invocation's time ran out before the row was read")]
    OutOfTime,
}

/// Why there is no valid token, or no result of a call with one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no valid token.
    #[error("{message}")]
    NoToken {
        /// The machine-readable reason, as in a response.
        reason: String,
        /// The reason, for people.
        message: String,
        /// TikTok's error code, if TikTok sent one.
        code: Option<i64>,
        /// The seconds after which to ask again; `None` if a person must act first.
        retry_after_seconds: Option<i64>,
    },
    /// The invocation's time ran out before there was a token.
    #[error("the invocation's time ran out")]
    OutOfTime,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] ApiError),
}

/// A call's result, and whether the token was refreshed for it.
#[derive(Debug)]
pub struct Fresh<T> {
    /// What the call returned.
    pub value: T,
    /// Whether the token was refreshed for it.
    pub was_refreshed: bool,
}

/// A call's result, with the row and the token that were used.
pub(super) struct Called<T> {
    pub(super) value: T,
    pub(super) row: Box<Integration>,
    pub(super) token: AccessToken,
    pub(super) was_refreshed: bool,
}

/// Gets valid access tokens during one invocation.
#[derive(Clone, Debug)]
pub(super) struct TokenSource {
    services: Arc<Services>,
    run_id: String,
    deadline: DateTime<Utc>,
    /// Created for the first token that is not valid. It reads the secret, which `ensure` does not need for a valid token.
    refresher: Arc<OnceCell<Arc<Refresher>>>,
}

/// The answer to a request for a valid token, and the row as it was last read.
struct Ensured {
    answer: Answer,
    row: Option<Box<Integration>>,
    /// Whether this request asked TikTok itself. Then nobody has logged the answer yet.
    is_own: bool,
}

/// How this caller's own attempt ended.
enum Tried {
    Refreshed(Report),
    /// It did not get the lease, because the row has changed since it was read.
    Lost,
    /// There is an answer. `is_own` is false if the answer was given before, and logged.
    Ended {
        answer: Answer,
        is_own: bool,
    },
}

/// Answers an `ensure` request, by `deadline`.
///
/// # Errors
/// [`EnsureError`] if the table or the secret cannot be read.
pub(crate) async fn run(
    services: &Arc<Services>,
    request: EnsureRequest,
    deadline: DateTime<Utc>,
) -> Result<EnsureResponse, EnsureError> {
    let run_id = uuid::Uuid::new_v4().to_string();
    let span = error_span!("ensure", run_id);
    let ensure = async {
        let ensured = TokenSource::new(services, run_id.clone(), deadline).ensure(&request).await;
        match &ensured {
            Ok(Ensured { answer, is_own, .. }) => log_answer(answer, *is_own),
            Err(error) => error!("could not ensure a valid TikTok access token: {error}"),
        }
        ensured
    };
    // The inner span is made within the outer one, so that a line has the fields of both.
    let Ensured { answer, row, .. } =
        async { ensure.instrument(request.key.span()).await }.instrument(span).await?;
    let seller_name = row.and_then(|row| row.candidate.seller_name);
    Ok(EnsureResponse::new(request.key, seller_name, answer))
}

fn log_answer(answer: &Answer, is_own: bool) {
    macro_rules! line {
        ($level:ident, $($message:tt)+) => {
            $level!(
                outcome = answer.outcome.as_str(),
                reason = answer.reason.as_deref(),
                tiktok_code = answer.tiktok_code,
                $($message)+
            )
        };
    }
    let why = answer.message.as_deref().unwrap_or_default();
    match answer.outcome {
        // There is one for each caller. The attempt that refreshes the token logs the refresh itself.
        EnsureOutcome::Valid | EnsureOutcome::Refreshed | EnsureOutcome::RefreshedByAnother => {
            line!(debug, "the TikTok access token is valid");
        }
        EnsureOutcome::Locked | EnsureOutcome::OutcomeUnknown => {
            line!(warn, "no valid TikTok access token yet: {why}");
        }
        EnsureOutcome::CannotRefresh | EnsureOutcome::Failed if is_own => {
            line!(error, "no valid TikTok access token: {why}");
        }
        // An earlier attempt has logged this as an error.
        EnsureOutcome::CannotRefresh | EnsureOutcome::Failed => {
            line!(info, "still no valid TikTok access token: {why}");
        }
    }
}

/// Returns an access token that is valid for more than 5 minutes: the stored one, or a new one.
///
/// # Errors
/// [`TokenError::NoToken`], with the reason.
pub(crate) async fn ensure_valid_access_token(
    services: &Arc<Services>,
    key: &IntegrationKey,
    deadline: DateTime<Utc>,
) -> Result<AccessToken, TokenError> {
    let source = TokenSource::new(services, uuid::Uuid::new_v4().to_string(), deadline);
    let token = source.token(&EnsureRequest::new(key.clone())).instrument(key.span()).await?;
    Ok(token.token)
}

/// Makes a call with an integration's access token. Refreshes the token first if it has expired. If TikTok rejects the token,
/// refreshes it once and makes the call again.
///
/// # Errors
/// [`TokenError`]. Its variant `Call` is the call's own error.
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
    let source = TokenSource::new(services, uuid::Uuid::new_v4().to_string(), deadline);
    let called = source.call(key, call).instrument(key.span()).await?;
    Ok(Fresh { value: called.value, was_refreshed: called.was_refreshed })
}

fn no_token(reason: Reason, message: impl Into<String>) -> TokenError {
    let (reason, message) = (reason.as_str().to_owned(), message.into());
    TokenError::NoToken { reason, message, code: None, retry_after_seconds: None }
}

impl From<EnsureError> for TokenError {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::Table(error) => no_token(Reason::StoreError, error.to_string()),
            EnsureError::Credentials(error) => no_token(Reason::CredentialsUnavailable, error.to_string()),
            EnsureError::OutOfTime => Self::OutOfTime,
        }
    }
}

impl From<Answer> for TokenError {
    fn from(answer: Answer) -> Self {
        if answer.reason.as_deref() == Some(Reason::OutOfTime.as_str()) {
            return Self::OutOfTime;
        }
        Self::NoToken {
            reason: answer.reason.unwrap_or_else(|| answer.outcome.as_str().to_owned()),
            message: answer.message.unwrap_or_default(),
            code: answer.tiktok_code,
            retry_after_seconds: answer.retry_after_seconds,
        }
    }
}

/// Whether a call failed because of the app's credentials: TikTok refuses them, or a signature made with them.
fn is_about_the_app(error: &ApiError) -> bool {
    matches!(error, ApiError::Signature { .. } | ApiError::Call(CallError::Misconfigured { .. }))
}

/// A valid token and its row.
struct ValidToken {
    token: AccessToken,
    row: Box<Integration>,
    was_refreshed: bool,
}

impl TokenSource {
    pub(super) fn new(services: &Arc<Services>, run_id: String, deadline: DateTime<Utc>) -> Self {
        Self { services: services.clone(), run_id, deadline, refresher: Arc::default() }
    }

    /// The refresher of this invocation, with the credentials of the secret.
    pub(super) async fn refresher(&self) -> Result<Arc<Refresher>, CredentialsError> {
        let make = async || {
            let apps = self.services.credentials.apps().await?;
            let (run_id, deadline) = (self.run_id.clone(), self.deadline);
            // Forced, because a token that TikTok rejects must be refreshed, whatever expiry its row has.
            let run = RunContext { run_id, deadline, force: true, unless_refreshed_since: None, apps };
            Ok(Arc::new(Refresher::new(self.services.clone(), run)))
        };
        self.refresher.get_or_try_init(make).await.cloned()
    }

    /// Makes sure that a stored access token is usable, or says why not.
    async fn ensure(&self, request: &EnsureRequest) -> Result<Ensured, EnsureError> {
        let Some(row) = self.read(&request.key).await? else {
            return Ok(Ensured { answer: request.not_found(), row: None, is_own: false });
        };
        match request.answer(Some(&*row), Some(&*row), self.services.clock.now()) {
            Some(answer) => Ok(Ensured { answer, row: Some(row), is_own: false }),
            None => Box::pin(self.refresh_or_wait(request, row)).await,
        }
    }

    async fn read(&self, key: &IntegrationKey) -> Result<Option<Box<Integration>>, EnsureError> {
        let row = self.services.by(self.deadline - FOR_THE_ANSWER, self.services.table.read(key)).await;
        Ok(row.ok_or(EnsureError::OutOfTime)??.map(Box::new))
    }

    /// Refreshes a token that is not usable, or waits for the attempt that does.
    async fn refresh_or_wait(
        &self,
        request: &EnsureRequest,
        first: Box<Integration>,
    ) -> Result<Ensured, EnsureError> {
        let time_left = self.deadline - self.services.clock.now() - FOR_THE_ANSWER;
        let wait_until = Instant::now() + LONGEST_WAIT.min(time_left.to_std().unwrap_or_default());
        let mut pause = FIRST_PAUSE;
        let (mut row, mut has_refreshed) = (first.clone(), false);
        loop {
            let in_use = self.refresher().await?.in_use(&row.candidate);
            let mut ended = None;
            let locked = match request.next_step(&first, &row, in_use.as_ref(), self.services.clock.now()) {
                Step::Answer(answer) => return Ok(Ensured { answer, row: Some(row), is_own: false }),
                Step::Wait(locked) => Some(locked),
                Step::Refresh => match self.attempt(&row).await? {
                    Tried::Ended { answer, is_own } => {
                        ended = Some((answer, is_own));
                        None
                    }
                    Tried::Refreshed(report) => {
                        has_refreshed = report.reason.is_none();
                        None
                    }
                    Tried::Lost => Some(lost_every_race(&row)),
                },
            };
            if let Some(locked) = locked {
                if Instant::now() + pause >= wait_until {
                    return Ok(Ensured { answer: locked, row: Some(row), is_own: false });
                }
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            let read = match (self.read(&request.key).await, &ended) {
                (Ok(Some(read)), _) => read,
                (Ok(None), _) => {
                    return Ok(Ensured { answer: request.not_found(), row: None, is_own: has_refreshed });
                }
                (Err(_), Some(_)) => row.clone(),
                (Err(error), None) => return Err(error),
            };
            // If another writer has stored a new token meanwhile, the answer about the old token does not count. After a mismatch,
            // the attempt itself has stored the other seller's token.
            if let Some((answer, is_own)) = ended
                && (read.holds_access_token(row.access_token.as_ref())
                    || answer.reason.as_deref() == Some(Reason::IdentityMismatch.as_str()))
            {
                return Ok(Ensured { answer, row: Some(read), is_own });
            }
            row = read;
            if let Some(mut answer) = request.answer(Some(&*first), Some(&*row), self.services.clock.now()) {
                if has_refreshed && answer.outcome.is_valid() {
                    answer.outcome = EnsureOutcome::Refreshed;
                }
                return Ok(Ensured { answer, row: Some(row), is_own: has_refreshed });
            }
        }
    }

    /// Refreshes a row, if it is still as it was read. Runs in a task of its own, so that the refresh goes on if the caller stops
    /// waiting.
    async fn attempt(&self, row: &Integration) -> Result<Tried, CredentialsError> {
        let refresher = self.refresher().await?;
        let (in_use, now) = (refresher.in_use(&row.candidate), self.services.clock.now());
        let refused = &self.services.refused_credentials;
        if let Some(answer) = in_use.as_ref().and_then(|in_use| refused.answer(in_use, row, now)) {
            return Ok(Tried::Ended { answer, is_own: false });
        }
        let deadline = self.deadline.min(now + ATTEMPT);
        let (refresher, leased) = (refresher.for_attempt(deadline), row.clone());
        let refresh = async move {
            match refresher.refresh_if_unchanged(&leased).await {
                Attempt::Done { report, call, .. } => (report, call.map(|call| call.outcome)),
                Attempt::Rejected(rejected) => (rejected.report_noted(), Some(CallOutcome::Rejected)),
            }
        };
        let started = Instant::now();
        let ended = tokio::spawn(refresh.in_current_span()).await;
        let now = self.services.clock.now();
        let lease_seconds = (deadline + CLOCK_SKEW - now).num_seconds();
        let Ok((report, call)) = ended else {
            let answer = Answer::of(row, EnsureOutcome::Failed);
            let answer =
                answer.because(Reason::InternalError, "the refresh panicked; this is a bug in the function");
            return Ok(Tried::Ended { answer: answer.retry_after(lease_seconds), is_own: true });
        };
        if report.outcome == Outcome::Refreshed {
            log::refreshed(&report, started.elapsed());
            return Ok(Tried::Refreshed(report));
        }
        let is_rejected = call == Some(CallOutcome::Rejected);
        let answer = Answer::of_attempt(&report, is_rejected, lease_seconds);
        if let (Some(CallOutcome::Misconfigured), Some(in_use), Some(answer)) = (call, in_use, &answer) {
            refused.remember(in_use, answer, now);
        }
        Ok(answer.map_or(Tried::Lost, |answer| Tried::Ended { answer, is_own: true }))
    }

    async fn token(&self, request: &EnsureRequest) -> Result<ValidToken, TokenError> {
        let Ensured { answer, row, .. } = self.ensure(request).await?;
        if !answer.outcome.is_valid() {
            return Err(answer.into());
        }
        let row = row.and_then(|row| Some((row.access_token.clone()?, row)));
        let (token, row) = row.ok_or_else(|| no_token(Reason::Deleted, "the row was deleted"))?;
        Ok(ValidToken { token, row, was_refreshed: answer.outcome != EnsureOutcome::Valid })
    }

    /// Makes a call with a valid token. If TikTok rejects the token, gets another one and makes the call once more.
    pub(super) async fn call<T, F, Fut>(&self, key: &IntegrationKey, call: F) -> Result<Called<T>, TokenError>
    where
        F: Fn(AppCredentials, AccessToken) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        let mut request = EnsureRequest::new(key.clone());
        let ValidToken { token, row, was_refreshed } = self.token(&request).await?;
        let rejection = match self.call_once(&row.candidate, token.clone(), &call).await {
            Ok(value) => return Ok(Called { value, row, token, was_refreshed }),
            Err(TokenError::Call(error @ ApiError::Token { .. })) => error,
            Err(error) => return Err(error),
        };
        request.rejected = Some(token.sha256());
        let ValidToken { token, row, .. } = match self.token(&request).await {
            // The call's own error is more informative.
            Err(TokenError::NoToken { reason, .. }) if reason == Reason::JustRefreshed.as_str() => {
                return Err(rejection.into());
            }
            token => token?,
        };
        let value = self.call_once(&row.candidate, token.clone(), &call).await?;
        Ok(Called { value, row, token, was_refreshed: true })
    }

    /// Makes a call. If TikTok refuses the app or the signature, tries the secret's other versions.
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
        let refresher = self.refresher().await.map_err(EnsureError::from)?;
        let app = refresher.app(row).ok_or_else(|| {
            no_token(Reason::UnknownAppKey, "the secret does not hold the app that the row names")
        })?;
        let is_ready = self.services.rate_limiter.until_ready(&app.app_key);
        self.services.by(self.deadline - FOR_THE_ANSWER, is_ready).await.ok_or(TokenError::OutOfTime)?;
        let result = call((*app).clone(), token.clone()).await;
        if !result.as_ref().is_err_and(is_about_the_app) {
            return Ok(result?);
        }
        let retry = |app: Arc<AppCredentials>| call((*app).clone(), token.clone());
        let judge = |_: &AppCredentials, error: &ApiError| match error {
            error if is_about_the_app(error) => Verdict::Refused,
            error if error.may_pass() => Verdict::Nothing,
            _ => Verdict::Accepted,
        };
        let retried = refresher.with_other_secrets(&app, row, retry, judge).await;
        Ok(retried.map_or(result, |(_, retried)| retried)?)
    }
}
