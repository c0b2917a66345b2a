//! The command line: what each command and option is called, and its help.

use super::{import::Import, invoke::Aws, verdict::Asked};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;

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
    pub(super) command: Command,
    /// Output format
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) aws: Aws,
}

/// The subcommands that do not invoke the function. The options of an invocation have no effect on them.
const WITHOUT_A_FUNCTION: [&str; 3] = ["local", "completions", "man"];

pub(super) const EXIT_CODES: &str = "\
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
pub(super) enum Output {
    /// Tables and a summary, for people
    #[default]
    Text,
    /// The function's JSON response, for scripts
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
    Verify(Selected),
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
    Import(Import),
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
pub(super) struct Selected {
    /// Select only this team's integrations
    #[arg(long)]
    pub(super) team_id: Option<String>,
    /// Select only this integration of the team
    #[arg(long, requires = "team_id")]
    pub(super) integration_id: Option<String>,
}

/// The one integration that a command is about.
#[derive(Debug, Args)]
pub(super) struct OneIntegration {
    /// Team that the integration belongs to
    #[arg(long)]
    pub(super) team_id: String,
    /// Integration of this team
    #[arg(long)]
    pub(super) integration_id: String,
}

#[derive(Debug, Args)]
pub(super) struct Refresh {
    #[command(flatten)]
    pub(super) integrations: Selected,
    /// Also refresh tokens that are not due, and integrations with the status "error"
    #[arg(long)]
    pub(super) force: bool,
    /// Show what the run would do and why, without calling TikTok or writing to the table
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask before a forced refresh of all integrations; required if there is no terminal
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ensure {
    #[command(flatten)]
    pub(super) integration: OneIntegration,
    /// How long the token must stay valid, such as 1h; at most 24h [default: 5m]
    #[arg(long, allow_hyphen_values = true)]
    pub(super) valid_for: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Select only this team's integrations
    #[arg(long)]
    pub(super) team_id: Option<String>,
    /// Report format
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    /// Repeat the report at this interval, until you stop the command [default: 10]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) watch: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The integrations, the most urgent first, and the summary
    #[default]
    Table,
    /// The counts and warnings only
    Summary,
    /// The same as --output json
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Connect {
    #[command(flatten)]
    pub(super) integration: OneIntegration,
    /// App that the seller authorized [default: the integration's app, or the secret's first app]
    #[arg(long)]
    pub(super) app_key: Option<String>,
    /// Overwrite the row even if it belongs to another seller
    #[arg(long)]
    pub(super) replace: bool,
    /// Read the auth code from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    pub(super) code_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ConnectLink {
    #[command(flatten)]
    pub(super) integration: OneIntegration,
    /// App that the seller authorizes [default: the integration's app, or the secret's first app]
    #[arg(long)]
    pub(super) app_key: Option<String>,
    /// Market of the seller: global, or us for the United States [default: the app's market]
    #[arg(long)]
    pub(super) market: Option<String>,
    /// How long the link works, such as 24h; at most 30d [default: 7d]
    #[arg(long, allow_hyphen_values = true)]
    pub(super) valid_for: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Cleanup {
    /// Select only this team's integrations
    #[arg(long)]
    pub(super) team_id: Option<String>,
    /// Show which integrations would be marked, without writing to the table
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl OneIntegration {
    pub(super) fn event(&self, action: &str) -> Value {
        json!({"action": action, "team_id": self.team_id, "integration_id": self.integration_id})
    }
}

impl Selected {
    pub(super) fn event(&self, action: &str) -> Value {
        json!({"action": action, "team_id": self.team_id, "integration_id": self.integration_id})
    }

    pub(super) fn asked(&self) -> Asked {
        Asked {
            team_id: self.team_id.clone(),
            integration_id: self.integration_id.clone(),
            ..Asked::default()
        }
    }
}

/// Parses the command line. Invalid usage ends the process.
pub fn parse() -> Arguments {
    let matches = command().get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The command line's definition. Hides the options of an invocation where they have no effect.
pub(super) fn command() -> clap::Command {
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
