//! The whole system on one machine: an embedded DynamoDB, a TikTok Shop stand-in, sample integrations and Lambda's
//! Invoke endpoint, around the same function that runs on AWS.

pub mod dynamodb;
pub mod invoke;
pub mod runtime_api;
mod samples;
mod show;
pub mod tiktok;

use crate::{
    aws::dynamodb::row::{self, Item},
    domain::{clock::Clock, integration::DuePolicy, secret::AppCredentials},
    handler::{Function, InvocationError, Response},
    logging,
    settings::{Settings, SettingsError},
};
use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::{Client, config::Credentials, error::DisplayErrorContext};
use std::{
    fs::{self, File},
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};
use tiktok::TikTokStandIn;
use tokio::net::TcpListener;
use uuid::Uuid;

/// Where the stack keeps its data, below the current folder.
const FOLDER: &str = ".local";
const LOG_FILE: &str = "function.log";
const TABLE: &str = "tiktok-shop-integrations";
const SCHEDULED_EVENT: &str = include_str!("../../events/scheduled.json");

/// How the stack is to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Port of Lambda's Invoke endpoint; 0 takes any free one
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    /// End after the scheduled run
    #[arg(long)]
    pub once: bool,
    /// Start over with fresh sample integrations
    #[arg(long)]
    pub reset: bool,
}

/// Why the stack could not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another program listens there.
    #[error(
        "port {0} is taken, perhaps by another local stack: stop that one, or choose another port with --port \
         (--port 0 takes any free one)"
    )]
    PortTaken(u16),
    /// A file or a socket.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The settings in the environment.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The scheduled run.
    #[error("the scheduled run failed: {0}")]
    Run(#[from] InvocationError),
    /// The log.
    #[error("the log could not be set up: {0}")]
    Log(#[from] tracing::subscriber::SetGlobalDefaultError),
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> LocalError {
    move |error| LocalError::Io(what, error)
}

/// Starts the stack, runs the scheduled event and shows what it did; then stays up until it is told to end.
///
/// # Errors
/// [`LocalError`], with what to do about it.
pub async fn run(options: &Options) -> Result<(), LocalError> {
    // First of all: a second stack must not touch the first one's data.
    let listener = listen(options.port).await?;
    let address = listener.local_addr().map_err(io("the Invoke endpoint"))?;
    let stack = Stack::start(options.reset).await?;
    say(format_args!("The integrations before:\n{}", stack.rows().await?))?;
    let deadline = stack.clock.now() + invoke::TIMEOUT;
    let Response::Refresh(answer) = stack.function.handle(SCHEDULED_EVENT, deadline).await? else {
        return Ok(());
    };
    let counts = answer.counts;
    say(format_args!(
        "\nThe scheduled run took {} ms:\n{}\n\
         {} examined, {} due: {} refreshed, {} locked, {} cannot be refreshed, {} failed, {} unknown, {} deferred",
        answer.duration_ms,
        show::report(&answer),
        counts.examined,
        counts.due,
        counts.refreshed,
        counts.skipped_locked,
        counts.cannot_refresh,
        counts.failed,
        counts.outcome_unknown,
        counts.deferred,
    ))?;
    say(format_args!("\nThe integrations after:\n{}", stack.rows().await?))?;
    if counts.refreshed == 0 {
        say(format_args!("Nothing was left to refresh since an earlier run; --reset starts over."))?;
    }
    say(format_args!("The function's logs and metrics are in {FOLDER}/{LOG_FILE}."))?;
    if options.once {
        return Ok(());
    }
    say(format_args!("{}", what_next(address, stack.dynamodb)))?;
    let router = invoke::router(stack.function, stack.clock);
    axum::serve(listener, router)
        .with_graceful_shutdown(told_to_end())
        .await
        .map_err(io("the Invoke endpoint"))
}

struct Stack {
    clock: Clock,
    dynamodb: SocketAddr,
    table: Client,
    function: Arc<Function>,
    rule: DuePolicy,
}

impl Stack {
    async fn start(reset: bool) -> Result<Self, LocalError> {
        let folder = Path::new(FOLDER);
        if reset && folder.exists() {
            fs::remove_dir_all(folder).map_err(io("the old data"))?;
        }
        fs::create_dir_all(folder).map_err(io("the folder .local"))?;
        let log =
            File::options().create(true).append(true).open(folder.join(LOG_FILE)).map_err(io("the log"))?;
        let metrics = log.try_clone().map_err(io("the log"))?;

        let clock = Clock::system();
        let app =
            AppCredentials { app_key: "local-app".into(), app_secret: Uuid::new_v4().to_string().into() };
        let tiktok = TikTokStandIn::new(vec![app.clone()], clock.clone());
        let tiktok_listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("the TikTok stand-in"))?;
        let tiktok_url =
            format!("http://{}", tiktok_listener.local_addr().map_err(io("the TikTok stand-in"))?);
        tokio::spawn(tiktok.clone().serve(tiktok_listener));
        let dynamodb =
            dynamodb::serve(Some(&folder.join("dynamodb.sqlite"))).await.map_err(io("DynamoDB"))?;

        let settings = settings(&app, &tiktok_url)?;
        let log_level = settings.log_level;
        tracing::subscriber::set_global_default(logging::subscriber(log_level, Mutex::new(log)))?;
        let rule = DuePolicy {
            now: clock.now(),
            refresh_ahead: settings.refresh_ahead,
            force: false,
            unless_refreshed_since: None,
        };
        let sdk = sdk(dynamodb).await;
        let table = Client::new(&sdk);
        let emit = Arc::new(move |line: &str| {
            if let Err(error) = writeln!(&metrics, "{line}") {
                tracing::error!("the metrics could not be written: {error}");
            }
        });
        let function = Arc::new(Function::new(settings, &sdk, clock.clone(), emit));
        let stack = Self { clock, dynamodb, table, function, rule };
        if dynamodb::create_table(&stack.table, TABLE).await.map_err(io("the table"))? {
            for item in samples::items(stack.clock.now(), &tiktok) {
                let put = stack.table.put_item().table_name(TABLE).set_item(Some(item)).send().await;
                put.map_err(|error| LocalError::Io("the samples", described(error)))?;
            }
        }
        samples::set_scene(&stack.items().await?, &tiktok);
        Ok(stack)
    }

    async fn items(&self) -> Result<Vec<Item>, LocalError> {
        let scan = self.table.scan().table_name(TABLE).into_paginator().items().send();
        let mut items: Vec<Item> =
            scan.try_collect().await.map_err(|error| LocalError::Io("the table", described(error)))?;
        items.sort_by_cached_key(row::key_of);
        Ok(items)
    }

    async fn rows(&self) -> Result<comfy_table::Table, LocalError> {
        let rule = DuePolicy { now: self.clock.now(), ..self.rule };
        Ok(show::rows(&self.items().await?, &rule))
    }
}

async fn listen(port: u16) -> Result<TcpListener, LocalError> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => LocalError::PortTaken(port),
        _ => LocalError::Io("the Invoke endpoint", error),
    })
}

/// The settings of the environment, with everything that leaves this machine replaced.
#[expect(clippy::disallowed_methods, reason = "an entry reads the environment")]
fn settings(app: &AppCredentials, tiktok_url: &str) -> Result<Settings, SettingsError> {
    Settings::parse(|name| match name {
        "TABLE_NAME" => Some(TABLE.into()),
        "APP_CREDENTIALS_SECRET_ID" => None,
        "TIKTOK_SHOP_APP_KEY" => Some(app.app_key.clone()),
        "TIKTOK_SHOP_APP_SECRET" => Some(app.app_secret.expose().to_owned()),
        "TIKTOK_AUTH_URL" | "TIKTOK_API_URL" => Some(tiktok_url.into()),
        name => std::env::var(name).ok(),
    })
}

/// The SDK's configuration for the embedded DynamoDB, which asks for credentials and takes any.
async fn sdk(dynamodb: SocketAddr) -> SdkConfig {
    crate::aws::config()
        .endpoint_url(format!("http://{dynamodb}"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .load()
        .await
}

fn described(error: impl std::error::Error) -> io::Error {
    io::Error::other(DisplayErrorContext(error).to_string())
}

fn say(text: std::fmt::Arguments<'_>) -> Result<(), LocalError> {
    writeln!(io::stdout().lock(), "{text}").map_err(io("standard output"))
}

fn what_next(invoke: SocketAddr, dynamodb: SocketAddr) -> String {
    let call = format!(
        "aws lambda invoke --endpoint-url http://{invoke} --function-name {} \\\n      \
         --cli-binary-format raw-in-base64-out --payload file://events/",
        invoke::FUNCTION_NAME
    );
    format!(
        "\nThe stack is up, until Ctrl-C. What you may try next, from another terminal here:\n\n  \
         export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1\n\n\
         1. Refresh one team:\n    {call}manual-team.json out.json && cat out.json\n\n\
         2. See what a forced run of everything would do, and why:\n    \
            {call}manual-force-dry-run.json out.json && cat out.json\n\n\
         3. Look into the table:\n    \
            aws dynamodb scan --endpoint-url http://{dynamodb} --table-name {TABLE}\n"
    )
}

async fn told_to_end() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminated) = terminated {
            tokio::select! { _ = interrupted => {}, _ = terminated.recv() => {} }
            return;
        }
    }
    interrupted.await.ok();
}
