//! What stands between the function and AWS: an endpoint that passes DynamoDB's requests on to the embedded one,
//! unless a fault was ordered, and answers for Secrets Manager itself.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::Semaphore};

/// A step of the protocol, told by its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Scan,
    Query,
    Acquire,
    Save,
    /// Any other write: release, note, mark.
    Settle,
    Secret,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is not carried out, and answered with this error.
    Refuse(u16, &'static str),
    /// It is carried out, but the caller gets an error instead of the answer.
    LoseAnswer,
    /// It waits at the gate before it is carried out.
    Hold(Gate),
}

/// A place where a request is made to wait.
#[derive(Clone, Debug)]
pub struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until a request has come to the gate.
    pub async fn reached(&self) {
        self.reached.acquire().await.expect("never closed").forget();
    }

    /// Lets one request through.
    pub fn open(&self) {
        self.open.add_permits(1);
    }
}

#[derive(Clone, Debug)]
pub struct Aws {
    inner: Arc<Mutex<Inner>>,
    http: reqwest::Client,
    dynamodb: SocketAddr,
    pub address: SocketAddr,
}

#[derive(Debug, Default)]
struct Inner {
    faults: Vec<(Step, usize, Fault)>,
    seen: Vec<Step>,
    secret: Option<String>,
}

impl Aws {
    pub async fn start(dynamodb: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let aws = Self { inner: Arc::default(), http: reqwest::Client::new(), dynamodb, address };
        let router = Router::new().fallback(answer).with_state(aws.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        aws
    }

    /// The next `times` requests of this step meet this fault.
    pub fn fault(&self, step: Step, times: usize, fault: Fault) {
        self.inner.lock().unwrap().faults.push((step, times, fault));
    }

    /// The next request of this step waits at the gate.
    pub fn hold(&self, step: Step) -> Gate {
        let gate = Gate::new();
        self.fault(step, 1, Fault::Hold(gate.clone()));
        gate
    }

    /// From now on requests meet no fault.
    pub fn heal(&self) {
        self.inner.lock().unwrap().faults.clear();
    }

    /// How many requests of this step came.
    pub fn count(&self, step: Step) -> usize {
        self.inner.lock().unwrap().seen.iter().filter(|seen| **seen == step).count()
    }

    /// How many requests to write came.
    pub fn writes(&self) -> usize {
        [Step::Acquire, Step::Save, Step::Settle].map(|step| self.count(step)).iter().sum()
    }

    /// What Secrets Manager holds; none, if there is no such secret.
    pub fn set_secret(&self, secret: Option<&str>) {
        self.inner.lock().unwrap().secret = secret.map(ToOwned::to_owned);
    }

    fn meets(&self, step: Step) -> Option<Fault> {
        let mut inner = self.inner.lock().unwrap();
        inner.seen.push(step);
        let at = inner.faults.iter().position(|(ordered, times, _)| *ordered == step && *times > 0)?;
        inner.faults[at].1 -= 1;
        Some(inner.faults[at].2.clone())
    }
}

fn step(target: &str, body: &[u8]) -> Option<Step> {
    let body = String::from_utf8_lossy(body);
    match target.rsplit('.').next()? {
        "Scan" => Some(Step::Scan),
        "Query" => Some(Step::Query),
        "GetSecretValue" => Some(Step::Secret),
        "UpdateItem" if body.contains("SET lock_owner = :me") => Some(Step::Acquire),
        "UpdateItem" if body.contains("\"last_refreshed_at\"") => Some(Step::Save),
        "UpdateItem" => Some(Step::Settle),
        _ => None,
    }
}

async fn answer(State(aws): State<Aws>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap().to_owned();
    let step = step(&target, &body);
    let fault = step.and_then(|step| aws.meets(step));
    match &fault {
        Some(Fault::Refuse(status, code)) => return error(*status, code),
        Some(Fault::Hold(gate)) => {
            gate.reached.add_permits(1);
            gate.open.acquire().await.expect("never closed").forget();
        }
        Some(Fault::LoseAnswer) | None => {}
    }
    if step == Some(Step::Secret) {
        let secret = aws.inner.lock().unwrap().secret.clone();
        return match secret {
            None => error(400, "ResourceNotFoundException"),
            Some(text) => axum::Json(json!({"ARN": "a", "Name": "n", "SecretString": text})).into_response(),
        };
    }
    let url = format!("http://{}/", aws.dynamodb);
    let passed_on = aws.http.post(url).headers(headers).body(body).send().await.unwrap();
    let (status, headers, body) =
        (passed_on.status(), passed_on.headers().clone(), passed_on.bytes().await.unwrap());
    match fault {
        Some(Fault::LoseAnswer) => error(500, "InternalServerError"),
        _ => (status, headers, body).into_response(),
    }
}

fn error(status: u16, code: &str) -> Response {
    let body: Value = json!({ "__type": format!("com.amazonaws#{code}"), "message": "as the test ordered" });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}
