//! The function's real binary under Lambda's Runtime API, served here by a few lines: what `main` does with its
//! environment, its events and its standard output.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use super::support::{World, world};
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
};

struct RuntimeApi {
    address: SocketAddr,
    events: mpsc::Sender<String>,
    answers: mpsc::Receiver<(String, Value)>,
}

#[derive(Clone)]
struct Ends {
    events: Arc<Mutex<mpsc::Receiver<String>>>,
    answers: mpsc::Sender<(String, Value)>,
}

impl RuntimeApi {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (events, to_take) = mpsc::channel(10);
        let (to_give, answers) = mpsc::channel(10);
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .route("/2018-06-01/runtime/init/error", post(|| async {}))
            .with_state(Ends { events: Arc::new(Mutex::new(to_take)), answers: to_give });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, events, answers }
    }

    /// Sends an event and waits for its `response` or `error`.
    async fn invoke(&mut self, event: &str) -> (String, Value) {
        self.events.send(event.to_owned()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), self.answers.recv())
            .await
            .expect("an answer in time")
            .unwrap()
    }
}

async fn next(State(ends): State<Ends>) -> Response {
    let event = ends.events.lock().await.recv().await.expect("the test sends events");
    let deadline = (unix_now() + 900) * 1000;
    let headers = [
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:1:function:f".to_owned()),
    ];
    (headers, event).into_response()
}

async fn answer(State(ends): State<Ends>, Path((_, kind)): Path<(String, String)>, body: Bytes) {
    ends.answers.send((kind, serde_json::from_slice(&body).unwrap())).await.unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the real binary reads the real clock")]
fn unix_now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

struct Function {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Function {
    fn start(settings: &[(&str, &str)]) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let file = |output: &tempfile::NamedTempFile| {
            Stdio::from(File::options().append(true).open(output.path()).unwrap())
        };
        let child = Command::new(env!("CARGO_BIN_EXE_tiktok-token-refresh"))
            .env_clear()
            .env("AWS_LAMBDA_FUNCTION_NAME", "tiktok-token-refresh")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .envs(settings.iter().copied())
            .stdout(file(&output))
            .stderr(file(&output))
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// Ends it, and gives all that it wrote.
    fn end(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::read_to_string(self.output.path()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_answers_events_and_writes_json_lines_without_secrets() {
    let world = World::new().await;
    let shop = world.integration().number("access_token_expires_at", unix_now() + 3600);
    let shop = shop.number("refresh_token_expires_at", unix_now() + 9_000_000).insert().await;
    let mut api = RuntimeApi::start().await;
    let aws = format!("http://{}", world.aws.address);
    let function = Function::start(&[
        ("AWS_LAMBDA_RUNTIME_API", &api.address.to_string()),
        ("AWS_ENDPOINT_URL", &aws),
        ("TABLE_NAME", world::TABLE),
        ("APP_CREDENTIALS_SECRET_ID", "apps"),
        ("TIKTOK_AUTH_URL", &world.setting("TIKTOK_AUTH_URL")),
        ("LOG_LEVEL", "trace"),
    ]);

    let (kind, answer) = api.invoke(include_str!("../../events/scheduled.json")).await;
    assert_eq!((kind.as_str(), &answer["counts"]["refreshed"]), ("response", &json!(1)), "{answer}");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));

    // The same warm environment goes on after an event that it refuses.
    let (kind, error) = api.invoke(r#"{"team_id":[]}"#).await;
    assert_eq!((kind.as_str(), &error["errorType"]), ("error", &json!("BadEvent")));
    assert!(error["errorMessage"].as_str().unwrap().starts_with("bad event: team_id: "), "{error}");
    let (kind, answer) = api.invoke("{}").await;
    assert_eq!((kind.as_str(), &answer["counts"]["skipped_not_due"]), ("response", &json!(1)));

    let output = function.end();
    for secret in world::SECRETS {
        assert!(!output.contains(secret), "{secret} was written");
    }
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.iter().filter(|line| line["_aws"].is_object()).count(), 2, "one line of metrics a run");
    assert!(lines.iter().any(|line| line["message"] == "TikTok token refresh completed successfully"));
}

#[tokio::test]
async fn wrong_settings_stop_the_start_with_one_error() {
    let mut function =
        Function::start(&[("MAX_CONCURRENCY", "many"), ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")]);
    assert!(!function.child.wait().unwrap().success());
    let output = std::fs::read_to_string(function.output.path()).unwrap();
    let line: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert_eq!(
        line["message"],
        "3 problems in the settings:\n  TABLE_NAME is not set\n  APP_CREDENTIALS_SECRET_ID is not set (for local runs, \
         TIKTOK_SHOP_APP_KEY and TIKTOK_SHOP_APP_SECRET serve instead)\n  MAX_CONCURRENCY=\"many\": expected a whole \
         number from 1 to 1000"
    );
}
