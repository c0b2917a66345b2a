//! The function's entry: settings, clients, the Lambda runtime; nothing else.

use chrono::{DateTime, Utc};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::value::RawValue;
use std::io::{self, Write};
use std::sync::Arc;
use tiktok_token_refresh::{aws, domain::clock::Clock, handler::Function, logging, settings::Settings};

// One thread: the work is waiting, Lambda gives less than one processor below 1,769 MB, and threads that pass it round
// cost a refresh nearly as much processor time again as the refresh itself (docs/SPEED.md).
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let settings = Settings::from_env().inspect_err(|error| {
        // Before the log level is known: one line that says all.
        report(&serde_json::json!({ "level": "ERROR", "message": error.to_string() }).to_string());
    })?;
    tracing::subscriber::set_global_default(logging::subscriber(settings.log_level, io::stdout))?;
    let config = aws::config().load().await;
    let function = Function::new(settings, &config, Clock::system(), Arc::new(report));
    let function = &function;
    run(service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let deadline = DateTime::<Utc>::from(event.context.deadline());
        function.handle(event.payload.get(), deadline).await
    }))
    .await
}

/// Writes one line to standard output, which is where CloudWatch reads.
fn report(line: &str) {
    // There is nowhere to tell that standard output is gone.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
