//! Lambda's Runtime API for one function process, so that the real binary runs here as it does on AWS.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use super::invoke::TIMEOUT;
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

/// Lambda's limit on an answer, in bytes.
const MAX_ANSWER: usize = 6 * 1024 * 1024;

/// The side of the API that the invoker holds.
#[derive(Debug)]
pub struct RuntimeApi {
    /// What the function's `AWS_LAMBDA_RUNTIME_API` is to be.
    pub address: SocketAddr,
    events: mpsc::Sender<String>,
    answers: mpsc::Receiver<Answered>,
}

/// A function's answer: whether it succeeded, and what it said.
pub type Answered = Result<Value, Value>;

#[derive(Clone)]
struct Ends {
    events: Arc<Mutex<mpsc::Receiver<String>>>,
    answers: mpsc::Sender<Answered>,
    clock: Clock,
}

impl RuntimeApi {
    /// Serves the API on a port of its own choosing until the process ends.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (events, to_take) = mpsc::channel(1);
        let (to_give, answers) = mpsc::channel(1);
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .route("/2018-06-01/runtime/init/error", post(|| async {}))
            .layer(DefaultBodyLimit::max(MAX_ANSWER))
            .with_state(Ends { events: Arc::new(Mutex::new(to_take)), answers: to_give, clock });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, events, answers })
    }

    /// Sends an event to the function and waits for its answer; none if the API has ended.
    pub async fn invoke(&mut self, event: &str) -> Option<Answered> {
        self.events.send(event.to_owned()).await.ok()?;
        self.answers.recv().await
    }
}

async fn next(State(ends): State<Ends>) -> Response {
    let Some(event) = ends.events.lock().await.recv().await else { return StatusCode::GONE.into_response() };
    let deadline = ends.clock.now() + TIMEOUT;
    let headers = [
        ("lambda-runtime-aws-request-id", Uuid::new_v4().to_string()),
        ("lambda-runtime-deadline-ms", deadline.timestamp_millis().to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:123456789012:function:local".into(),
        ),
    ];
    (headers, event).into_response()
}

async fn answer(
    State(ends): State<Ends>,
    Path((_, kind)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let said = serde_json::from_slice(&body).unwrap_or_default();
    let answered = if kind == "response" { Ok(said) } else { Err(said) };
    ends.answers.send(answered).await.map_or(StatusCode::GONE, |()| StatusCode::ACCEPTED)
}
