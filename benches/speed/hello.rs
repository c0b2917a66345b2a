//! The smallest function that Lambda takes: what `benches/speed` holds the function's start against.

#![allow(missing_docs, reason = "a measurement, not a program")]

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(service_fn(|event: LambdaEvent<Value>| async { Ok::<_, Error>(event.payload) })).await
}
