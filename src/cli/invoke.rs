//! A client of Lambda's Invoke API. Its errors name the next step.

use crate::aws::{self, AwsError};
use aws_config::{Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_lambda::{Client, primitives::Blob};
use clap::Args;
use serde_json::Value;
use std::time::Duration;

/// One minute more than Lambda's maximum function timeout.
const READ_TIMEOUT: Duration = Duration::from_mins(16);

/// The options that locate the function.
#[derive(Clone, Debug, Args)]
pub struct Aws {
    /// The function's name or ARN
    #[arg(long, global = true, env = "TIKTOK_TOKENS_FUNCTION", default_value = "tiktok-token-refresh")]
    function_name: String,
    /// Profile of the AWS configuration files
    #[arg(long, global = true)]
    profile: Option<String>,
    /// AWS region
    #[arg(long, global = true)]
    region: Option<String>,
    /// Endpoint of Lambda's API instead of AWS's, such as that of `tiktok-tokens local`
    #[arg(long, global = true, value_name = "URL")]
    endpoint_url: Option<String>,
}

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The function does not exist.
    #[error(
        "there is no function {0} in this account and region: check --function-name, --region and --profile"
    )]
    NoFunction(String),
    /// AWS denies the caller access.
    #[error("AWS denied the call ({0}): allow lambda:InvokeFunction, or choose another --profile")]
    Denied(String),
    /// There is no response: the credentials, the region, the network or the endpoint is missing.
    #[error(
        "the function could not be reached: {0}\n  If credentials are missing, run `aws configure` or `aws sso login`, \
         or pass --profile. If the region is missing, pass --region.\n  To use the local stack, start \
         `tiktok-tokens local` and pass its --endpoint-url."
    )]
    Unreachable(String),
    /// The function timed out.
    #[error(
        "the function timed out: raise its timeout or configure a work queue; completed refreshes are saved, and the \
         next run continues"
    )]
    TimedOut,
    /// Any other error of Lambda.
    #[error("Lambda rejected the call: {0}")]
    Rejected(String),
    /// The function returned an error.
    #[error("{message}")]
    Failed {
        /// The function's `errorType`.
        kind: String,
        /// The function's `errorMessage`.
        message: String,
    },
}

impl InvokeError {
    /// Whether the event was invalid.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Failed { kind, .. } if kind == "BadEvent")
    }
}

impl Aws {
    /// The function's name or ARN.
    pub fn function_name(&self) -> &str {
        &self.function_name
    }

    /// Invokes the function and waits for its response.
    ///
    /// # Errors
    /// [`InvokeError`]; its message names the next step.
    pub async fn invoke(&self, event: &Value) -> Result<Value, InvokeError> {
        // Retries are off, because a second attempt could start a second run.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(READ_TIMEOUT)
            .build();
        let mut config = aws::config().timeout_config(timeouts).retry_config(RetryConfig::disabled());
        if let Some(profile) = &self.profile {
            config = config.profile_name(profile);
        }
        if let Some(region) = &self.region {
            config = config.region(Region::new(region.clone()));
        }
        if let Some(url) = &self.endpoint_url {
            config = config.endpoint_url(url);
        }
        let client = Client::new(&config.load().await);
        let payload = Blob::new(event.to_string().into_bytes());
        let result = client.invoke().function_name(&self.function_name).payload(payload).send().await;
        let output = result.map_err(|error| self.service_error(AwsError::of(&error)))?;
        let body = output.payload().map(|blob| blob.as_ref().to_vec()).unwrap_or_default();
        let response: Value = serde_json::from_slice(&body)
            .map_err(|_| InvokeError::Rejected("the response is not JSON: check --function-name".into()))?;
        match output.function_error() {
            None => Ok(response),
            Some(_) => Err(function_error(&response)),
        }
    }

    fn service_error(&self, error: AwsError) -> InvokeError {
        match error {
            AwsError::Code(code) => match code.as_str() {
                "ResourceNotFoundException" => InvokeError::NoFunction(self.function_name.clone()),
                "AccessDeniedException"
                | "UnrecognizedClientException"
                | "ExpiredTokenException"
                | "InvalidSignatureException" => InvokeError::Denied(code),
                _ => InvokeError::Rejected(code),
            },
            AwsError::NoResponse(cause) | AwsError::NoCredentials(cause) => InvokeError::Unreachable(cause),
        }
    }
}

fn function_error(response: &Value) -> InvokeError {
    let text = |name: &str| response[name].as_str().unwrap_or_default().to_owned();
    let (kind, message) = (text("errorType"), text("errorMessage"));
    // Lambda itself reports a timeout, in one of these forms.
    if kind == "Sandbox.Timedout" || message.contains("Task timed out") {
        return InvokeError::TimedOut;
    }
    InvokeError::Failed { kind, message }
}
