//! The call to TikTok: which failures are retried, how often, and after which wait.

use super::{Leased, Refresher};
use crate::{
    domain::{
        grant::Grant,
        integration::Candidate,
        latency::millis,
        secret::{AccessToken, AppCredentials, RefreshToken},
    },
    services::Services,
    tiktok::{ApiError, CallError, Shop},
};
use backon::{ExponentialBuilder, Retryable};
use std::{
    future::Future,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::warn;

/// How many rounds of tries a row gets in one run while TikTok is busy.
const MAX_BUSY_ROUNDS: u32 = 5;
/// A row that must wait longer gives its place to others meanwhile.
const MAX_WAIT_IN_PLACE: Duration = Duration::from_secs(10);

/// What the answer to a call says of the credentials that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    Refused,
    /// TikTok gave no answer, or none to the question.
    Nothing,
}

/// Bounds a run's retries without a connection to a fifth of its calls, beyond the first few.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    calls: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    const ALWAYS_ALLOWED: u64 = 10;

    fn record_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry out of the budget; `false` if none is left.
    fn take(&self) -> bool {
        let allowed = Self::ALWAYS_ALLOWED + self.calls.load(Ordering::Relaxed) / 5;
        let take = |spent| (spent < allowed).then_some(spent + 1);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl Refresher {
    /// Calls TikTok for a leased row: retries while TikTok cannot have acted, tries the secret's other versions when TikTok
    /// refuses the app, and asks once more when a response was lost. The caller has already waited for the rate limiter.
    pub(super) async fn call(
        &self,
        mut leased: Leased,
        mut app: Arc<AppCredentials>,
    ) -> (Leased, Result<Grant, CallError>) {
        let mut result = self.call_with_retries(app.clone(), &leased.sent, true).await;
        if let Err(CallError::Misconfigured { .. }) = result
            && let Some((other, its_result)) = self
                .with_other_secrets(
                    &app,
                    &leased.row.candidate,
                    |app| self.call_with_retries(app, &leased.sent, false),
                    |other, error| match error {
                        CallError::Misconfigured { .. } => Verdict::Refused,
                        // Another app's rejection says nothing of this app's sellers.
                        CallError::Reauthorize { .. } if other.app_key != app.app_key => Verdict::Refused,
                        error if error.may_pass() => Verdict::Nothing,
                        _ => Verdict::Accepted,
                    },
                )
                .await
        {
            (app, result) = (other, its_result);
        }
        result = self.ask_again_if_lost(&app, &mut leased, result).await;
        if let Err(CallError::Reauthorize { .. }) = result
            && leased.row.candidate.app_key.is_none()
            && let Some((other, its_result)) = self.call_with_other_apps(&mut leased).await
        {
            (app, result) = (other, its_result);
        }
        leased.app = Some(app);
        (leased, result)
    }

    /// Asks once more when a response was lost.
    async fn ask_again_if_lost(
        &self,
        app: &AppCredentials,
        leased: &mut Leased,
        result: Result<Grant, CallError>,
    ) -> Result<Grant, CallError> {
        let Err(CallError::Ambiguous { .. }) = result else { return result };
        let wait = self.services.retry_policy.lost_response_wait.mul_f64(1.0 + fastrand::f64());
        let slot = self.services.rate_limiter.until_ready(&app.app_key);
        tokio::join!(tokio::time::sleep(wait), slot);
        warn!("TikTok's response was lost, asking once more");
        match self.call_once(app, &leased.sent, true).await {
            // What the loss of the first response looks like when refresh tokens are single-use.
            Err(error @ CallError::Reauthorize { .. }) => {
                leased.was_interrupted = true;
                Err(error)
            }
            Err(_) => result,
            Ok(grant) => Ok(grant),
        }
    }

    /// Tries the other apps of the secret for a row that names no app and that the default app rejects: the order of the apps
    /// may have changed since the seller authorized one of them. A grant counts, then a lost response, then the first result
    /// that is no rejection; if all reject, the default app's rejection does.
    async fn call_with_other_apps(
        &self,
        leased: &mut Leased,
    ) -> Option<(Arc<AppCredentials>, Result<Grant, CallError>)> {
        let mut undecided = None;
        for app in self.run.apps.0.iter().skip(1) {
            let result = self.call_with_retries(app.clone(), &leased.sent, false).await;
            match self.ask_again_if_lost(app, leased, result).await {
                Err(CallError::Reauthorize { .. }) => {}
                result @ (Ok(_) | Err(CallError::Ambiguous { .. })) => return Some((app.clone(), result)),
                result => undecided = undecided.or(Some((app.clone(), result))),
            }
        }
        undecided
    }

    /// Tries the other secrets of an app that TikTok refused: somebody may be rotating it. Once per run and app; a secret that
    /// TikTok accepts serves the rest of the run. `judge` tells what a call's error says of the credentials; if nothing, the next
    /// refused call tries them again.
    pub(crate) async fn with_other_secrets<T, E, Fut>(
        &self,
        refused: &AppCredentials,
        row: &Candidate,
        call: impl Fn(Arc<AppCredentials>) -> Fut,
        judge: impl Fn(&AppCredentials, &E) -> Verdict,
    ) -> Option<(Arc<AppCredentials>, Result<T, E>)>
    where
        Fut: Future<Output = Result<T, E>>,
    {
        // Held during the calls, so that the other refused calls wait for their result.
        let mut tried = self.tried_other_secrets.lock().await;
        let in_use = self.app(row)?;
        if in_use.fingerprint() != refused.fingerprint() {
            drop(tried);
            let result = call(in_use.clone()).await;
            return Some((in_use, result));
        }
        if !tried.insert(refused.app_key.clone()) {
            return None;
        }
        let is_default = row.app_key.is_none();
        let others = self.services.credentials.others(refused, is_default).await.unwrap_or_else(|error| {
            warn!("TikTok refused the app credentials, and the secret could not be read again: {error}");
            Vec::new()
        });
        for other in others {
            let result = call(other.clone()).await;
            let verdict = result.as_ref().err().map_or(Verdict::Accepted, |error| judge(&other, error));
            if verdict == Verdict::Nothing {
                tried.remove(&refused.app_key);
                return Some((other, result));
            }
            if verdict == Verdict::Accepted {
                warn!(app_key = other.app_key, "TikTok accepts another version of the app's secret");
                let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
                *apps = Arc::new(apps.with(&other));
                drop(apps);
                return Some((other, result));
            }
        }
        None
    }

    async fn call_with_retries(
        &self,
        app: Arc<AppCredentials>,
        sent: &RefreshToken,
        mut has_waited: bool,
    ) -> Result<Grant, CallError> {
        (|| self.call_once(&app, sent, std::mem::take(&mut has_waited)))
            .retry(self.call_backoff())
            .when(|error| {
                // The app's adaptive rate bounds the retries of a busy TikTok.
                let is_affordable = || matches!(error, CallError::Busy { .. }) || self.retry_budget.take();
                error.may_be_retried() && self.has_time_for_a_call() && is_affordable()
            })
            .adjust(|error, delay| {
                let wait = wait_before_retry(error.retry_after(), delay?);
                (wait <= MAX_WAIT_IN_PLACE && self.has_time_for_a_call_in(wait)).then_some(wait)
            })
            .notify(|error, wait| {
                let wait_ms = millis(wait);
                warn!(reason = error.reason().as_str(), wait_ms, "retrying the call to TikTok: {error}");
            })
            .await
    }

    /// How long a row waits for its next round, if TikTok was busy in every try of this one. `None` if it was not, or if
    /// there is no other round.
    pub(super) fn wait_for_next_round(&self, error: &CallError, round: u32) -> Option<Duration> {
        let backoff = self.services.retry_policy.call_backoff * 2_u32.pow(round);
        let wait = wait_before_retry(error.retry_after(), backoff);
        let may_come_back = matches!(error, CallError::Busy { .. }) && round < MAX_BUSY_ROUNDS;
        (may_come_back && self.has_time_for_a_call_in(wait)).then_some(wait)
    }

    /// Makes one request. Starts none whose response could not be saved in time.
    async fn call_once(
        &self,
        app: &AppCredentials,
        sent: &RefreshToken,
        has_waited: bool,
    ) -> Result<Grant, CallError> {
        if !has_waited {
            self.services.rate_limiter.until_ready(&app.app_key).await;
        }
        if !self.has_time_for_a_call() {
            return Err(CallError::NotConnected { message: "the invocation's time runs out".into() });
        }
        self.retry_budget.record_call();
        let started = Instant::now();
        let result = self.services.tiktok.refresh(app, sent).await;
        if result.as_ref().is_err_and(CallError::limits_the_rate) {
            self.services.rate_limiter.slow_down(&app.app_key);
        }
        self.record(|statistics| statistics.latency.record(started.elapsed()));
        result
    }

    /// Calls Get Authorized Shops, and repeats it after any failure that may pass, since it changes nothing. The caller has
    /// already waited for the rate limiter, and may drop the call.
    pub(crate) async fn get_authorized_shops(
        &self,
        app: &AppCredentials,
        token: &AccessToken,
    ) -> Result<Vec<Shop>, ApiError> {
        let mut has_waited = true;
        let call = || {
            let has_waited = std::mem::take(&mut has_waited);
            async move {
                if !has_waited {
                    self.services.rate_limiter.until_ready(&app.app_key).await;
                }
                self.retry_budget.record_call();
                self.get_authorized_shops_once(app, token).await
            }
        };
        call.retry(self.call_backoff())
            .when(|error| error.may_pass() && self.retry_budget.take())
            .adjust(|error, delay| {
                let wait = wait_before_retry(error.retry_after(), delay?);
                let left = (self.run.deadline - self.services.clock.now()).to_std().unwrap_or_default();
                (left > wait).then_some(wait)
            })
            .notify(|error, wait| {
                let wait_ms = millis(wait);
                warn!(reason = error.reason().as_str(), wait_ms, "retrying the call to TikTok: {error}");
            })
            .await
    }

    /// Calls Get Authorized Shops once.
    pub(super) async fn get_authorized_shops_once(
        &self,
        app: &AppCredentials,
        token: &AccessToken,
    ) -> Result<Vec<Shop>, ApiError> {
        let Services { tiktok, rate_limiter, clock, .. } = &*self.services;
        let shops = tiktok.get_authorized_shops(app, token, clock.now()).await;
        if matches!(&shops, Err(ApiError::Call(error)) if error.limits_the_rate()) {
            rate_limiter.slow_down(&app.app_key);
        }
        shops
    }

    fn call_backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new().with_min_delay(self.services.retry_policy.call_backoff).with_max_times(2)
    }

    /// Whether the response to a call that starts now can still be saved.
    pub(crate) fn has_time_for_a_call(&self) -> bool {
        self.has_time_for_a_call_in(Duration::ZERO)
    }

    fn has_time_for_a_call_in(&self, wait: Duration) -> bool {
        self.time_for_calls() > wait
    }

    /// How much longer calls may start whose responses can still be saved.
    pub(crate) fn time_for_calls(&self) -> Duration {
        let policy = &self.services.retry_policy;
        let left = (self.run.deadline - self.services.clock.now()).to_std().unwrap_or_default();
        left.saturating_sub(policy.call_timeout + policy.save_reserve)
    }
}

/// As long as TikTok says; otherwise the backoff, with full jitter.
fn wait_before_retry(retry_after: Option<Duration>, backoff: Duration) -> Duration {
    retry_after.unwrap_or_else(|| backoff.mul_f64(fastrand::f64()))
}
