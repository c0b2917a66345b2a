//! The function's real binary under Lambda's Runtime API, served here by a few lines: what `main` does with its
//! environment, its events and its standard output.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use super::support::{
    World,
    world::{self, hours},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tiktok_token_refresh::{
    domain::clock::Clock,
    local::runtime_api::{InvocationResult, RuntimeApi},
};

async fn invoke(api: &mut RuntimeApi, event: &str) -> InvocationResult {
    let answer = tokio::time::timeout(Duration::from_secs(30), api.invoke(event)).await;
    answer.expect("an answer in time").expect("the API goes on")
}

/// The function's process, and the file to which it writes.
pub struct Function {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Function {
    pub fn start(settings: &[(&str, &str)]) -> Self {
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
    pub fn end(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::read_to_string(self.output.path()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_answers_events_and_writes_json_lines_without_secrets() {
    let world = World::new().await;
    world.go_by_the_system_clock();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let mut api = RuntimeApi::start(Clock::system()).await.unwrap();
    let aws = format!("http://{}", world.aws.address);
    let function = Function::start(&[
        ("AWS_LAMBDA_RUNTIME_API", &api.address.to_string()),
        ("AWS_ENDPOINT_URL", &aws),
        ("TABLE_NAME", world::TABLE),
        ("APP_CREDENTIALS_SECRET_ID", "apps"),
        ("TIKTOK_AUTH_URL", &world.setting("TIKTOK_AUTH_URL")),
        ("LOG_LEVEL", "trace"),
    ]);

    let answer = invoke(&mut api, include_str!("../../events/scheduled.json")).await.unwrap();
    assert_eq!(answer["counts"]["refreshed"], 1, "{answer}");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));

    // The same warm environment goes on after an event that it refuses.
    let error = invoke(&mut api, r#"{"team_id":[]}"#).await.unwrap_err();
    assert_eq!(error["errorType"], json!("BadEvent"));
    assert!(error["errorMessage"].as_str().unwrap().starts_with("bad event: team_id: "), "{error}");
    let answer = invoke(&mut api, "{}").await.unwrap();
    assert_eq!(answer["counts"]["skipped_not_due"], json!(1));

    // What applications may invoke refreshes no more than the token that they need.
    let refused = api.invoke_through("ensure", "{}").await.unwrap().unwrap_err();
    assert_eq!(refused["errorType"], json!("BadEvent"), "{refused}");
    let ensure = json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id});
    let answer = api.invoke_through("ensure", &ensure.to_string()).await.unwrap().unwrap();
    assert_eq!(answer["outcome"], json!("valid"));

    let output = function.end();
    for secret in world::SECRETS {
        assert!(!output.contains(secret), "{secret} was written");
    }
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.iter().filter(|line| line["_aws"].is_object()).count(), 2, "one line of metrics a run");
    assert!(lines.iter().any(|line| line["message"] == "TikTok token refresh completed successfully"));
}

/// Starts the function with settings that stop it: its exit code, and the message of the one line that it writes.
fn stops_with(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut function = Function::start(settings);
    let code = function.child.wait().unwrap().code();
    let output = std::fs::read_to_string(function.output.path()).unwrap();
    let line: Value = serde_json::from_str(&output).expect("one line of JSON, and nothing beside it");
    assert_eq!(line["level"], "ERROR");
    (code, line["message"].as_str().unwrap().to_owned())
}

const ENOUGH: [(&str, &str); 2] = [("TABLE_NAME", "t"), ("APP_CREDENTIALS_SECRET_ID", "s")];

#[test]
fn a_runtime_that_cannot_be_reached_ends_the_function_with_one_error() {
    let (code, message) = stops_with(&[&ENOUGH[..], &[("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")]].concat());
    assert_eq!(
        (code, message.as_str()),
        (Some(1), "client error (Connect): Connection refused (os error 111)")
    );
}

#[test]
fn a_panic_is_one_line_of_json_too() {
    // The runtime's library panics outside Lambda.
    let (code, message) = stops_with(&ENOUGH);
    assert_eq!(code, Some(101));
    assert!(message.starts_with("panicked at ") && message.contains("AWS_LAMBDA_RUNTIME_API"), "{message}");
}

#[test]
fn wrong_settings_stop_the_start_with_one_error() {
    let (code, message) =
        stops_with(&[("MAX_CONCURRENCY", "many"), ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")]);
    assert_eq!(code, Some(1));
    assert_eq!(
        message,
        "3 problems in the settings:\n  TABLE_NAME is not set\n  APP_CREDENTIALS_SECRET_ID is not set (local runs \
         can set TIKTOK_SHOP_APP_KEY and TIKTOK_SHOP_APP_SECRET instead)\n  MAX_CONCURRENCY=\"many\": expected a whole \
         number from 1 to 400"
    );
}
