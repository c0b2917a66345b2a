//! AWS and TikTok Shop at one address. Their answers are prepared, so that their cost hides little of the program's.

use super::Clock;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use governor::{DefaultDirectRateLimiter, Quota};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// How many rows the function asks for at a time.
const PAGE: usize = 250;
/// How many segments the function scans at once.
const SEGMENTS: usize = 4;
const SECRET: &str =
    r#"{"ARN": "a", "Name": "apps", "SecretString": "{\"app_key\": \"29a39d\", \"app_secret\": \"bench\"}"}"#;
const SHOPS: &str = r#"{"code": 0, "message": "Success", "request_id": "r", "data": {"shops": []}}"#;
const DAY: i64 = 24 * 3600;
/// tokio's timer counts milliseconds and rounds up. Without this, each answer would be late by a millisecond.
const ROUNDED_UP: Duration = Duration::from_millis(1);

/// When the refresh tokens of the table expire, in days.
#[derive(Clone, Copy)]
pub enum Expiry {
    Far = 300,
    /// So soon that the function warns of it.
    Soon = 20,
}

#[derive(Default)]
pub struct StandIns {
    pub url: String,
    latency: Duration,
    /// The pages of each segment's scan.
    pages: Vec<Vec<Bytes>>,
    /// The attributes of a leased row, except its key.
    row: String,
    tokens: Bytes,
    /// TikTok's limit, in refreshes per second; beyond, it answers HTTP 429.
    limit: Option<DefaultDirectRateLimiter>,
    writes: AtomicUsize,
    calls: AtomicUsize,
    /// The bodies of the messages in the queue.
    pub queued: Mutex<Vec<String>>,
}

impl StandIns {
    /// Serves a table of `rows`, `due` of which are due, and a TikTok Shop that answers after `latency`.
    pub async fn start(rows: usize, due: usize, latency: Duration) -> Arc<Self> {
        Self::start_with(rows, due, latency, Expiry::Far, None).await
    }

    /// As [`start`](Self::start), with refresh tokens that expire then, and with a limit on TikTok's refreshes per second.
    pub async fn start_with(
        rows: usize,
        due: usize,
        latency: Duration,
        refresh_expiry: Expiry,
        limit: Option<NonZeroU32>,
    ) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let now = Clock::system().now().timestamp();
        let stand_ins = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            latency,
            pages: (0..SEGMENTS).map(|segment| pages(segment, rows, due, refresh_expiry, now)).collect(),
            row: row(now),
            tokens: tokens(now).into(),
            limit: limit.map(|limit| DefaultDirectRateLimiter::direct(Quota::per_second(limit))),
            ..Self::default()
        });
        let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
        let router = Router::new().fallback(answer).with_state(stand_ins.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        stand_ins
    }

    /// How many calls TikTok got.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Checks that each of `due` refreshes made two writes and one call.
    pub fn check(&self, due: usize) {
        let writes = self.writes.load(Ordering::Relaxed);
        assert_eq!((writes, self.calls()), (2 * due, due), "two writes and one call for each refresh");
    }

    /// The row with the key that was sent, if the request asks for it: the lease does, the save does not.
    fn write(&self, request: &[u8]) -> Bytes {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let update: Update<'_> = serde_json::from_slice(request).unwrap();
        match update.return_values {
            None => Bytes::from_static(b"{}"),
            Some(_) => format!(r#"{{"Attributes":{{{},{}}}}}"#, inside(update.key.get()), self.row).into(),
        }
    }

    /// The row with the key that was sent: the function reads witnesses before it fans out.
    fn read(&self, request: &[u8]) -> Bytes {
        let request: Value = serde_json::from_slice(request).unwrap();
        format!(r#"{{"Item":{{{},{}}}}}"#, inside(&request["Key"].to_string()), self.row).into()
    }

    fn page(&self, request: &[u8]) -> Bytes {
        let request: Value = serde_json::from_slice(request).unwrap();
        assert_eq!((&request["TotalSegments"], &request["Limit"]), (&json!(SEGMENTS), &json!(PAGE)));
        // The rows have both tokens, so a filter for missing ones leaves none.
        if request["FilterExpression"].as_str().is_some_and(|filter| filter.starts_with("NOT")) {
            return Bytes::from_static(br#"{"Items":[],"Count":0,"ScannedCount":250}"#);
        }
        let segment = usize::try_from(request["Segment"].as_u64().unwrap()).unwrap();
        let page = request["ExclusiveStartKey"]["integration_id"]["S"].as_str();
        self.pages[segment][page.map_or(0, |page| page.parse().unwrap())].clone()
    }

    fn queue(&self, request: &[u8]) -> Bytes {
        let request: Value = serde_json::from_slice(request).unwrap();
        let entries = request["Entries"].as_array().unwrap();
        let bodies = entries.iter().map(|entry| entry["MessageBody"].as_str().unwrap().to_owned());
        self.queued.lock().unwrap().extend(bodies);
        let taken = |entry: &Value| json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "d"});
        let taken: Vec<Value> = entries.iter().map(taken).collect();
        json!({"Successful": taken, "Failed": []}).to_string().into()
    }
}

async fn answer(
    State(stand_ins): State<Arc<StandIns>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if uri.path() == "/authorization/202309/shops" {
        return ([("content-type", "application/json")], SHOPS).into_response();
    }
    let Some(target) = headers.get("x-amz-target") else {
        stand_ins.calls.fetch_add(1, Ordering::Relaxed);
        if stand_ins.limit.as_ref().is_some_and(|limit| limit.check().is_err()) {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "too many requests")
                .into_response();
        }
        if !stand_ins.latency.is_zero() {
            tokio::time::sleep(stand_ins.latency - ROUNDED_UP).await;
        }
        return ([("content-type", "application/json")], stand_ins.tokens.clone()).into_response();
    };
    let answer = match target.to_str().unwrap() {
        "DynamoDB_20120810.UpdateItem" => stand_ins.write(&body),
        "DynamoDB_20120810.Scan" => stand_ins.page(&body),
        "DynamoDB_20120810.GetItem" => stand_ins.read(&body),
        "secretsmanager.GetSecretValue" => SECRET.into(),
        "AmazonSQS.SendMessageBatch" => stand_ins.queue(&body),
        "AWSEvents.PutEvents" => Bytes::from_static(br#"{"FailedEntryCount":0,"Entries":[{"EventId":"e"}]}"#),
        unexpected => panic!("{unexpected}"),
    };
    ([("content-type", "application/x-amz-json-1.0")], answer).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Update<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    return_values: Option<&'a str>,
}

fn pages(segment: usize, rows: usize, due: usize, refresh_expiry: Expiry, now: i64) -> Vec<Bytes> {
    let row = |n: usize| {
        let is_due = n * due % rows < due;
        json!({
            "team_id": {"S": format!("team-{}", n / 10)}, "integration_id": {"S": n.to_string()},
            "status": {"S": "active"},
            "access_token_expires_at": {"N": (now + if is_due { 3600 } else { 5 * DAY }).to_string()},
            "refresh_token_expires_at": {"N": (now + refresh_expiry as i64 * DAY).to_string()},
            "open_id": {"S": format!("seller-{n}")}, "seller_name": {"S": format!("Bánh Mì {n}")},
        })
    };
    let numbers: Vec<usize> = (segment..rows).step_by(SEGMENTS).collect();
    let count = numbers.len().div_ceil(PAGE);
    let page = |(page, numbers): (usize, &[usize])| {
        let rows: Vec<Value> = numbers.iter().copied().map(row).collect();
        let mut answer = json!({"Items": rows, "Count": rows.len(), "ScannedCount": rows.len()});
        if page + 1 < count {
            // The next page's number stands where DynamoDB has the last row's key.
            answer["LastEvaluatedKey"] =
                json!({"team_id": {"S": "page"}, "integration_id": {"S": (page + 1).to_string()}});
        }
        answer.to_string().into()
    };
    numbers.chunks(PAGE).enumerate().map(page).collect()
}

fn row(now: i64) -> String {
    let row = json!({
        "status": {"S": "active"}, "access_token": {"S": token("TTP")}, "refresh_token": {"S": token("TTR")},
        "access_token_expires_at": {"N": (now + 3600).to_string()},
        "refresh_token_expires_at": {"N": (now + 300 * DAY).to_string()},
        "last_refreshed_at": {"N": (now - 6 * DAY).to_string()},
        "open_id": {"S": "7495"}, "seller_name": {"S": "Bánh Mì 25"}, "seller_base_region": {"S": "VN"},
        "granted_scopes": {"L": [{"S": "seller.authorization.info"}, {"S": "seller.order.info"}]},
        "note": {"S": "x".repeat(900)},
    });
    inside(&row.to_string()).to_owned()
}

fn tokens(now: i64) -> String {
    json!({
        "code": 0, "message": "success", "request_id": "2026112302000001",
        "data": {
            "access_token": token("TTP"), "access_token_expire_in": now + 7 * DAY,
            "refresh_token": token("TTR"), "refresh_token_expire_in": now + 300 * DAY,
            "open_id": "7495", "seller_name": "Bánh Mì 25", "seller_base_region": "VN", "user_type": 0,
            "granted_scopes": ["seller.authorization.info", "seller.order.info"],
        },
    })
    .to_string()
}

fn token(kind: &str) -> String {
    format!("{kind}_{}", "x".repeat(66))
}

/// A JSON object without its braces.
fn inside(object: &str) -> &str {
    &object[1..object.len() - 1]
}
