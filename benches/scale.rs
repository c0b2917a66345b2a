//! How a run's memory and time grow with the table: the function's real binary over 1,000, 10,000 and 100,000 rows of
//! 1.6 KB, a fifth of them due, once to find out and hand over and once to work off.
//!
//! `cargo bench --features local --bench scale [-- rows …]`

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement, not a program"
)]

#[path = "speed/process.rs"]
mod process;

use aws_config::Region;
use aws_sdk_dynamodb::{
    Client,
    config::Credentials,
    types::{AttributeValue, PutRequest, WriteRequest},
};
use axum::{Json, Router, extract::State};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    process::Child,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tiktok_token_refresh::{
    domain::{clock::Clock, secret::AppCredentials},
    local::{dynamodb, runtime_api::RuntimeApi, tiktok::TikTokStandIn},
};
use tokio::net::TcpListener;

const TABLE: &str = "integrations";
const DAY: i64 = 24 * 3600;

#[tokio::main]
async fn main() {
    let rows: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    println!("| rows | due | survey, s | peak RSS, MiB | work-off, s | due/s | peak RSS of a worker, MiB |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for rows in if rows.is_empty() { vec![1_000, 10_000, 100_000] } else { rows } {
        measure(rows).await;
    }
}

async fn measure(rows: usize) {
    let clock = Clock::system();
    let app = AppCredentials { app_key: "app".into(), app_secret: "bench".to_owned().into() };
    let tiktok = TikTokStandIn::new(vec![app], clock.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tiktok_url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(tiktok.clone().serve(listener));
    let dynamodb = format!("http://{}", dynamodb::serve(None).await.unwrap());
    fill(&dynamodb, &tiktok, rows, clock.now().timestamp()).await;
    let (queue_url, queued) = queue().await;
    let settings = [
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb),
        ("AWS_ENDPOINT_URL_SQS", queue_url.clone()),
        ("WORK_QUEUE_URL", format!("{queue_url}/1/work")),
        ("FAN_OUT_ABOVE", "100".into()),
        ("TIKTOK_AUTH_URL", tiktok_url),
        ("MAX_REQUESTS_PER_SECOND", "10000".into()),
    ];

    let (survey, surveyor_rss, answer) = run(&settings, vec![json!({}).to_string()]).await;
    let due = answer["counts"]["queued"].as_u64().unwrap();
    assert_eq!((answer["counts"]["examined"].as_u64(), due), (Some(rows as u64), rows as u64 / 5));
    let deliveries: Vec<String> = std::mem::take(&mut *queued.lock().unwrap())
        .into_iter()
        .map(|body| {
            json!({"Records": [{"messageId": "m", "body": body, "eventSource": "aws:sqs"}]}).to_string()
        })
        .collect();
    let (work_off, worker_rss, _) = run(&settings, deliveries).await;
    assert_eq!(tiktok.all_calls(), due);
    let rate = due as f64 / work_off.as_secs_f64();
    println!(
        "| {rows} | {due} | {:.1} | {surveyor_rss:.1} | {:.1} | {rate:.0} | {worker_rss:.1} |",
        survey.as_secs_f64(),
        work_off.as_secs_f64()
    );
}

/// Starts the function, sends it the events, and ends it: how long they took, its peak memory, its last answer.
async fn run(settings: &[(&str, String)], events: Vec<String>) -> (Duration, f64, Value) {
    let mut api = RuntimeApi::start(Clock::system()).await.unwrap();
    let mut function = Function(
        process::command(env!("CARGO_BIN_EXE_tiktok-token-refresh"), TABLE)
            .env("AWS_LAMBDA_RUNTIME_API", api.address.to_string())
            .env("TIKTOK_SHOP_APP_KEY", "app")
            .env("TIKTOK_SHOP_APP_SECRET", "bench")
            .env("LOG_LEVEL", "warn")
            .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
            .spawn()
            .unwrap(),
    );
    let began = Instant::now();
    let mut last = Value::Null;
    for event in events {
        last = api.invoke(&event).await.unwrap().expect("the function answers");
    }
    let took = began.elapsed();
    let peak = process::peak_rss_mib(function.0.id());
    function.0.kill().unwrap();
    function.0.wait().unwrap();
    (took, peak, last)
}

struct Function(Child);

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

async fn fill(dynamodb: &str, tiktok: &TikTokStandIn, rows: usize, now: i64) {
    let sdk = tiktok_token_refresh::aws::config()
        .endpoint_url(dynamodb)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("bench", "bench", None, None, "bench"))
        .load()
        .await;
    let client = Client::new(&sdk);
    dynamodb::create_table(&client, TABLE).await.unwrap();
    let text = |text: String| AttributeValue::S(text);
    let row = |n: usize| {
        let pair = tiktok.authorize(&format!("seller-{n}"), "Seller");
        let expires_at = if n.is_multiple_of(5) { now + 3600 } else { now + 6 * DAY };
        HashMap::from([
            ("team_id".to_owned(), text(format!("team-{}", n / 10))),
            ("integration_id".to_owned(), text(n.to_string())),
            ("status".to_owned(), text("active".into())),
            ("access_token".to_owned(), text(pair.access_token)),
            ("refresh_token".to_owned(), text(pair.refresh_token)),
            ("access_token_expires_at".to_owned(), AttributeValue::N(expires_at.to_string())),
            ("refresh_token_expires_at".to_owned(), AttributeValue::N((now + 300 * DAY).to_string())),
            ("padding".to_owned(), text("x".repeat(1_300))),
        ])
    };
    let put = |n| {
        let put = PutRequest::builder().set_item(Some(row(n))).build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let batches = (0..rows).step_by(25).map(|from| (from..rows.min(from + 25)).map(put).collect::<Vec<_>>());
    stream::iter(batches)
        .for_each_concurrent(4, |batch| async {
            client.batch_write_item().request_items(TABLE, batch).send().await.unwrap();
        })
        .await;
}

/// A queue that takes messages.
async fn queue() -> (String, Arc<Mutex<Vec<String>>>) {
    type Queued = Arc<Mutex<Vec<String>>>;
    async fn take(State(queued): State<Queued>, body: String) -> Json<Value> {
        let request: Value = serde_json::from_str(&body).unwrap();
        let entries = request["Entries"].as_array().cloned().unwrap_or_default();
        let taken = |entry: &Value| json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "d"});
        let answer = json!({"Successful": entries.iter().map(taken).collect::<Vec<_>>(), "Failed": []});
        let bodies = entries.iter().map(|entry| entry["MessageBody"].as_str().unwrap().to_owned());
        queued.lock().unwrap().extend(bodies);
        Json(answer)
    }
    let queued = Queued::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(take).with_state(queued.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, queued)
}
