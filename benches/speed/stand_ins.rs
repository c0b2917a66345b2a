//! AWS and TikTok Shop as cheap as they can be: canned answers, so that their cost does not hide ours.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// As many rows as the function asks for at a time.
const ROWS_OF_A_PAGE: usize = 250;
const DAY: i64 = 24 * 3600;
/// tokio's timer counts milliseconds and rounds up, so that an answer would come later by this on average.
const ROUNDED_UP: Duration = Duration::from_millis(1);

/// Where the stand-ins are, and what came to them.
pub struct StandIns {
    pub aws_url: String,
    pub tiktok_url: String,
    pub counted: Arc<Counted>,
}

#[derive(Default)]
pub struct Counted {
    pub secret_reads: AtomicU64,
    pub scans: AtomicU64,
    pub writes: AtomicU64,
    pub calls: AtomicU64,
    /// The bodies of the writes.
    pub bytes_written: AtomicU64,
}

struct Aws {
    /// Of each segment the pages of its scan.
    pages: Vec<Vec<Bytes>>,
    /// What a leased row holds beside its key.
    row: String,
    counted: Arc<Counted>,
}

struct TikTok {
    latency: Duration,
    answer: Bytes,
    counted: Arc<Counted>,
}

impl StandIns {
    /// Serves a table of `rows`, the first `due` of them due, and a TikTok Shop that answers after `latency`.
    pub async fn start(rows: usize, due: usize, latency: Duration, now: i64) -> Self {
        let counted = Arc::new(Counted::default());
        let aws = Aws { pages: pages(rows, due, now), row: row(now), counted: counted.clone() };
        let tiktok = TikTok { latency, answer: answer(now).into(), counted: counted.clone() };
        Self {
            aws_url: serve(Router::new().fallback(aws_answers).with_state(Arc::new(aws))).await,
            tiktok_url: serve(Router::new().fallback(tiktok_answers).with_state(Arc::new(tiktok))).await,
            counted,
        }
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn aws_answers(State(aws): State<Arc<Aws>>, headers: HeaderMap, body: Bytes) -> Response {
    let counted = &aws.counted;
    let (counter, answer) = match headers["x-amz-target"].to_str().unwrap() {
        "DynamoDB_20120810.UpdateItem" => {
            counted.bytes_written.fetch_add(body.len() as u64, Ordering::Relaxed);
            (&counted.writes, aws.written(&body))
        }
        "DynamoDB_20120810.Scan" => (&counted.scans, aws.page(&body)),
        "secretsmanager.GetSecretValue" => {
            let secret = json!({"app_key": "29a39d", "app_secret": "bench"}).to_string();
            let answer = json!({"ARN": "a", "Name": "apps", "SecretString": secret}).to_string();
            (&counted.secret_reads, answer.into())
        }
        unexpected => panic!("{unexpected}"),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    ([("content-type", "application/x-amz-json-1.0")], answer).into_response()
}

async fn tiktok_answers(State(tiktok): State<Arc<TikTok>>) -> Response {
    tiktok.counted.calls.fetch_add(1, Ordering::Relaxed);
    if !tiktok.latency.is_zero() {
        tokio::time::sleep(tiktok.latency - ROUNDED_UP).await;
    }
    ([("content-type", "application/json")], tiktok.answer.clone()).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Update<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    return_values: Option<&'a str>,
}

impl Aws {
    /// The row of the key that was sent, if the writer asked for it: so does the lease, and not the save.
    fn written(&self, request: &[u8]) -> Bytes {
        let update: Update<'_> = serde_json::from_slice(request).unwrap();
        match update.return_values {
            None => Bytes::from_static(b"{}"),
            Some(_) => format!(r#"{{"Attributes":{{{},{}}}}}"#, inside(update.key.get()), self.row).into(),
        }
    }

    fn page(&self, request: &[u8]) -> Bytes {
        let request: Value = serde_json::from_slice(request).unwrap();
        let segment = usize::try_from(request["Segment"].as_u64().unwrap()).unwrap();
        assert_eq!(request["TotalSegments"], self.pages.len());
        assert_eq!(request["Limit"], ROWS_OF_A_PAGE);
        let page = request["ExclusiveStartKey"]["integration_id"]["S"].as_str();
        self.pages[segment][page.map_or(0, |page| page.parse().unwrap())].clone()
    }
}

fn pages(rows: usize, due: usize, now: i64) -> Vec<Vec<Bytes>> {
    const SEGMENTS: usize = 4;
    let row = |n: usize| {
        let expires_at = if n < due { now + 3600 } else { now + 5 * DAY };
        json!({
            "team_id": {"S": format!("team-{}", n / 10)}, "integration_id": {"S": n.to_string()},
            "status": {"S": "active"}, "access_token_expires_at": {"N": expires_at.to_string()},
            "refresh_token_expires_at": {"N": (now + 300 * DAY).to_string()},
        })
    };
    let segment = |segment: usize| {
        let rows: Vec<Value> = (segment..rows).step_by(SEGMENTS).map(row).collect();
        let count = rows.len().div_ceil(ROWS_OF_A_PAGE).max(1);
        let page = |page: usize| {
            let rows: Vec<_> = rows.iter().skip(page * ROWS_OF_A_PAGE).take(ROWS_OF_A_PAGE).collect();
            let mut answer = json!({"Items": rows, "Count": rows.len(), "ScannedCount": rows.len()});
            if page + 1 < count {
                // The stand-in's own way to know where to go on.
                answer["LastEvaluatedKey"] =
                    json!({"team_id": {"S": "page"}, "integration_id": {"S": (page + 1).to_string()}});
            }
            Bytes::from(answer.to_string())
        };
        (0..count).map(page).collect()
    };
    (0..SEGMENTS).map(segment).collect()
}

fn token(kind: &str) -> String {
    format!("{kind}_{}", "x".repeat(66))
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

/// A JSON object without its brackets.
fn inside(object: &str) -> &str {
    &object[1..object.len() - 1]
}

fn answer(now: i64) -> String {
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
