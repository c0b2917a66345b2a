//! What all AWS adapters share: the SDK's configuration, and what may be told of its errors.

use aws_config::{BehaviorVersion, ConfigLoader, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use std::{error::Error, fmt, time::Duration};

/// The SDK's configuration with time-outs, of which it has none by default, and the behaviour of a fixed version.
pub fn config() -> ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(10))
        .build();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(3))
}

/// What an SDK error comes down to. The error itself may print what was sent or stored, and stays in its adapter.
#[derive(Debug)]
pub(crate) enum Said {
    /// The service's code.
    Code(String),
    /// The innermost cause, where the service gave no answer: there is no row or secret that it could show.
    NoAnswer(String),
}

impl Said {
    pub(crate) fn by<E, R>(error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: fmt::Debug + 'static,
    {
        match error.as_service_error() {
            Some(said) => Self::Code(said.code().unwrap_or("an error without a code").to_owned()),
            None => Self::NoAnswer(innermost(error)),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => f.write_str(code),
            Self::NoAnswer(cause) => write!(f, "no answer: {cause}"),
        }
    }
}

/// The innermost cause of an error, by its `Display`: the outer ones only say that something failed.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
