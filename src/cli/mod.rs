//! The `tiktok-tokens` command: a client of the deployed function or of the local stack. It only calls Lambda's Invoke API, so an
//! operator sees what production does.

mod arguments;
mod import;
mod invoke;
mod man;
pub(crate) mod show;
mod verdict;

pub use arguments::{Arguments, parse};
pub use invoke::{Aws, InvokeError};

use crate::domain::clock::Clock;
use arguments::{Command, Connect, Format, Output, Refresh, Status};
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
        Command::Ensure(ensure) => {
            let mut event = ensure.integration.event("ensure");
            event["valid_for"] = json!(ensure.valid_for);
            session.send(event, &Asked::default()).await
        }
        Command::Status(status) => session.status(&status).await,
        Command::Verify(integrations) => {
            session.send(integrations.event("verify"), &integrations.asked()).await
        }
        Command::Connect(connect) => session.connect(&connect).await,
        Command::ConnectLink(link) => {
            let mut event = link.integration.event("connect_link");
            event["app_key"] = json!(link.app_key);
            event["market"] = json!(link.market);
            event["valid_for"] = json!(link.valid_for);
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
            io::stdout().write_all(&completions(shell))?;
            Ok(Vec::new())
        }
        Command::Man => {
            man::render(&arguments::command(), &mut io::stdout())?;
            Ok(Vec::new())
        }
    }
}

/// The script that completes the command line in this shell.
fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(), "tiktok-tokens", &mut script);
    if shell != clap_complete::Shell::Bash {
        return script;
    }
    // clap_complete gives a command with a hyphen two names, so that no option would be completed.
    String::from_utf8_lossy(&script).replace("tiktok__subcmd__tokens", "tiktok__tokens").into_bytes()
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
        let mut event = connect.integration.event("connect");
        event["auth_code"] = json!(code.trim());
        event["app_key"] = json!(connect.app_key);
        event["replace"] = json!(connect.replace);
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
