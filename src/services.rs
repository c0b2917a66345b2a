//! The settings and clients that a warm environment shares among its invocations.

use crate::{
    aws::{dynamodb::Table, eventbridge::EventBus, secrets_manager::Credentials, sqs::Queue},
    domain::{clock::Clock, ensure::RefusedCredentials, retry_policy::RetryPolicy},
    settings::Settings,
    tiktok::{RateLimiter, TikTok},
};
use aws_config::SdkConfig;
use std::{fmt, sync::Arc};

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

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("settings", &self.settings).finish_non_exhaustive()
    }
}
