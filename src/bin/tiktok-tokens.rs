//! The operator's command.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Keeps TikTok Shop access tokens alive: the operator's command.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system on this machine, with sample integrations
    ///
    /// Starts an embedded DynamoDB, a stand-in for TikTok Shop and Lambda's Invoke endpoint; shows the integrations,
    /// runs the nightly event, shows what it did; then stays up for `aws lambda invoke --endpoint-url …`. Its data is
    /// kept in the folder .local, so that a second start goes on where the first ended.
    #[cfg(feature = "local")]
    Local(tiktok_token_refresh::local::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done: Result<(), Box<dyn std::error::Error>> = match Arguments::parse().command {
        #[cfg(feature = "local")]
        Command::Local(options) => tiktok_token_refresh::local::run(&options).await.map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            // The function could not be reached or failed.
            ExitCode::from(3)
        }
    }
}
