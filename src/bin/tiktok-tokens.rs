//! The `tiktok-tokens` command for operators.

use std::process::ExitCode;
use tiktok_token_refresh::cli;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(cli::parse()).await
}
