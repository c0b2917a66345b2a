//! Lambda's Runtime API for one function process, so that the function's binary runs on this machine as on AWS.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use super::invoke::{FUNCTION_ARN, TIMEOUT};
use crate::domain::clock::Clock;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::Value;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
};
use uuid::Uuid;

/// Lambda's limit on a response, in bytes.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const MAX_RESPONSE: usize = 6 * 1024 * 1024;

/// The invoker's side of the API.
#[derive(Debug)]
pub struct RuntimeApi {
    /// The value for the function's `AWS_LAMBDA_RUNTIME_API`.
    pub address: SocketAddr,
    events: mpsc::Sender<Invocation>,
    results: mpsc::Receiver<InvocationResult>,
}

/// An event, and the ARN that it is sent to.
#[derive(Debug)]
struct Invocation {
    event: String,
    function_arn: String,
}

/// The result of an invocation: the function's response, or its error.
pub type InvocationResult = Result<Value, Value>;

#[derive(Clone)]
struct RuntimeSide {
    events: Arc<Mutex<mpsc::Receiver<Invocation>>>,
    results: mpsc::Sender<InvocationResult>,
    clock: Clock,
}

impl RuntimeApi {
    /// Serves the API on a free port until the process exits.
    ///
    /// # Errors
    /// An I/O error if no port is free.
    pub async fn start(clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (event_sender, event_receiver) = mpsc::channel(1);
        let (result_sender, result_receiver) = mpsc::channel(1);
        let runtime =
            RuntimeSide { events: Arc::new(Mutex::new(event_receiver)), results: result_sender, clock };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(finish))
            .route("/2018-06-01/runtime/init/error", post(|| async {}))
            .layer(DefaultBodyLimit::max(MAX_RESPONSE))
            .with_state(runtime);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, events: event_sender, results: result_receiver })
    }

    /// Sends an event to the function and waits for the result. Returns `None` if the API has stopped.
    pub async fn invoke(&mut self, event: &str) -> Option<InvocationResult> {
        self.send(event, FUNCTION_ARN.into()).await
    }

    /// As [`invoke`](Self::invoke), through an alias of the function.
    pub async fn invoke_through(&mut self, alias: &str, event: &str) -> Option<InvocationResult> {
        self.send(event, format!("{FUNCTION_ARN}:{alias}")).await
    }

    async fn send(&mut self, event: &str, function_arn: String) -> Option<InvocationResult> {
        self.events.send(Invocation { event: event.to_owned(), function_arn }).await.ok()?;
        self.results.recv().await
    }
}

async fn next(State(runtime): State<RuntimeSide>) -> Response {
    let Some(Invocation { event, function_arn }) = runtime.events.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let deadline = runtime.clock.now() + TIMEOUT;
    let headers = [
        ("lambda-runtime-aws-request-id", Uuid::new_v4().to_string()),
        ("lambda-runtime-deadline-ms", deadline.timestamp_millis().to_string()),
        ("lambda-runtime-invoked-function-arn", function_arn),
    ];
    (headers, event).into_response()
}

async fn finish(
    State(runtime): State<RuntimeSide>,
    Path((_, kind)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let result = if kind == "response" { Ok(body) } else { Err(body) };
    runtime.results.send(result).await.map_or(StatusCode::GONE, |()| StatusCode::ACCEPTED)
}
