//! The operator's command: a typed client of the function, deployed or on the local stack. It only ever invokes it, so
//! that what an operator sees is what production does.

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

/// Keeps TikTok Shop access tokens alive: the operator's command
#[derive(Debug, Parser)]
#[command(name = "tiktok-tokens", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    aws: Aws,
    /// How answers are written
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
}

const EXIT_CODES: &str = "Exit codes: 0 all well; 1 some integration failed or cannot be refreshed; 2 wrong usage; \
                          3 the function could not be reached or failed.";

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people: tables and a sentence.
    #[default]
    Text,
    /// For scripts: the function's own answer.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Refresh the tokens that are due
    Refresh(Refresh),
    /// Show how healthy the tokens are
    Status(Status),
    /// Call TikTok with each active token, to see that it works
    Verify(Which),
    /// Exchange an auth code and store the integration, new or connected again
    Connect(Connect),
    /// Mark integrations whose refresh token has expired as expired
    Cleanup(Cleanup),
    /// Run the whole system on this machine, with sample integrations
    ///
    /// Starts an embedded DynamoDB, a stand-in for TikTok Shop and Lambda's Invoke endpoint; shows the integrations,
    /// runs the nightly event, shows what it did; then stays up, so that the other commands work with
    /// `--endpoint-url http://127.0.0.1:9000`. Its data is kept in the folder .local, so that a second start goes on
    /// where the first ended.
    #[cfg(feature = "local")]
    Local(crate::local::Options),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Which integrations a command covers.
#[derive(Clone, Debug, Default, Args)]
struct Which {
    /// Only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// Only this integration of the team
    #[arg(long, requires = "team_id")]
    integration_id: Option<String>,
}

#[derive(Debug, Args)]
struct Refresh {
    #[command(flatten)]
    which: Which,
    /// Take tokens that are not due, too, and integrations marked as error
    #[arg(long)]
    force: bool,
    /// Say what would be done and why; call nobody, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before a forced refresh of everything
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Status {
    /// Only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// How much is shown
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show it again and again, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10",
          value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The integrations, the most urgent first
    #[default]
    Table,
    /// A few lines
    Summary,
    /// As --output json
    Json,
}

#[derive(Debug, Args)]
struct Connect {
    /// The team that the integration belongs to
    #[arg(long)]
    team_id: String,
    /// Which integration, new or known
    #[arg(long)]
    integration_id: String,
    /// Which app; else the row's own, else the default app
    #[arg(long)]
    app_key: Option<String>,
    /// Give another seller's row away
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
struct Cleanup {
    /// Only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// Say what would be marked; write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The function could not be reached or failed.
    #[error(transparent)]
    Invoke(#[from] InvokeError),
    /// Standard input or output.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The local stack.
    #[cfg(feature = "local")]
    #[error(transparent)]
    Local(#[from] crate::local::LocalError),
    /// The user said no.
    #[error("nothing was done")]
    Declined,
}

/// Runs the command that the arguments name.
pub async fn run(arguments: Arguments) -> ExitCode {
    match perform(arguments).await {
        Ok(all_well) => ExitCode::from(u8::from(!all_well)),
        // A reader that has seen enough.
        Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere to tell that standard error is gone.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(match error {
                CliError::Declined => 2,
                CliError::Invoke(error) if error.is_usage() => 2,
                _ => 3,
            })
        }
    }
}

/// Does it; answers whether all is well.
async fn perform(Arguments { command, aws, output }: Arguments) -> Result<bool, CliError> {
    let session = Session { aws, output };
    match command {
        Command::Refresh(refresh) => session.refresh(&refresh).await,
        Command::Status(status) => session.status(&status).await,
        Command::Verify(which) => session.ask(which.event("verify")).await,
        Command::Connect(connect) => session.connect(&connect).await,
        Command::Cleanup(cleanup) => {
            let event = json!({"action": "cleanup", "team_id": cleanup.team_id, "dry_run": cleanup.dry_run});
            session.ask(event).await
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

impl Which {
    fn event(&self, action: &str) -> Value {
        json!({"action": action, "team_id": self.team_id, "integration_id": self.integration_id})
    }
}

struct Session {
    aws: Aws,
    output: Output,
}

impl Session {
    /// Sends an event and shows the answer; whether all is well in it.
    async fn ask(&self, event: Value) -> Result<bool, CliError> {
        let answer = self.invoke(&event).await?;
        self.show(&answer, show::answer)?;
        Ok(all_is_well(&answer))
    }

    async fn refresh(&self, refresh: &Refresh) -> Result<bool, CliError> {
        let mut event = refresh.which.event("refresh");
        event["force"] = json!(refresh.force);
        event["dry_run"] = json!(refresh.dry_run);
        let is_everything = refresh.force && !refresh.dry_run && refresh.which.team_id.is_none();
        if is_everything && !refresh.yes && io::stdin().is_terminal() {
            let mut rehearsal = event.clone();
            rehearsal["dry_run"] = json!(true);
            let would = self.invoke(&rehearsal).await?["counts"]["would_refresh"].clone();
            if !confirmed(&format!("This refreshes all {would} integrations, due or not. Go on? [y/N] "))? {
                return Err(CliError::Declined);
            }
        }
        self.ask(event).await
    }

    async fn status(&self, status: &Status) -> Result<bool, CliError> {
        let event = json!({"action": "status", "team_id": status.team_id});
        let text = if status.format == Format::Summary { show::summary } else { show::answer };
        let output = if status.format == Format::Json { Output::Json } else { self.output };
        let session = Session { aws: self.aws.clone(), output };
        loop {
            let answer = session.invoke(&event).await?;
            if status.watch.is_some() && io::stdout().is_terminal() {
                // Clears the screen, as watch does.
                write!(io::stdout(), "\u{1b}[2J\u{1b}[H")?;
            }
            session.show(&answer, text)?;
            match status.watch {
                None => return Ok(all_is_well(&answer)),
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            }
        }
    }

    /// The code is read from standard input: on a command line every other user of the machine could see it.
    async fn connect(&self, connect: &Connect) -> Result<bool, CliError> {
        if io::stdin().is_terminal() {
            write!(io::stderr(), "Auth code: ")?;
            io::stderr().flush()?;
        }
        let mut code = String::new();
        io::stdin().lock().read_line(&mut code)?;
        self.ask(json!({
            "action": "connect", "team_id": connect.team_id, "integration_id": connect.integration_id,
            "auth_code": code.trim(), "app_key": connect.app_key, "replace": connect.replace,
        }))
        .await
    }

    async fn invoke(&self, event: &Value) -> Result<Value, InvokeError> {
        // Drawn on a terminal only.
        let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
        progress.set_message(format!("waiting for {}", self.aws.function_name()));
        progress.enable_steady_tick(Duration::from_millis(100));
        let answer = self.aws.invoke(event).await;
        progress.finish_and_clear();
        answer
    }

    fn show(&self, answer: &Value, text: impl Fn(&Value) -> String) -> io::Result<()> {
        let shown = match self.output {
            Output::Json => answer.to_string(),
            Output::Text => text(answer),
        };
        writeln!(io::stdout(), "{shown}")
    }
}

fn confirmed(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question}")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Whether no integration failed, and none needs its seller.
fn all_is_well(answer: &Value) -> bool {
    let bad = match answer["action"].as_str() {
        Some("status") => &["cannot_refresh", "expired"][..],
        _ => &["failed", "cannot_refresh", "outcome_unknown", "deferred"][..],
    };
    bad.iter().all(|name| answer["counts"][*name].as_u64().unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_integration_needs_its_team() {
        assert!(Arguments::try_parse_from(["tiktok-tokens", "refresh", "--integration-id", "7"]).is_err());
        assert!(
            Arguments::try_parse_from(["tiktok-tokens", "verify", "--team-id", "1", "--integration-id", "7"])
                .is_ok()
        );
    }

    #[test]
    fn all_is_well_when_nothing_failed_and_nobody_must_connect_again() {
        let of = |name: &str| {
            let mut counts = json!({"failed": 0, "cannot_refresh": 0, "refreshed": 3, "expired": 0});
            counts[name] = json!(1);
            all_is_well(&json!({"action": "refresh", "counts": counts}))
        };
        assert!(of("refreshed") && of("expired"));
        assert!(!of("failed") && !of("cannot_refresh") && !of("outcome_unknown") && !of("deferred"));
        assert!(!all_is_well(&json!({"action": "status", "counts": {"expired": 1}})));
        assert!(all_is_well(&json!("a summary")));
    }
}
