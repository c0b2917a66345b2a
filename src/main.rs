//! The function's entry: settings, clients, the Lambda runtime; nothing else.

use chrono::{DateTime, Utc};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::value::RawValue;
use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};
use tiktok_token_refresh::{
    aws,
    domain::{clock::Clock, root_cause::root_cause},
    handler::Function,
    logging,
    settings::Settings,
};
use tracing::{Instrument, error_span};

/// With glibc's allocator, a refresh takes a tenth more processor time (`cargo bench --features local --bench speed`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// One thread is enough: the function mostly waits, and below 1,769 MB Lambda gives it less than one processor.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| print_error(&panic.to_string())));
    let Err(error) = start().await else { return ExitCode::SUCCESS };
    let (message, cause) = (error.to_string(), root_cause(&*error));
    print_error(&if message == cause { message } else { format!("{message}: {cause}") });
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

/// Writes one line that says all. It does not go through the log, which may not be there yet.
fn print_error(message: &str) {
    print_line(&serde_json::json!({ "level": "ERROR", "message": message }).to_string());
}

/// Writes one line to standard output. CloudWatch reads this and standard error.
fn print_line(line: &str) {
    // If standard error is gone too, there is nowhere left to report it.
    let _ = writeln!(io::stdout().lock(), "{line}").or_else(|_| writeln!(io::stderr().lock(), "{line}"));
}
