//! Lambda's Invoke, with errors that say the next step.

use crate::aws::{self, AwsError};
use aws_config::{Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_lambda::{Client, primitives::Blob};
use clap::Args;
use serde_json::Value;
use std::time::Duration;

/// A little more than Lambda lets a function run.
const LONGEST: Duration = Duration::from_mins(16);

/// Where the function is.
#[derive(Clone, Debug, Args)]
pub struct Aws {
    /// The function's name or ARN
    #[arg(long, global = true, env = "TIKTOK_TOKENS_FUNCTION", default_value = "tiktok-token-refresh")]
    function_name: String,
    /// Profile of the AWS configuration
    #[arg(long, global = true)]
    profile: Option<String>,
    /// AWS region
    #[arg(long, global = true)]
    region: Option<String>,
    /// Where Lambda is, if not on AWS; the local stack says where it is
    #[arg(long, global = true, value_name = "URL")]
    endpoint_url: Option<String>,
}

/// The function could not be reached, or failed.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such function.
    #[error(
        "there is no function {0} in this account and region: check --function-name, --region and --profile"
    )]
    NoFunction(String),
    /// AWS does not let the caller in.
    #[error("AWS refuses the call ({0}): allow lambda:InvokeFunction, or choose another --profile")]
    Denied(String),
    /// No answer: no credentials, no region, no network, or nobody there.
    #[error(
        "the function could not be reached: {0}\n  No credentials? Run `aws configure` or `aws sso login`, or name a \
         --profile. No region? Name a --region.\n  The local stack? Start `tiktok-tokens local`, and pass its \
         --endpoint-url."
    )]
    Unreachable(String),
    /// It ran out of time.
    #[error(
        "the function ran out of time; what it had done is stored, and the next run goes on: raise its time-out, or \
         give it a work queue"
    )]
    TimedOut,
    /// Anything else that Lambda said.
    #[error("Lambda refused the call: {0}")]
    Refused(String),
    /// The function failed.
    #[error("{message}")]
    Failed {
        /// The function's own name for it.
        kind: String,
        /// What it said.
        message: String,
    },
}

impl InvokeError {
    /// Whether the caller asked for something that does not exist.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Failed { kind, .. } if kind == "BadEvent")
    }
}

impl Aws {
    /// The function's name, as it was given.
    pub fn function_name(&self) -> &str {
        &self.function_name
    }

    /// Invokes the function and waits for its answer.
    ///
    /// # Errors
    /// [`InvokeError`], with the next step.
    pub async fn invoke(&self, event: &Value) -> Result<Value, InvokeError> {
        // One attempt: a second one could begin a second run.
        let patient =
            TimeoutConfig::builder().connect_timeout(Duration::from_secs(5)).read_timeout(LONGEST).build();
        let mut config = aws::config().timeout_config(patient).retry_config(RetryConfig::disabled());
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
        let sent = client.invoke().function_name(&self.function_name).payload(payload).send().await;
        let answered = sent.map_err(|error| self.refused(AwsError::of(&error)))?;
        let body = answered.payload().map(|blob| blob.as_ref().to_vec()).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&body).map_err(|_| {
            InvokeError::Refused("the answer is not JSON; is this the right function?".into())
        })?;
        match answered.function_error() {
            None => Ok(answer),
            Some(_) => Err(failed(&answer)),
        }
    }

    fn refused(&self, said: AwsError) -> InvokeError {
        match said {
            AwsError::Code(code) => match code.as_str() {
                "ResourceNotFoundException" => InvokeError::NoFunction(self.function_name.clone()),
                "AccessDeniedException"
                | "UnrecognizedClientException"
                | "ExpiredTokenException"
                | "InvalidSignatureException" => InvokeError::Denied(code),
                _ => InvokeError::Refused(code),
            },
            AwsError::NoResponse(cause) => InvokeError::Unreachable(cause),
        }
    }
}

fn failed(answer: &Value) -> InvokeError {
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let (kind, message) = (text("errorType"), text("errorMessage"));
    // Lambda's own words, when it ends a function.
    if kind == "Sandbox.Timedout" || message.contains("Task timed out") {
        return InvokeError::TimedOut;
    }
    InvokeError::Failed { kind, message }
}
