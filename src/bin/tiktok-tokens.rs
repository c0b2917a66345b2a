//! The `tiktok-tokens` command for operators.

use clap::Parser;
use std::process::ExitCode;
use tiktok_token_refresh::cli::{self, Arguments};

#[tokio::main]
async fn main() -> ExitCode {
    cli::run(Arguments::parse()).await
}
