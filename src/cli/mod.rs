//! The `tiktok-tokens` command: a client of the deployed function or the local stack. It works only through Lambda's
//! Invoke API, so an operator sees what production does.

mod invoke;
pub(crate) mod show;

pub use invoke::{Aws, InvokeError};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

/// Refresh and inspect the tokens of TikTok Shop integrations
#[derive(Debug, Parser)]
#[command(name = "tiktok-tokens", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    aws: Aws,
    /// Output format
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
}

const EXIT_CODES: &str = "Exit codes: 0 success; 1 an integration failed or cannot be refreshed; 2 invalid usage; \
                          3 the function could not be reached or failed.";

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables and a summary, for people
    #[default]
    Text,
    /// The function's JSON response, for scripts
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Refresh the tokens that are due
    Refresh(Refresh),
    /// Make sure that one integration's access token is usable
    Ensure(Ensure),
    /// Show the health of the tokens
    Status(Status),
    /// Check each active integration's token with a call to TikTok
    Verify(IntegrationArgs),
    /// Connect or reconnect an integration with an auth code, read from standard input
    Connect(Connect),
    /// Mark integrations with an expired refresh token as expired
    Cleanup(Cleanup),
    /// Run the whole system on this machine, with sample integrations
    ///
    /// Starts an embedded DynamoDB, a TikTok Shop stand-in and Lambda's Invoke endpoint. Runs the scheduled event, and
    /// shows the integrations before and after the run. Then keeps running, so that the other commands work with
    /// `--endpoint-url http://127.0.0.1:9000`. The folder .local keeps the data between starts.
    #[cfg(feature = "local")]
    Local(crate::local::Options),
    /// Print a shell completion script
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// The integrations that a command selects.
#[derive(Clone, Debug, Default, Args)]
struct IntegrationArgs {
    /// Select only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// Select only this integration of the team
    #[arg(long, requires = "team_id")]
    integration_id: Option<String>,
}

#[derive(Debug, Args)]
struct Refresh {
    #[command(flatten)]
    integrations: IntegrationArgs,
    /// Also refresh tokens that are not due, and integrations marked as error
    #[arg(long)]
    force: bool,
    /// Show what the run would do and why, without calling TikTok or writing to the table
    #[arg(long)]
    dry_run: bool,
    /// Skip the confirmation of a forced refresh of all integrations
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Ensure {
    /// Team that the integration belongs to
    #[arg(long)]
    team_id: String,
    /// Integration whose token is needed
    #[arg(long)]
    integration_id: String,
    /// How long the token must still live, such as 1h; at most 24h [default: 5m]
    #[arg(long, allow_hyphen_values = true)]
    valid_for: Option<String>,
}

#[derive(Debug, Args)]
struct Status {
    /// Select only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// Report format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Repeat the report at this interval; 10 seconds if no value is given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10",
          value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The integrations, the most urgent first, and the summary
    #[default]
    Table,
    /// The counts and warnings only
    Summary,
    /// JSON, like --output json
    Json,
}

#[derive(Debug, Args)]
struct Connect {
    /// Team that the integration belongs to
    #[arg(long)]
    team_id: String,
    /// Integration to connect or reconnect
    #[arg(long)]
    integration_id: String,
    /// App that the code was issued to [default: the integration's app, or the secret's first app]
    #[arg(long)]
    app_key: Option<String>,
    /// Overwrite a row that belongs to another seller
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
struct Cleanup {
    /// Select only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// Show which integrations the run would mark, without writing to the table
    #[arg(long)]
    dry_run: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The invocation failed.
    #[error(transparent)]
    Invoke(#[from] InvokeError),
    /// Standard input or output failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The local stack failed.
    #[cfg(feature = "local")]
    #[error(transparent)]
    Local(#[from] crate::local::LocalError),
    /// The user declined the confirmation.
    #[error("canceled; nothing was refreshed")]
    Declined,
}

/// Runs a command and returns its exit code.
pub async fn run(arguments: Arguments) -> ExitCode {
    match execute(arguments).await {
        Ok(is_success) => ExitCode::from(u8::from(!is_success)),
        // The reader of a pipe, such as `head`, has closed it.
        Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error fails, there is nowhere left to report it.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(match error {
                CliError::Declined => 2,
                CliError::Invoke(error) if error.is_usage() => 2,
                _ => 3,
            })
        }
    }
}

/// Executes a command. Returns whether no integration failed and none needs to be reconnected.
async fn execute(Arguments { command, aws, output }: Arguments) -> Result<bool, CliError> {
    let session = Session { aws, output };
    match command {
        Command::Refresh(refresh) => session.refresh(&refresh).await,
        Command::Ensure(Ensure { team_id, integration_id, valid_for }) => {
            let event = json!({
                "action": "ensure", "team_id": team_id, "integration_id": integration_id, "valid_for": valid_for,
            });
            session.send(event).await
        }
        Command::Status(status) => session.status(&status).await,
        Command::Verify(integrations) => session.send(integrations.event("verify")).await,
        Command::Connect(connect) => session.connect(&connect).await,
        Command::Cleanup(cleanup) => {
            let event = json!({"action": "cleanup", "team_id": cleanup.team_id, "dry_run": cleanup.dry_run});
            session.send(event).await
        }
        #[cfg(feature = "local")]
        Command::Local(options) => Ok(crate::local::run(&options).await.map(|()| true)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "tiktok-tokens", &mut script);
            io::stdout().write_all(&script)?;
            Ok(true)
        }
        Command::Man => {
            clap_mangen::Man::new(Arguments::command()).render(&mut io::stdout())?;
            Ok(true)
        }
    }
}

impl IntegrationArgs {
    fn event(&self, action: &str) -> Value {
        json!({"action": action, "team_id": self.team_id, "integration_id": self.integration_id})
    }
}

/// The options that all commands share.
struct Session {
    aws: Aws,
    output: Output,
}

impl Session {
    /// Invokes the function and prints its response.
    async fn send(&self, event: Value) -> Result<bool, CliError> {
        let response = self.invoke(&event).await?;
        self.print(&response, show::response)?;
        Ok(is_success(&response))
    }

    async fn refresh(&self, refresh: &Refresh) -> Result<bool, CliError> {
        let mut event = refresh.integrations.event("refresh");
        event["force"] = json!(refresh.force);
        event["dry_run"] = json!(refresh.dry_run);
        let forces_all = refresh.force && !refresh.dry_run && refresh.integrations.team_id.is_none();
        if forces_all && !refresh.yes && io::stdin().is_terminal() {
            let mut dry_run = event.clone();
            dry_run["dry_run"] = json!(true);
            let count = self.invoke(&dry_run).await?["counts"]["would_refresh"].clone();
            if !confirm(&format!("This refreshes all {count} integrations, due or not. Continue? [y/N] "))? {
                return Err(CliError::Declined);
            }
        }
        self.send(event).await
    }

    async fn status(&self, status: &Status) -> Result<bool, CliError> {
        let event = json!({"action": "status", "team_id": status.team_id});
        let text = if status.format == Format::Summary { show::summary } else { show::response };
        let output = if status.format == Format::Json { Output::Json } else { self.output };
        let session = Session { aws: self.aws.clone(), output };
        loop {
            let response = session.invoke(&event).await?;
            if status.watch.is_some() && io::stdout().is_terminal() {
                // Clears the screen, as watch(1) does.
                write!(io::stdout(), "\u{1b}[2J\u{1b}[H")?;
            }
            session.print(&response, text)?;
            match status.watch {
                None => return Ok(is_success(&response)),
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            }
        }
    }

    /// Reads the auth code from standard input. Other users of the machine can see a command line.
    async fn connect(&self, connect: &Connect) -> Result<bool, CliError> {
        if io::stdin().is_terminal() {
            write!(io::stderr(), "Auth code: ")?;
            io::stderr().flush()?;
        }
        let mut code = String::new();
        io::stdin().lock().read_line(&mut code)?;
        self.send(json!({
            "action": "connect", "team_id": connect.team_id, "integration_id": connect.integration_id,
            "auth_code": code.trim(), "app_key": connect.app_key, "replace": connect.replace,
        }))
        .await
    }

    async fn invoke(&self, event: &Value) -> Result<Value, InvokeError> {
        // The spinner is drawn only on a terminal.
        let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
        progress.set_message(format!("waiting for {}", self.aws.function_name()));
        progress.enable_steady_tick(Duration::from_millis(100));
        let result = self.aws.invoke(event).await;
        progress.finish_and_clear();
        result
    }

    fn print(&self, response: &Value, text: impl Fn(&Value) -> String) -> io::Result<()> {
        let output = match self.output {
            Output::Json => response.to_string(),
            Output::Text => text(response),
        };
        writeln!(io::stdout(), "{output}")
    }
}

fn confirm(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question}")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whether no integration failed and none needs to be reconnected.
fn is_success(response: &Value) -> bool {
    if response["action"] == "ensure" {
        return response["valid"] == true;
    }
    let failures = match response["action"].as_str() {
        Some("status") => &["cannot_refresh", "expired"][..],
        _ => &["failed", "cannot_refresh", "outcome_unknown", "deferred"][..],
    };
    response["complete"] != false
        && failures.iter().all(|name| response["counts"][*name].as_u64().unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_integration_id_requires_a_team_id() {
        assert!(Arguments::try_parse_from(["tiktok-tokens", "refresh", "--integration-id", "7"]).is_err());
        assert!(
            Arguments::try_parse_from(["tiktok-tokens", "verify", "--team-id", "1", "--integration-id", "7"])
                .is_ok()
        );
    }

    #[test]
    fn a_response_without_failures_is_a_success() {
        let with_one = |name: &str| {
            let mut counts = json!({"failed": 0, "cannot_refresh": 0, "refreshed": 3, "expired": 0});
            counts[name] = json!(1);
            is_success(&json!({"action": "refresh", "counts": counts}))
        };
        assert!(with_one("refreshed") && with_one("expired"));
        assert!(!with_one("failed") && !with_one("cannot_refresh"));
        assert!(!with_one("outcome_unknown") && !with_one("deferred"));
        assert!(!is_success(&json!({"action": "verify", "complete": false, "counts": {"valid": 3}})));
        assert!(!is_success(&json!({"action": "status", "counts": {"expired": 1}})));
        assert!(is_success(&json!({"action": "ensure", "valid": true})));
        assert!(!is_success(&json!({"action": "ensure", "valid": false})));
        assert!(is_success(&json!("a summary")));
    }
}
