//! The settings and clients that a warm environment shares among its invocations.

use crate::{
    aws::{dynamodb::Table, eventbridge::EventBus, secrets_manager::Credentials, sqs::Queue},
    domain::{
        clock::Clock,
        connect_link::{self, LinkTarget, Market, Service},
        integration::{IntegrationKey, UnixTime},
        refused_credentials::RefusedCredentials,
        retry_policy::RetryPolicy,
        secret::AppCredentials,
    },
    settings::Settings,
    tiktok::{RateLimiter, TikTok},
};
use aws_config::SdkConfig;
use chrono::{DateTime, TimeDelta, Utc};
use std::{fmt, sync::Arc, time::Duration};
use uuid::Uuid;

/// The time at the end of an invocation that is reserved for its response, and for handing over what is left.
const RESPONSE_RESERVE: TimeDelta = TimeDelta::seconds(3);

/// When an invocation with this deadline must stop reading, so that it still responds in time.
pub(crate) fn last_read(deadline: DateTime<Utc>) -> DateTime<Utc> {
    deadline - RESPONSE_RESERVE
}

/// The time at the end of an invocation in which no request to AWS is waited for.
const LAST_SECOND: Duration = Duration::from_secs(1);
/// How long a request to AWS may take even if the deadline seems to be near or over: this clock may be fast.
const MIN_REQUEST_TIME: Duration = Duration::from_millis(500);

/// Writes a line of metrics: to standard output in production.
pub type EmitMetrics = Arc<dyn Fn(&str) + Send + Sync>;

/// The settings and clients that a warm environment shares among its invocations.
pub(crate) struct Services {
    pub(crate) settings: Settings,
    pub(crate) table: Table,
    pub(crate) tiktok: TikTok,
    pub(crate) credentials: Credentials,
    /// The function's own queue, if it has one.
    pub(crate) queue: Option<Queue>,
    /// Where state changes are published, if anywhere.
    pub(crate) event_bus: Option<EventBus>,
    pub(crate) rate_limiter: RateLimiter,
    /// What `ensure` remembers of credentials that TikTok refuses.
    pub(crate) refused_credentials: RefusedCredentials,
    pub(crate) clock: Clock,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) emit_metrics: EmitMetrics,
}

impl Services {
    /// The clients for these settings. Nothing is connected yet.
    pub(crate) fn new(
        settings: Settings,
        sdk: &SdkConfig,
        clock: Clock,
        emit_metrics: EmitMetrics,
        retry_policy: RetryPolicy,
    ) -> Self {
        let secrets = aws_sdk_secretsmanager::Client::new(sdk);
        let queue = |url| Queue::new(aws_sdk_sqs::Client::new(sdk), url);
        let bus = |name: &String| EventBus::new(aws_sdk_eventbridge::Client::new(sdk), name);
        Self {
            table: Table::new(aws_sdk_dynamodb::Client::new(sdk), &settings.table_name),
            tiktok: TikTok::new(&settings.tiktok_auth_url, &settings.tiktok_api_url, settings.tiktok_timeout),
            credentials: Credentials::new(&settings.credentials, secrets, clock.clone()),
            refused_credentials: RefusedCredentials::default(),
            rate_limiter: RateLimiter::new(settings.max_requests_per_second),
            queue: settings.work_queue_url.as_ref().map(queue),
            event_bus: settings.event_bus_name.as_ref().map(bus),
            settings,
            clock,
            retry_policy,
            emit_metrics,
        }
    }
}

impl Services {
    /// How long a request to AWS may take at most in an invocation with this deadline, so that one that hangs does not keep the
    /// invocation from its response.
    pub(crate) fn time_for_a_request(&self, deadline: DateTime<Utc>) -> Duration {
        let left = (deadline - self.clock.now()).to_std().unwrap_or_default();
        left.saturating_sub(LAST_SECOND).max(MIN_REQUEST_TIME)
    }

    /// The output of `work`, or `None` if that is not there by `time`. Only for work that may be dropped half done.
    pub(crate) fn by<T>(
        &self,
        time: DateTime<Utc>,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = Option<T>> {
        // Boxed, as the futures of the callers would be too large otherwise.
        let work = Box::pin(work);
        async move {
            let left = (time - self.clock.now()).to_std().ok().filter(|left| !left.is_zero())?;
            tokio::time::timeout(left, work).await.ok()
        }
    }
}

impl Services {
    /// A link with which the seller of an integration connects it. `None` if the secret has no service of the app, or the ids
    /// are too long for a link.
    pub(crate) fn connect_url(
        &self,
        app: &AppCredentials,
        key: &IntegrationKey,
        market: Option<Market>,
        expires_at: UnixTime,
    ) -> Option<String> {
        let service = app.service.as_ref()?;
        let service = Service { market: market.unwrap_or(service.market), ..service.clone() };
        let target = LinkTarget { key: key.clone(), app_key: app.app_key.clone(), expires_at };
        let nonce = Uuid::new_v4().simple().to_string();
        connect_link::url(&target, app, &service, self.settings.consent_page.as_ref(), &nonce)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("settings", &self.settings).finish_non_exhaustive()
    }
}
