//! The adapters for AWS, one file for each service, and what they share: the SDK's configuration and error type.

pub mod cloudwatch;
pub mod dynamodb;
pub mod eventbridge;
pub mod secrets_manager;
pub mod sqs;

use crate::domain::root_cause::root_cause;
use aws_config::{
    BehaviorVersion, ConfigLoader, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use std::{
    collections::HashMap,
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The SDK's configuration. It pins the SDK's behavior version and sets timeouts, most of which the SDK leaves unlimited.
pub fn config() -> ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(10))
        .build();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .timeout_config(timeouts)
        // The timeout of an attempt acts sooner and also covers the response's body.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .retry_config(RetryConfig::standard().with_max_attempts(3))
}

/// The SDK's HTTP connector, shared by all services and built on the first request. By default, each service's client reads the
/// system's root certificates at startup and again on first use. This saves 1.7 ms of CPU at a cold start, which is 23 ms at the
/// 7 % of a CPU that a function of 128 MB gets.
///
/// A request that is given up discards the connector and its pool, see [`PooledConnector`].
fn http_client() -> SharedHttpClient {
    let pools = Pools::default();
    http_client_fn(move |settings, components| {
        let build = || {
            let mut connector = Connector::builder()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .connector_settings(settings.clone())
                .proxy_config(ProxyConfig::from_env());
            connector.set_sleep_impl(components.sleep_impl());
            Arc::new(SharedHttpConnector::new(connector.build()))
        };
        let timeouts = [settings.connect_timeout(), settings.read_timeout()];
        let mut connectors = pools.lock().unwrap_or_else(PoisonError::into_inner);
        let connector = connectors.entry(timeouts).or_insert_with(build).clone();
        SharedHttpConnector::new(PooledConnector { connector, timeouts, pools: pools.clone() })
    })
}

type Timeouts = [Option<Duration>; 2];
/// The connectors in use, by their timeouts. Each has a pool of connections.
type Pools = Arc<Mutex<HashMap<Timeouts, Arc<SharedHttpConnector>>>>;

/// A connector that leaves the pools when one of its requests gets no response in time. While an environment is frozen, all its
/// idle connections can die without a sign. Each would cost a request a timeout of its own; so one does, and the next request
/// connects anew.
#[derive(Clone, Debug)]
struct PooledConnector {
    connector: Arc<SharedHttpConnector>,
    timeouts: Timeouts,
    pools: Pools,
}

impl HttpConnector for PooledConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (call, pooled) = (self.connector.call(request), self.clone());
        HttpConnectorFuture::new(async move {
            let given_up = DiscardOnDrop(Some(pooled));
            let result = call.await;
            if !result.as_ref().is_err_and(ConnectorError::is_timeout) {
                given_up.disarm();
            }
            result
        })
    }
}

/// Discards a connector's pool when a request ends without a response. The SDK's timeout of an attempt drops the request.
struct DiscardOnDrop(Option<PooledConnector>);

impl DiscardOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for DiscardOnDrop {
    fn drop(&mut self) {
        let Some(PooledConnector { connector, timeouts, pools }) = self.0.take() else { return };
        let mut connectors = pools.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer connector stays: other requests that waited on the same pool end now, too.
        if connectors.get(&timeouts).is_some_and(|current| Arc::ptr_eq(current, &connector)) {
            connectors.remove(&timeouts);
        }
    }
}

/// The safe part of an SDK error. The error itself may print a request or a row, so it never leaves its adapter.
#[derive(Debug)]
pub(crate) enum AwsError {
    /// The service returned this error code.
    Code(String),
    /// The service sent no response; holds the root cause, which cannot quote a row or a secret.
    NoResponse(String),
    /// No provider gave AWS credentials; holds the root cause. The providers have retried already.
    NoCredentials(String),
}

impl AwsError {
    pub(crate) fn of<E, R>(error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: fmt::Debug + 'static,
    {
        match error.as_service_error() {
            Some(error) => Self::Code(error.code().unwrap_or("an error without a code").to_owned()),
            None if lacks_credentials(error) => Self::NoCredentials(root_cause(error)),
            None => Self::NoResponse(root_cause(error)),
        }
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => f.write_str(code),
            Self::NoResponse(cause) => write!(f, "no response: {cause}"),
            Self::NoCredentials(cause) => write!(f, "no AWS credentials: {cause}"),
        }
    }
}

/// Whether the request was not even signed, because there are no credentials.
fn lacks_credentials(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(<dyn Error>::is::<CredentialsError>)
}
