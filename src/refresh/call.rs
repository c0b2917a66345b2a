//! The call: how TikTok is asked, how often, and how long.

use super::{Called, Leased, Refresher};
use crate::{
    domain::{
        grant::Grant,
        secret::{AppCredentials, RefreshToken},
    },
    tiktok::CallError,
};
use backon::{ExponentialBuilder, Retryable};
use chrono::TimeDelta;
use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::warn;

/// How long one refresh waits, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// One provider call: `TIKTOK_TIMEOUT`.
    pub call: Duration,
    /// Kept free at the invocation's end, so that an answer can be saved.
    pub save_reserve: Duration,
    /// Before the first retry of a call that TikTok cannot have acted on; then twice that, and so on.
    pub retry_after: Duration,
    /// At least this, and at most twice this, before asking again after an answer that was lost.
    pub ask_again_after: Duration,
    /// Before the first retry of a save.
    pub save_retry_after: Duration,
    /// How long a save is tried before the pair also goes to the queue.
    pub rescue_after: Duration,
    /// How long a save is tried once the queue has the pair.
    pub tries_after_rescue: Duration,
}

impl Pace {
    /// The usual pace, with a provider time-out of `call`.
    pub fn with_call(call: Duration) -> Self {
        Self {
            call,
            save_reserve: Duration::from_secs(5),
            retry_after: Duration::from_millis(500),
            ask_again_after: Duration::from_secs(1),
            save_retry_after: Duration::from_millis(50),
            rescue_after: Duration::from_secs(1),
            tries_after_rescue: Duration::from_secs(10),
        }
    }
}

/// How many calls were made and repeated: at most a fifth are repeats, beyond the first few.
#[derive(Debug, Default)]
pub struct RetryBudget {
    calls: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    const ALWAYS: u64 = 10;

    fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry out of the budget, if there is one left.
    fn take(&self) -> bool {
        let allowed = Self::ALWAYS + self.calls.load(Ordering::Relaxed) / 5;
        let take = |spent| (spent < allowed).then_some(spent + 1);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl Refresher {
    /// Asks TikTok: patiently while it cannot have acted, with newer credentials when it refuses the app, and once
    /// more when an answer was lost. The first request's share of the rate has been taken already.
    pub(super) async fn call(&self, leased: Leased, mut app: Arc<AppCredentials>) -> Called {
        let mut answer = self.ask_patiently(&app, &leased, true).await;
        if let Err(CallError::Misconfigured { .. }) = answer
            && let Some((other, its_answer)) = self.ask_with_others(&app, &leased).await
        {
            (app, answer) = (other, its_answer);
        }
        let Err(CallError::Ambiguous { .. }) = answer else { return leased.called(answer) };
        tokio::time::sleep(self.pace.ask_again_after.mul_f64(1.0 + fastrand::f64())).await;
        let key = leased.key();
        warn!(
            run_id = self.run_id,
            team_id = key.team_id.as_str(),
            integration_id = key.integration_id.as_str(),
            "TikTok's answer was lost, asking once more",
        );
        match self.ask(&app, &leased.sent, false).await {
            // A rejection now is what a lost answer to a single-use token looks like.
            Err(error @ CallError::Reauthorize { .. }) => {
                Leased { cut_off_before: true, ..leased }.called(Err(error))
            }
            Err(_) => leased.called(answer),
            Ok(grant) => leased.called(Ok(grant)),
        }
    }

    /// Asks with whatever else the secret holds for an app that TikTok refused: somebody may be rotating it. Tried once
    /// in a run for each app; what TikTok takes serves the rest of the run too.
    async fn ask_with_others(
        &self,
        refused: &AppCredentials,
        leased: &Leased,
    ) -> Option<(Arc<AppCredentials>, Result<Grant, CallError>)> {
        // Held while asking: the other refreshes that were refused wait for what comes of it.
        let mut tried = self.others_tried.lock().await;
        let in_use = self.app(&leased.row.candidate)?;
        if !in_use.app_secret.is_same_as(&refused.app_secret) {
            drop(tried);
            let answer = self.ask_patiently(&in_use, leased, false).await;
            return Some((in_use, answer));
        }
        if !tried.insert(refused.app_key.clone()) {
            return None;
        }
        let others = self.credentials.others(refused).await.unwrap_or_else(|error| {
            let run_id = &self.run_id;
            warn!(run_id, "TikTok refused the app credentials, and they could not be read again: {error}");
            Vec::new()
        });
        for other in others {
            let answer = self.ask_patiently(&other, leased, false).await;
            if !matches!(answer, Err(CallError::Misconfigured { .. } | CallError::NotConnected { .. })) {
                warn!(
                    run_id = self.run_id,
                    app_key = other.app_key,
                    "TikTok takes another version of the app's secret"
                );
                let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
                *apps = Arc::new(apps.with(&other));
                drop(apps);
                return Some((other, answer));
            }
        }
        None
    }

    async fn ask_patiently(
        &self,
        app: &AppCredentials,
        leased: &Leased,
        mut rate_is_paid: bool,
    ) -> Result<Grant, CallError> {
        let backoff = ExponentialBuilder::new().with_min_delay(self.pace.retry_after).with_max_times(2);
        (|| self.ask(app, &leased.sent, std::mem::take(&mut rate_is_paid)))
            .retry(backoff)
            .when(|error| error.may_be_retried() && self.has_time_for_a_call() && self.budget.take())
            .adjust(|error, delay| {
                // Full jitter, unless TikTok says how long.
                let wait = error.retry_after().or(delay.map(|delay| delay.mul_f64(fastrand::f64())))?;
                self.has_time_for_a_call_in(wait).then_some(wait)
            })
            .notify(|error, wait| {
                let key = leased.key();
                warn!(
                    run_id = self.run_id,
                    team_id = key.team_id.as_str(),
                    integration_id = key.integration_id.as_str(),
                    reason = error.reason(),
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    "asking TikTok again: {error}",
                );
            })
            .await
    }

    /// One request. None is begun whose answer could not be saved in time.
    async fn ask(
        &self,
        app: &AppCredentials,
        sent: &RefreshToken,
        rate_is_paid: bool,
    ) -> Result<Grant, CallError> {
        if !rate_is_paid {
            self.limiter.until_ready(&app.app_key).await;
        }
        if !self.has_time_for_a_call() {
            return Err(CallError::NotConnected { message: "the invocation's time runs out".into() });
        }
        self.budget.called();
        let began = Instant::now();
        let answer = self.tiktok.refresh(app, sent).await;
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).saw(began.elapsed());
        answer
    }

    /// Whether a call begun now could still be saved.
    pub fn has_time_for_a_call(&self) -> bool {
        self.has_time_for_a_call_in(Duration::ZERO)
    }

    fn has_time_for_a_call_in(&self, wait: Duration) -> bool {
        let needed = wait + self.pace.call + self.pace.save_reserve;
        self.deadline - self.clock.now() > TimeDelta::from_std(needed).unwrap_or(TimeDelta::MAX)
    }
}
