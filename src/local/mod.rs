//! The local stack: an embedded DynamoDB, a TikTok Shop stand-in, sample integrations and Lambda's Invoke endpoint,
//! around the function that runs on AWS.

pub mod consent;
pub mod dynamodb;
pub mod function_url;
pub mod invoke;
pub mod runtime_api;
mod samples;
mod show;
pub mod tiktok;

use crate::{
    aws::dynamodb::row::{self, Item},
    cli,
    domain::{
        clock::Clock,
        connect_link::{Market, Service},
        due::DuePolicy,
        secret::{AppCredentials, CredentialsFrom},
    },
    handler::{Function, InvocationError, Response},
    logging,
    settings::{Settings, SettingsError},
};
use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::{Client, config::Credentials, error::DisplayErrorContext};
use consent::Registration;
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use tiktok::TikTokStandIn;
use tokio::net::TcpListener;
use url::Url;

/// The folder of the stack's data, relative to the working directory.
const FOLDER: &str = ".local";
const LOG_FILE: &str = "function.log";
/// Locked by the stack that uses the folder.
const LOCK_FILE: &str = "lock";
const TABLE: &str = "tiktok-shop-integrations";
/// The credentials of the stand-in's app. They open nothing else, so they may be known.
const APP_KEY: &str = "local-app";
const APP_SECRET: &str = "local-secret";
/// The app's number in links.
const SERVICE_ID: &str = "7431862345987123456";
const SCHEDULED_EVENT: &str = include_str!("../../events/scheduled.json");

/// The options of the local stack.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Port of Lambda's Invoke endpoint; 0 picks a free one
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    /// Port of the embedded DynamoDB; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    pub dynamodb_port: u16,
    /// Exit after the scheduled run
    #[arg(long)]
    pub once: bool,
    /// Delete the data and start with new sample integrations
    #[arg(long)]
    pub reset: bool,
}

/// Why the local stack failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another process listens on the port.
    #[error(
        "port {port} is taken, perhaps by another local stack: stop it, or choose another port with {option} ({option} 0 \
         picks a free one)"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// The option that chooses another one.
        option: &'static str,
    },
    /// A file or a socket failed.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// Another stack uses the folder.
    #[error("another local stack uses the folder {FOLDER}: stop it, or start this one in another folder")]
    InUse,
    /// The data cannot be read.
    #[error("the data in {FOLDER} cannot be read ({0}); --reset starts over")]
    Data(#[source] io::Error),
    /// The settings in the environment are invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The scheduled run failed.
    #[error("the scheduled run failed: {0}")]
    Run(#[from] InvocationError),
    /// The log could not be set up.
    #[error("the log could not be set up: {0}")]
    Log(#[from] tracing::subscriber::SetGlobalDefaultError),
}

fn io(source: &'static str) -> impl FnOnce(io::Error) -> LocalError {
    move |error| LocalError::Io(source, error)
}

/// Starts the stack, runs the scheduled event and prints its effect. Then serves invocations until SIGINT or SIGTERM,
/// unless `options.once` is set.
///
/// # Errors
/// [`LocalError`] if a part of the stack cannot start, or the scheduled run fails.
pub async fn run(options: &Options) -> Result<(), LocalError> {
    // The ports come first: a second stack must fail before it touches the data of the first.
    let listener = listen(options.port, "--port").await?;
    let address = listener.local_addr().map_err(io("the Invoke endpoint"))?;
    let dynamodb = listen(options.dynamodb_port, "--dynamodb-port").await?;
    let stack = Stack::start(options.reset, dynamodb).await?;
    print(format_args!("The integrations before the run:\n{}", stack.rows().await?))?;
    let deadline = stack.clock.now() + invoke::TIMEOUT;
    let Response::Refresh(response) = stack.function.handle(SCHEDULED_EVENT, deadline).await? else {
        return Ok(());
    };
    let counts = response.counts;
    print(format_args!(
        "\nThe scheduled run took {} ms:\n{}\n{}",
        response.duration_ms,
        show::outcomes(&response),
        cli::show::counts(&serde_json::to_value(counts).unwrap_or_default()),
    ))?;
    print(format_args!("\nThe integrations after the run:\n{}", stack.rows().await?))?;
    if counts.refreshed == 0 {
        print(format_args!("An earlier run has refreshed what was due. --reset starts over."))?;
    }
    print(format_args!("The function's logs and metrics are in {FOLDER}/{LOG_FILE}."))?;
    if options.once {
        return Ok(());
    }
    print(format_args!("{}", next_steps(address, &stack)))?;
    let router = invoke::router(stack.function, stack.clock);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown_signal())
        .await
        .map_err(io("the Invoke endpoint"))
}

struct Stack {
    clock: Clock,
    dynamodb: SocketAddr,
    tiktok: TikTokStandIn,
    tiktok_url: String,
    table: Client,
    function: Arc<Function>,
    public_url: Url,
    policy: DuePolicy,
    /// Keeps other stacks away from the folder as long as this one lives.
    _lock: File,
}

impl Stack {
    async fn start(reset: bool, dynamodb: TcpListener) -> Result<Self, LocalError> {
        let folder = Path::new(FOLDER);
        fs::create_dir_all(folder).map_err(io("the folder .local"))?;
        let lock = lock(folder)?;
        if reset {
            delete_data(folder).map_err(io("the old data"))?;
        }
        let log =
            File::options().create(true).append(true).open(folder.join(LOG_FILE)).map_err(io("the log"))?;
        let metrics = log.try_clone().map_err(io("the log"))?;

        let clock = Clock::system();
        let service = Service { service_id: SERVICE_ID.into(), market: Market::Global };
        let app = AppCredentials {
            app_key: APP_KEY.into(),
            app_secret: APP_SECRET.to_owned().into(),
            service: Some(service),
        };
        let tiktok = TikTokStandIn::new(vec![app.clone()], clock.clone());
        let tiktok_listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("the TikTok stand-in"))?;
        let tiktok_url =
            format!("http://{}", tiktok_listener.local_addr().map_err(io("the TikTok stand-in"))?);
        tokio::spawn(tiktok.clone().serve(tiktok_listener));
        let dynamodb =
            dynamodb::serve_on(dynamodb, Some(&folder.join("dynamodb.sqlite"))).map_err(LocalError::Data)?;

        let public_listener = TcpListener::bind("127.0.0.1:0").await.map_err(io("the public endpoint"))?;
        let public_address = public_listener.local_addr().map_err(io("the public endpoint"))?;
        let public_url = local_url(&format!("http://{public_address}/connect"))?;
        tiktok.register(Registration {
            service_id: SERVICE_ID.into(),
            app_key: APP_KEY.into(),
            redirect_url: public_url.clone(),
        });

        let mut settings = settings(&app, &tiktok_url)?;
        settings.credentials = CredentialsFrom::Environment(app);
        settings.consent_page = Some(local_url(&format!("{tiktok_url}{}", consent::PATH))?);
        let log_level = settings.log_level;
        tracing::subscriber::set_global_default(logging::subscriber(log_level, Mutex::new(log)))?;
        let policy = DuePolicy {
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
        let public = Settings { public_endpoint: true, ..settings.clone() };
        let public = Arc::new(Function::new(public, &sdk, clock.clone(), Arc::new(|_: &str| {})));
        let router = function_url::router(public, clock.clone());
        tokio::spawn(async move { axum::serve(public_listener, router).await });
        let function = Arc::new(Function::new(settings, &sdk, clock.clone(), emit));
        let stack =
            Self { clock, dynamodb, tiktok, tiktok_url, table, function, public_url, policy, _lock: lock };
        if dynamodb::create_table(&stack.table, TABLE).await.map_err(LocalError::Data)? {
            for item in samples::items(stack.clock.now(), &stack.tiktok) {
                let put = stack.table.put_item().table_name(TABLE).set_item(Some(item)).send().await;
                put.map_err(|error| LocalError::Io("the sample integrations", io_error(error)))?;
            }
        }
        samples::prepare(&stack.items().await?, &stack.tiktok);
        Ok(stack)
    }

    async fn items(&self) -> Result<Vec<Item>, LocalError> {
        let scan = self.table.scan().table_name(TABLE).into_paginator().items().send();
        let mut items: Vec<Item> =
            scan.try_collect().await.map_err(|error| LocalError::Data(io_error(error)))?;
        items.sort_by_cached_key(row::key_of);
        Ok(items)
    }

    async fn rows(&self) -> Result<comfy_table::Table, LocalError> {
        let policy = DuePolicy { now: self.clock.now(), ..self.policy };
        Ok(show::rows(&self.items().await?, &policy))
    }
}

/// Locks the folder: two stacks on the same data would lose each other's writes.
fn lock(folder: &Path) -> Result<File, LocalError> {
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK_FILE));
    let file = file.map_err(io("the folder's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LocalError::InUse),
        Err(TryLockError::Error(error)) => Err(LocalError::Io("the folder's lock", error)),
    }
}

/// Deletes everything in the folder but its lock.
fn delete_data(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else if path.file_name().is_some_and(|name| name != LOCK_FILE) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

async fn listen(port: u16, option: &'static str) -> Result<TcpListener, LocalError> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => LocalError::PortTaken { port, option },
        _ => LocalError::Io(option, error),
    })
}

/// The settings from the environment, except those that would reach other machines.
#[expect(clippy::disallowed_methods, reason = "the local stack may read the environment")]
fn settings(app: &AppCredentials, tiktok_url: &str) -> Result<Settings, SettingsError> {
    Settings::parse(|name| match name {
        "TABLE_NAME" => Some(TABLE.into()),
        "APP_CREDENTIALS_SECRET_ID" | "PUBLIC_ENDPOINT" => None,
        "TIKTOK_SHOP_APP_KEY" => Some(app.app_key.clone()),
        "TIKTOK_SHOP_APP_SECRET" => Some(app.app_secret.expose().to_owned()),
        "TIKTOK_AUTH_URL" | "TIKTOK_API_URL" => Some(tiktok_url.into()),
        name => std::env::var(name).ok(),
    })
}

/// The SDK's configuration for the embedded DynamoDB, which requires credentials and accepts any.
async fn sdk(dynamodb: SocketAddr) -> SdkConfig {
    crate::aws::config()
        .endpoint_url(format!("http://{dynamodb}"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .load()
        .await
}

fn local_url(text: &str) -> Result<Url, LocalError> {
    text.parse().map_err(|error| LocalError::Io("a local URL", io::Error::other(error)))
}

fn io_error(error: impl std::error::Error) -> io::Error {
    io::Error::other(DisplayErrorContext(error).to_string())
}

fn print(text: std::fmt::Arguments<'_>) -> Result<(), LocalError> {
    writeln!(io::stdout().lock(), "{text}").map_err(io("standard output"))
}

fn next_steps(invoke: SocketAddr, stack: &Stack) -> String {
    let Stack { dynamodb, tiktok, tiktok_url, public_url, .. } = stack;
    let connect = |open_id: &str, seller: &str, team_id: u32, integration_id: u32| {
        let code = tiktok.auth_code(open_id, seller);
        format!("echo {code} | tiktok-tokens connect --team-id {team_id} --integration-id {integration_id}")
    };
    let codes = format!(
        "a new seller:\n      {}\n    the same seller again, whose row is marked (this clears the mark):\n      {}\n    \
         another seller (refused without --replace):\n      {}\n    more codes:\n      \
         curl -X POST '{tiktok_url}{}?open_id=seller-301'",
        connect("seller-901", "New Noodles", 9, 901),
        connect("seller-301", "Revoked Rings", 3, 301),
        connect("seller-902", "Another Atelier", 1, 101),
        tiktok::CODES_PATH,
    );
    let call = format!(
        "aws lambda invoke --endpoint-url http://{invoke} --function-name {} \\\n      \
         --cli-binary-format raw-in-base64-out --payload file://events/",
        invoke::FUNCTION_NAME
    );
    format!(
        "\nThe stack runs until Ctrl-C.\n\n  \
         DynamoDB     http://{dynamodb}, table {TABLE}\n  \
         Lambda       http://{invoke}, function {}, alias ensure\n  \
         TikTok Shop  {tiktok_url}, app key {APP_KEY}, app secret {APP_SECRET}\n  \
         Sellers      {public_url}\n\n\
         Next steps, from another terminal in this folder:\n\n  \
         export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1\n  \
         export AWS_ENDPOINT_URL_LAMBDA=http://{invoke}    # for tiktok-tokens\n\n\
         1. Refresh one team:\n    {call}manual-team.json out.json && cat out.json\n\n\
         2. Preview a forced refresh of all integrations:\n    \
            {call}manual-force-dry-run.json out.json && cat out.json\n\n\
         3. Read the table:\n    \
            aws dynamodb scan --endpoint-url http://{dynamodb} --table-name {TABLE}\n\n\
         4. Try `connect`. Each of these auth codes works once.\n    {codes}\n\n\
         5. Print a link, and open it in a browser to connect a shop as a seller does:\n    \
            tiktok-tokens connect-link --team-id 9 --integration-id 902\n\n\
         6. Make TikTok Shop reject the access token of integration 101 of team 1:\n    \
            curl -X POST '{tiktok_url}{}?open_id=seller-101'\n",
        invoke::FUNCTION_NAME,
        tiktok::REJECT_PATH
    )
}

/// Completes on SIGINT or SIGTERM.
async fn shutdown_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminate) = terminate {
            tokio::select! { _ = interrupt => {}, _ = terminate.recv() => {} }
            return;
        }
    }
    interrupt.await.ok();
}
