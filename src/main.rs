//! The function's entry: settings, clients, the Lambda runtime; nothing else.

use chrono::{DateTime, Utc};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::value::RawValue;
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};
use tiktok_token_refresh::{aws, domain::clock::Clock, handler::Function, logging, settings::Settings};
use tracing::{Instrument, error_span};

/// With glibc's allocator, a refresh takes an eighth more processor time (`cargo bench --features local --bench speed`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// One thread is enough: the function mostly waits, and below 1,769 MB Lambda gives it less than one processor.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = start().await else { return ExitCode::SUCCESS };
    // One line that says all. It does not go through the log, whose level may be what is wrong.
    print_line(&serde_json::json!({ "level": "ERROR", "message": error.to_string() }).to_string());
    ExitCode::FAILURE
}

/// Answers events until the environment ends.
async fn start() -> Result<(), Error> {
    let settings = Settings::from_env()?;
    tracing::subscriber::set_global_default(logging::subscriber(settings.log_level, io::stdout))?;
    let sdk = aws::config().load().await;
    let function = Function::new(settings, &sdk, Clock::system(), Arc::new(print_line));
    let function = &function;
    run(service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let deadline = DateTime::<Utc>::from(event.context.deadline());
        // At level `ERROR`, so that no log level drops the id.
        let span = error_span!("invocation", request_id = event.context.request_id);
        let arn = &event.context.invoked_function_arn;
        Box::pin(function.handle_invoked(event.payload.get(), arn, deadline)).instrument(span).await
    }))
    .await
}

/// Writes one line to standard output, which is where CloudWatch reads.
fn print_line(line: &str) {
    // If standard output is gone there is nowhere to report it.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
