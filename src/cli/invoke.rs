//! A client of Lambda's Invoke API. Its errors name the next step.

use crate::{
    aws::{self, AwsError},
    domain::loopback::is_loopback,
};
use aws_config::{Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_lambda::{
    Client,
    config::{Builder, Credentials},
    primitives::Blob,
};
use clap::Args;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// One minute more than Lambda's maximum function timeout.
const READ_TIMEOUT: Duration = Duration::from_mins(16);
/// The region of a function on this machine, where any will do.
const LOCAL_REGION: &str = "us-east-1";

/// The options that locate the function.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Function")]
pub struct Aws {
    /// The function's name or ARN
    #[arg(
        long,
        global = true,
        env = "TIKTOK_TOKENS_FUNCTION",
        hide_env_values = true,
        default_value = "tiktok-token-refresh"
    )]
    function_name: String,
    /// Profile in the AWS configuration files
    #[arg(long, global = true)]
    profile: Option<String>,
    /// AWS region
    #[arg(long, global = true)]
    region: Option<String>,
    /// URL of Lambda's API, if it is not AWS's, such as the one that `tiktok-tokens local` prints. A URL on this machine needs
    /// no credentials and no region
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "AWS_ENDPOINT_URL_LAMBDA",
        hide_env_values = true,
        value_parser = endpoint
    )]
    endpoint_url: Option<Url>,
}

/// The function's answer: its text, and the same as parsed JSON.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) json: Value,
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
    /// There are no credentials.
    #[error("there are no AWS credentials ({0}): run `aws configure` or `aws sso login`, or pass --profile")]
    NoCredentials(String),
    /// The named profile does not exist.
    #[error(
        "the AWS configuration files have no profile {0}: check --profile, or run `aws configure --profile {0}`"
    )]
    NoProfile(String),
    /// No region is configured.
    #[error("no AWS region is configured: pass --region, or set AWS_REGION")]
    NoRegion,
    /// No program listens at the URL on this machine.
    #[error("nothing answers at {0}: start `tiktok-tokens local`, or correct --endpoint-url ({1})")]
    NothingLocal(Url, String),
    /// There is no response.
    #[error("the function could not be reached: {0}; check the network, --region and --endpoint-url")]
    Unreachable(String),
    /// The function timed out.
    #[error(
        "the function timed out: raise its timeout or configure a work queue; what it refreshed is saved, and the next \
         run refreshes the rest"
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

    /// Invokes the function with a JSON event and waits for its answer.
    pub(super) async fn invoke(&self, event: String) -> Result<Answer, InvokeError> {
        let client = self.client().await?;
        let invoke =
            client.invoke().function_name(&self.function_name).payload(Blob::new(event.into_bytes()));
        let output = invoke.send().await.map_err(|error| self.service_error(AwsError::of(&error)))?;
        let body = output.payload().map(|blob| blob.as_ref().to_vec()).unwrap_or_default();
        let no_json = || InvokeError::Rejected("the response is not JSON: check --function-name".into());
        let text = String::from_utf8(body).map_err(|_| no_json())?;
        let json: Value = serde_json::from_str(&text).map_err(|_| no_json())?;
        match output.function_error() {
            None => Ok(Answer { text, json }),
            Some(_) => Err(function_error(&json)),
        }
    }

    async fn client(&self) -> Result<Client, InvokeError> {
        // Retries are off, because a second attempt could start a second run.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(READ_TIMEOUT)
            .build();
        let mut config = aws::config().timeout_config(timeouts).retry_config(RetryConfig::disabled());
        let named = self.profile.clone().or_else(|| variable("AWS_PROFILE").filter(|_| !self.is_local()));
        if let Some(profile) = named {
            if !has_profile(&profile).await {
                return Err(InvokeError::NoProfile(profile));
            }
            config = config.profile_name(profile);
        }
        if let Some(region) = &self.region {
            config = config.region(Region::new(region.clone()));
        }
        if self.is_local() && self.profile.is_none() && variable("AWS_ACCESS_KEY_ID").is_none() {
            config = config.credentials_provider(Credentials::new("local", "local", None, None, "local"));
        }
        let sdk: SdkConfig = config.load().await;
        let mut config = Builder::from(&sdk);
        if let Some(url) = &self.endpoint_url {
            config = config.endpoint_url(url.as_str());
        }
        if sdk.region().is_none() {
            if !self.is_local() {
                return Err(InvokeError::NoRegion);
            }
            config = config.region(Region::new(LOCAL_REGION));
        }
        Ok(Client::from_conf(config.build()))
    }

    /// Whether the function is on this machine, which needs no credentials.
    fn is_local(&self) -> bool {
        self.endpoint_url.as_ref().is_some_and(is_loopback)
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
            // The SDK goes on with a line for each provider that it has tried.
            AwsError::NoCredentials(cause) => {
                let cause = cause.split(". Attempted:").next().unwrap_or_default();
                InvokeError::NoCredentials(cause.to_owned())
            }
            AwsError::NoResponse(cause) => match &self.endpoint_url {
                Some(url) if self.is_local() => InvokeError::NothingLocal(url.clone(), cause),
                _ => InvokeError::Unreachable(cause),
            },
        }
    }
}

/// Parses an endpoint. Without a scheme, `localhost:9000` would be a URL of the scheme "localhost".
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        format!("expected a URL with its scheme, such as http://{}", text.rsplit("//").next().unwrap_or(text))
    })
}

/// Whether the AWS configuration files define a profile. Files that cannot be read are left to the SDK, which says so.
async fn has_profile(name: &str) -> bool {
    let (fs, env) = (aws_types::os_shim_internal::Fs::real(), aws_types::os_shim_internal::Env::real());
    #[expect(clippy::default_trait_access, reason = "the type is in a crate below the SDK's configuration")]
    let files = Default::default();
    match aws_config::profile::load(&fs, &env, &files, None).await {
        Ok(profiles) => profiles.get_profile(name).is_some(),
        Err(_) => true,
    }
}

#[expect(clippy::disallowed_methods, reason = "the command may read the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
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
