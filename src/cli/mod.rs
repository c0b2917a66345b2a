//! The `tiktok-tokens` command: a client of the deployed function or of the local stack. It only calls Lambda's Invoke API, so an
//! operator sees what production does.

mod import;
mod invoke;
mod man;
pub(crate) mod show;
mod verdict;

pub use invoke::{Aws, InvokeError};

use crate::domain::clock::Clock;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use console::Term;
use indicatif::{ProgressBar, ProgressStyle};
use invoke::Answer;
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use verdict::Asked;

/// Refresh and inspect the tokens of TikTok Shop integrations
#[derive(Debug, Parser)]
#[command(
    name = "tiktok-tokens",
    version,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = with_exit_codes("tiktok-tokens status\ntiktok-tokens refresh --team-id 1 --dry-run")
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Output format
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(flatten)]
    aws: Aws,
}

/// The subcommands that do not invoke the function. The options of an invocation have no effect on them.
const WITHOUT_A_FUNCTION: [&str; 3] = ["local", "completions", "man"];

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  something failed, cannot be refreshed, or was not found
  2  wrong usage, or you declined to go on
  3  the function could not be reached, or failed";

/// The end of a command's help: the examples, one on each line, and the exit codes.
fn with_exit_codes(examples: &str) -> String {
    format!("Examples:\n  {}\n\n{EXIT_CODES}", examples.replace('\n', "\n  "))
}

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
    #[command(after_help = with_exit_codes(
        "tiktok-tokens refresh\n\
         tiktok-tokens refresh --team-id 1 --integration-id 101 --force\n\
         tiktok-tokens refresh --force --dry-run"
    ))]
    Refresh(Refresh),
    /// Make sure that one integration's access token is valid, and refresh it if necessary
    #[command(after_help = with_exit_codes(
        "tiktok-tokens ensure --team-id 1 --integration-id 101 --valid-for 1h"
    ))]
    Ensure(Ensure),
    /// Show the health of the tokens
    #[command(after_help = with_exit_codes(
        "tiktok-tokens status\n\
         tiktok-tokens status --team-id 1 --format summary\n\
         tiktok-tokens status --watch 60"
    ))]
    Status(Status),
    /// Check each active integration's token with a call to TikTok
    #[command(after_help = with_exit_codes(
        "tiktok-tokens verify --team-id 1\n\
         tiktok-tokens verify --team-id 1 --integration-id 101"
    ))]
    Verify(IntegrationArgs),
    /// Connect or reconnect an integration with an auth code
    ///
    /// The command reads the code from standard input or a file, because other users of the machine can see a command line.
    /// On a terminal, it asks for the code and does not show it. A code works only once and expires soon.
    #[command(after_help = with_exit_codes(
        "tiktok-tokens connect --team-id 1 --integration-id 101\n\
         tiktok-tokens connect --team-id 1 --integration-id 101 --code-file code.txt\n\
         echo TTC_… | tiktok-tokens connect --team-id 9 --integration-id 901   # a code of the local stack"
    ))]
    Connect(Connect),
    /// Print a link for a seller to connect or reconnect an integration
    ///
    /// Until the link expires, whoever holds it can connect a shop to the integration. If the integration already has a seller,
    /// only a shop of this seller can be connected.
    #[command(after_help = with_exit_codes(
        "tiktok-tokens connect-link --team-id 1 --integration-id 101\n\
         tiktok-tokens connect-link --team-id 1 --integration-id 101 --market us --valid-for 24h"
    ))]
    ConnectLink(ConnectLink),
    #[expect(clippy::doc_markdown, reason = "the help shows this text as it is")]
    /// Create integrations from a file of existing tokens
    ///
    /// Each line of the file is a JSON object. It must have team_id, integration_id and refresh_token. It may have access_token,
    /// access_token_expires_at and refresh_token_expires_at (Unix seconds), status, app_key, open_id, seller_name,
    /// seller_base_region and granted_scopes. The command checks the whole file first. If any line is invalid, it writes nothing.
    /// It never changes a row that exists, so you can repeat an import.
    #[command(after_help = with_exit_codes(
        "tiktok-tokens import integrations.jsonl --dry-run\n\
         tiktok-tokens import integrations.jsonl"
    ))]
    Import(import::Import),
    /// Mark integrations whose refresh token has expired
    ///
    /// Their status becomes "expired", so that they differ from integrations that failed for another reason.
    #[command(after_help = with_exit_codes("tiktok-tokens cleanup --dry-run\ntiktok-tokens cleanup --team-id 1"))]
    Cleanup(Cleanup),
    /// Run the whole system on this machine, with sample integrations
    ///
    /// The command starts an embedded DynamoDB, a TikTok Shop stand-in and Lambda's Invoke endpoint. It invokes the scheduled run,
    /// and shows the integrations before and after the run. Then it prints auth codes with which you can try `connect`, and keeps
    /// running. Other commands reach it with `--endpoint-url http://127.0.0.1:9000`. The folder .local keeps the data between starts.
    #[cfg(feature = "local")]
    #[command(after_help = with_exit_codes("tiktok-tokens local\ntiktok-tokens local --once --reset"))]
    Local(crate::local::Options),
    /// Print a shell completion script
    #[command(after_help = with_exit_codes(
        "tiktok-tokens completions bash > ~/.local/share/bash-completion/completions/tiktok-tokens"
    ))]
    Completions {
        /// Shell that runs the script
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = with_exit_codes("tiktok-tokens man | man -l -"))]
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
    /// Also refresh tokens that are not due, and integrations with the status "error"
    #[arg(long)]
    force: bool,
    /// Show what the run would do and why, without calling TikTok or writing to the table
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before a forced refresh of all integrations; required if there is no terminal
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Ensure {
    /// Team that the integration belongs to
    #[arg(long)]
    team_id: String,
    /// Integration whose token to check
    #[arg(long)]
    integration_id: String,
    /// How long the token must stay valid, such as 1h; at most 24h [default: 5m]
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
    /// Repeat the report at this interval, until you stop the command [default: 10]
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
    /// The same as --output json
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
    /// App that the seller authorized [default: the integration's app, or the secret's first app]
    #[arg(long)]
    app_key: Option<String>,
    /// Overwrite the row even if it belongs to another seller
    #[arg(long)]
    replace: bool,
    /// Read the auth code from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ConnectLink {
    /// Team that the integration belongs to
    #[arg(long)]
    team_id: String,
    /// Integration to connect or reconnect
    #[arg(long)]
    integration_id: String,
    /// App that the seller authorizes [default: the integration's app, or the secret's first app]
    #[arg(long)]
    app_key: Option<String>,
    /// Market of the seller: global, or us for the United States [default: the app's market]
    #[arg(long)]
    market: Option<String>,
    /// How long the link works, such as 24h; at most 30d [default: 7d]
    #[arg(long, allow_hyphen_values = true)]
    valid_for: Option<String>,
}

#[derive(Debug, Args)]
struct Cleanup {
    /// Select only this team's integrations
    #[arg(long)]
    team_id: Option<String>,
    /// Show which integrations would be marked, without writing to the table
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
    /// A file cannot be read.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, #[source] io::Error),
    /// The user declined the confirmation.
    #[error("canceled; nothing was refreshed")]
    Declined,
    /// Without a terminal, nobody can confirm.
    #[error(
        "a forced refresh of all integrations needs a confirmation, but there is no terminal: pass --yes, or choose a team with --team-id"
    )]
    Unconfirmed,
}

/// Parses the command line. Invalid usage ends the process.
pub fn parse() -> Arguments {
    let matches = command().get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The command line's definition. Hides the options of an invocation where they have no effect.
fn command() -> clap::Command {
    let mut command = Arguments::command();
    let global: Vec<_> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    for name in WITHOUT_A_FUNCTION {
        if command.find_subcommand(name).is_some() {
            let hidden = global.iter().map(|arg| arg.clone().hide(true)).collect::<Vec<_>>();
            command = command.mut_subcommand(name, |subcommand| subcommand.args(hidden));
        }
    }
    command
}

/// Runs a command and returns its exit code.
pub async fn run(arguments: Arguments) -> ExitCode {
    match execute(arguments).await {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            complain(&problems.join("; "));
            ExitCode::from(1)
        }
        // The reader of a pipe, such as `head`, has closed it.
        Err(CliError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(match error {
                CliError::Declined | CliError::Unconfirmed | CliError::File(..) => 2,
                CliError::Invoke(error) if error.is_usage() => 2,
                _ => 3,
            })
        }
    }
}

/// Writes a line to standard error. If that fails, there is nowhere left to report it.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Executes a command. Returns the problems that the response shows.
async fn execute(Arguments { command, aws, output }: Arguments) -> Result<Vec<String>, CliError> {
    let session = Session { aws, output };
    match command {
        Command::Refresh(refresh) => session.refresh(&refresh).await,
        Command::Ensure(Ensure { team_id, integration_id, valid_for }) => {
            let event = json!({
                "action": "ensure", "team_id": team_id, "integration_id": integration_id, "valid_for": valid_for,
            });
            session.send(event, &Asked::default()).await
        }
        Command::Status(status) => session.status(&status).await,
        Command::Verify(integrations) => {
            session.send(integrations.event("verify"), &integrations.asked()).await
        }
        Command::Connect(connect) => session.connect(&connect).await,
        Command::ConnectLink(ConnectLink { team_id, integration_id, app_key, market, valid_for }) => {
            let event = json!({
                "action": "connect_link", "team_id": team_id, "integration_id": integration_id, "app_key": app_key,
                "market": market, "valid_for": valid_for,
            });
            session.send(event, &Asked::default()).await
        }
        Command::Import(import) => session.import(&import).await,
        Command::Cleanup(cleanup) => {
            let event = json!({"action": "cleanup", "team_id": cleanup.team_id, "dry_run": cleanup.dry_run});
            session.send(event, &Asked { team_id: cleanup.team_id, ..Asked::default() }).await
        }
        #[cfg(feature = "local")]
        Command::Local(options) => Ok(crate::local::run(&options).await.map(|()| Vec::new())?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut self::command(), "tiktok-tokens", &mut script);
            if shell == clap_complete::Shell::Bash {
                // clap_complete gives a command with a hyphen two names, so that no option would be completed.
                let text =
                    String::from_utf8_lossy(&script).replace("tiktok__subcmd__tokens", "tiktok__tokens");
                script = text.into_bytes();
            }
            io::stdout().write_all(&script)?;
            Ok(Vec::new())
        }
        Command::Man => {
            man::render(&self::command(), &mut io::stdout())?;
            Ok(Vec::new())
        }
    }
}

impl IntegrationArgs {
    fn event(&self, action: &str) -> Value {
        json!({"action": action, "team_id": self.team_id, "integration_id": self.integration_id})
    }

    fn asked(&self) -> Asked {
        Asked {
            team_id: self.team_id.clone(),
            integration_id: self.integration_id.clone(),
            ..Asked::default()
        }
    }
}

/// The options that all commands share.
struct Session {
    aws: Aws,
    output: Output,
}

impl Session {
    /// Invokes the function and prints its answer.
    async fn send(&self, event: Value, asked: &Asked) -> Result<Vec<String>, CliError> {
        let answer = self.invoke(&event).await?;
        self.print(&answer, |response| show::response(response, asked))?;
        Ok(verdict::problems(&answer.json, asked))
    }

    async fn refresh(&self, refresh: &Refresh) -> Result<Vec<String>, CliError> {
        let mut event = refresh.integrations.event("refresh");
        event["force"] = json!(refresh.force);
        event["dry_run"] = json!(refresh.dry_run);
        let forces = refresh.force && !refresh.dry_run;
        if forces && refresh.integrations.team_id.is_none() && !refresh.yes {
            if !io::stdin().is_terminal() {
                return Err(CliError::Unconfirmed);
            }
            let mut dry_run = event.clone();
            dry_run["dry_run"] = json!(true);
            let count = self.invoke(&dry_run).await?.json["counts"]["would_refresh"].clone();
            if !confirm(&format!(
                "This refreshes {count} integrations, whether they are due or not. Continue? [y/N] "
            ))? {
                return Err(CliError::Declined);
            }
        }
        self.send(event, &Asked { forces, ..refresh.integrations.asked() }).await
    }

    async fn status(&self, status: &Status) -> Result<Vec<String>, CliError> {
        let event = json!({"action": "status", "team_id": status.team_id});
        let asked = Asked { team_id: status.team_id.clone(), ..Asked::default() };
        let text = |response: &Value| match status.format {
            Format::Summary => show::summary(response),
            Format::Table | Format::Json => show::response(response, &asked),
        };
        let output = if status.format == Format::Json { Output::Json } else { self.output };
        let session = Session { aws: self.aws.clone(), output };
        let Some(seconds) = status.watch else {
            let answer = session.invoke(&event).await?;
            session.print(&answer, text)?;
            return Ok(verdict::problems(&answer.json, &asked));
        };
        let mut last: Option<Answer> = None;
        loop {
            let failure = match session.invoke(&event).await {
                Ok(answer) => {
                    last = Some(answer);
                    None
                }
                // If the first invocation fails, the options are probably wrong.
                Err(error) if last.is_none() || error.is_usage() => return Err(error.into()),
                Err(error) => Some(error),
            };
            let is_terminal = io::stdout().is_terminal();
            if is_terminal {
                // Clears the screen, as watch(1) does.
                write!(io::stdout(), "\u{1b}[2J\u{1b}[H")?;
            }
            // A terminal was cleared, so it gets the last report again. Other outputs already have it.
            if let Some(answer) = last.as_ref().filter(|_| failure.is_none() || is_terminal) {
                session.print(answer, text)?;
            }
            if let Some(error) = failure {
                let at = Clock::system().now().format("%Y-%m-%d %H:%M:%S UTC");
                complain(&format!("{at}: error: {error}; trying again in {seconds} s"));
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    async fn connect(&self, connect: &Connect) -> Result<Vec<String>, CliError> {
        let code = auth_code(connect)?;
        let event = json!({
            "action": "connect", "team_id": connect.team_id, "integration_id": connect.integration_id,
            "auth_code": code.trim(), "app_key": connect.app_key, "replace": connect.replace,
        });
        self.send(event, &Asked::default()).await
    }

    async fn import(&self, import: &import::Import) -> Result<Vec<String>, CliError> {
        let response = import::run(&self.aws, import).await?;
        let answer = Answer { text: response.to_string(), json: response };
        self.print(&answer, import::show)?;
        Ok(verdict::problems(&answer.json, &Asked::default()))
    }

    async fn invoke(&self, event: &Value) -> Result<Answer, InvokeError> {
        // The spinner is drawn only on a terminal.
        let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
        progress.set_message(format!("waiting for {}", self.aws.function_name()));
        progress.enable_steady_tick(Duration::from_millis(100));
        let result = self.aws.invoke(event.to_string()).await;
        progress.finish_and_clear();
        result
    }

    fn print(&self, answer: &Answer, text: impl Fn(&Value) -> String) -> io::Result<()> {
        let output = match self.output {
            Output::Json => answer.text.clone(),
            Output::Text => text(&answer.json),
        };
        writeln!(io::stdout(), "{output}")
    }
}

/// Reads the auth code from the file or from standard input. A terminal does not show what is typed.
fn auth_code(connect: &Connect) -> Result<String, CliError> {
    if let Some(file) = &connect.code_file {
        return fs::read_to_string(file).map_err(|error| CliError::File(file.clone(), error));
    }
    let terminal = Term::stderr();
    if io::stdin().is_terminal() && terminal.is_term() {
        write!(io::stderr(), "Auth code (not shown): ")?;
        return Ok(terminal.read_secure_line()?);
    }
    let mut code = String::new();
    io::stdin().lock().read_line(&mut code)?;
    Ok(code)
}

fn confirm(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question}")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn an_integration_id_requires_a_team_id() {
        assert!(Arguments::try_parse_from(["tiktok-tokens", "refresh", "--integration-id", "7"]).is_err());
        assert!(
            Arguments::try_parse_from(["tiktok-tokens", "verify", "--team-id", "1", "--integration-id", "7"])
                .is_ok()
        );
    }
}
