//! What stands between the function and AWS: an endpoint that passes DynamoDB's requests on to the embedded one,
//! unless a fault was ordered, and answers for Secrets Manager itself.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// A step of the protocol, told by its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Scan,
    Query,
    /// One row.
    Read,
    Acquire,
    Save,
    /// Any other write: release, note, mark.
    Settle,
    Secret,
    Queue,
    Publish,
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
    /// It is carried out, and its answer waits at the gate.
    HoldAnswer(Gate),
    /// Of a batch, this many entries are refused.
    RefuseEntries(usize),
    /// It is not carried out, and the connection is closed without an answer.
    Drop,
    /// It is carried out, and its answer is cut in the middle.
    Cut,
    /// It is carried out, and its answer stops in the middle and never ends.
    Stall,
    /// It is carried out late.
    Delay(Duration),
    /// It is carried out twice, and the second answer is given.
    Duplicate,
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

    /// A request comes to the gate, and waits there.
    async fn pass(&self) {
        self.reached.add_permits(1);
        self.open.acquire().await.expect("never closed").forget();
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
    faults: Vec<Ordered>,
    seen: Vec<Step>,
    requests: usize,
    secret: HashMap<String, String>,
    queued: Vec<Queued>,
    dead: Vec<Queued>,
    published: Vec<Value>,
}

/// A fault that waits for its request.
#[derive(Debug)]
struct Ordered {
    step: Step,
    /// How many requests of the step go by before.
    after: usize,
    times: usize,
    fault: Fault,
}

/// A message in the queue.
#[derive(Clone, Debug)]
pub struct Queued {
    pub id: String,
    pub body: String,
    pub receives: usize,
}

/// How often SQS delivers a message before it goes to the dead-letter queue.
const MAX_RECEIVES: usize = 3;

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
        self.inner.lock().unwrap().faults.push(Ordered { step, after: 0, times, fault });
    }

    /// The `nth` request of this step from now on, counted from 1, meets this fault.
    pub fn fault_at(&self, step: Step, nth: usize, fault: Fault) {
        self.inner.lock().unwrap().faults.push(Ordered { step, after: nth - 1, times: 1, fault });
    }

    /// The next request of this step waits at the gate.
    pub fn hold(&self, step: Step) -> Gate {
        let gate = Gate::new();
        self.fault(step, 1, Fault::Hold(gate.clone()));
        gate
    }

    /// The next request of this step is carried out, and its answer waits at the gate.
    pub fn hold_answer(&self, step: Step) -> Gate {
        let gate = Gate::new();
        self.fault(step, 1, Fault::HoldAnswer(gate.clone()));
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

    /// How many requests came, of whatever kind.
    pub fn requests(&self) -> usize {
        self.inner.lock().unwrap().requests
    }

    /// How many requests to write came.
    pub fn writes(&self) -> usize {
        [Step::Acquire, Step::Save, Step::Settle].map(|step| self.count(step)).iter().sum()
    }

    /// What Secrets Manager holds; none, if there is no such secret.
    pub fn set_secret(&self, secret: Option<&str>) {
        self.set_version("AWSCURRENT", secret);
    }

    /// What Secrets Manager holds in one of the secret's versions.
    pub fn set_version(&self, stage: &str, secret: Option<&str>) {
        let versions = &mut self.inner.lock().unwrap().secret;
        match secret {
            Some(text) => versions.insert(stage.into(), text.into()),
            None => versions.remove(stage),
        };
    }

    /// The texts of the messages that wait in the queue.
    pub fn queued(&self) -> Vec<String> {
        self.inner.lock().unwrap().queued.iter().map(|message| message.body.clone()).collect()
    }

    /// How many messages ended in the dead-letter queue.
    pub fn dead(&self) -> usize {
        self.inner.lock().unwrap().dead.len()
    }

    /// Puts a message into the queue.
    pub fn enqueue(&self, body: &str) {
        let message = Queued { id: uuid::Uuid::new_v4().to_string(), body: body.into(), receives: 0 };
        self.inner.lock().unwrap().queued.push(message);
    }

    /// Takes all that waits in the queue, as SQS delivers it.
    pub fn receive(&self) -> Vec<Queued> {
        let mut messages = std::mem::take(&mut self.inner.lock().unwrap().queued);
        for message in &mut messages {
            message.receives += 1;
        }
        messages
    }

    /// Puts messages that were not done back into the queue, or into the dead-letter queue.
    pub fn return_to_queue(&self, messages: impl Iterator<Item = Queued>) {
        let inner = &mut *self.inner.lock().unwrap();
        for message in messages {
            if message.receives < MAX_RECEIVES {
                inner.queued.push(message);
            } else {
                inner.dead.push(message);
            }
        }
    }

    /// The entries that were published, as detail type and detail.
    pub fn published(&self) -> Vec<(String, Value)> {
        let inner = self.inner.lock().unwrap();
        let entry = |entry: &Value| {
            assert_eq!(entry["Source"], "tiktok.shop.tokens");
            let detail = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
            (entry["DetailType"].as_str().unwrap().to_owned(), detail)
        };
        inner.published.iter().map(entry).collect()
    }

    fn take_messages(&self, body: &Value, refuse: usize) -> Response {
        if let Some(message) = body["MessageBody"].as_str() {
            self.enqueue(message);
            return axum::Json(json!({"MessageId": "m", "MD5OfMessageBody": "d"})).into_response();
        }
        let (mut taken, mut failed) = (Vec::new(), Vec::new());
        for (n, entry) in body["Entries"].as_array().unwrap().iter().enumerate() {
            if n < refuse {
                failed.push(json!({"Id": entry["Id"], "Code": "InternalError", "SenderFault": false}));
            } else {
                self.enqueue(entry["MessageBody"].as_str().unwrap());
                taken.push(json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "d"}));
            }
        }
        axum::Json(json!({"Successful": taken, "Failed": failed})).into_response()
    }

    fn meets(&self, step: Step) -> Option<Fault> {
        let mut inner = self.inner.lock().unwrap();
        inner.seen.push(step);
        for ordered in inner.faults.iter_mut().filter(|ordered| ordered.step == step && ordered.times > 0) {
            if ordered.after > 0 {
                ordered.after -= 1;
            } else {
                ordered.times -= 1;
                return Some(ordered.fault.clone());
            }
        }
        None
    }
}

fn step(target: &str, body: &[u8]) -> Option<Step> {
    let body = String::from_utf8_lossy(body);
    match target.rsplit('.').next()? {
        "Scan" => Some(Step::Scan),
        "Query" => Some(Step::Query),
        "GetItem" => Some(Step::Read),
        "GetSecretValue" => Some(Step::Secret),
        "SendMessage" | "SendMessageBatch" => Some(Step::Queue),
        "PutEvents" => Some(Step::Publish),
        "UpdateItem" if body.contains("SET lock_owner = :me") => Some(Step::Acquire),
        "UpdateItem" if body.contains("last_refreshed_at = :") => Some(Step::Save),
        "UpdateItem" => Some(Step::Settle),
        _ => None,
    }
}

async fn answer(State(aws): State<Aws>, headers: HeaderMap, body: Bytes) -> Response {
    aws.inner.lock().unwrap().requests += 1;
    let target = headers["x-amz-target"].to_str().unwrap().to_owned();
    let step = step(&target, &body);
    let fault = step.and_then(|step| aws.meets(step));
    match &fault {
        Some(Fault::Refuse(status, code)) => return error(*status, code),
        Some(Fault::Hold(gate)) => gate.pass().await,
        Some(Fault::Drop) => return cut_off(Vec::new()),
        Some(Fault::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(
            Fault::LoseAnswer
            | Fault::HoldAnswer(_)
            | Fault::RefuseEntries(_)
            | Fault::Cut
            | Fault::Stall
            | Fault::Duplicate,
        )
        | None => {}
    }
    let json = || serde_json::from_slice::<Value>(&body).unwrap();
    match step {
        Some(Step::Secret) => {
            let stage = json()["VersionStage"].as_str().unwrap_or("AWSCURRENT").to_owned();
            return match aws.inner.lock().unwrap().secret.get(&stage) {
                None => error(400, "ResourceNotFoundException"),
                Some(text) => {
                    axum::Json(json!({"ARN": "a", "Name": "n", "SecretString": text})).into_response()
                }
            };
        }
        Some(Step::Queue) => {
            let refuse = if let Some(Fault::RefuseEntries(refuse)) = fault { refuse } else { 0 };
            let answer = aws.take_messages(&json(), refuse);
            if let Some(Fault::HoldAnswer(gate)) = fault {
                gate.pass().await;
            }
            return answer;
        }
        Some(Step::Publish) => {
            let entries = json()["Entries"].as_array().unwrap().clone();
            if let Some(Fault::RefuseEntries(_)) = fault {
                let refused =
                    json!({"ErrorCode": "ThrottlingException", "ErrorMessage": "as the test ordered"});
                return axum::Json(json!({"FailedEntryCount": 1, "Entries": [refused]})).into_response();
            }
            let ids: Vec<Value> = entries.iter().map(|_| json!({"EventId": "e"})).collect();
            aws.inner.lock().unwrap().published.extend(entries);
            return axum::Json(json!({"FailedEntryCount": 0, "Entries": ids})).into_response();
        }
        _ => {}
    }
    let url = format!("http://{}/", aws.dynamodb);
    let pass_on = || aws.http.post(&url).headers(headers.clone()).body(body.clone()).send();
    if let Some(Fault::Duplicate) = fault {
        pass_on().await.unwrap();
    }
    let passed_on = pass_on().await.unwrap();
    let (status, headers, body) =
        (passed_on.status(), passed_on.headers().clone(), passed_on.bytes().await.unwrap());
    match fault {
        Some(Fault::LoseAnswer) => error(500, "InternalServerError"),
        Some(Fault::Cut) => cut_off(body[..body.len() / 2].to_vec()),
        Some(Fault::Stall) => {
            let beginning = Ok::<_, std::io::Error>(body.slice(..body.len() / 2));
            let never = futures_util::stream::pending();
            let parts = futures_util::stream::iter([beginning]).chain(never);
            (status, headers, Body::from_stream(parts)).into_response()
        }
        Some(Fault::HoldAnswer(gate)) => {
            gate.pass().await;
            (status, headers, body).into_response()
        }
        _ => (status, headers, body).into_response(),
    }
}

/// An answer that ends in the middle of its body, as the connection is closed.
fn cut_off(beginning: Vec<u8>) -> Response {
    let parts = [Ok(beginning), Err(std::io::Error::other("cut"))];
    Body::from_stream(futures_util::stream::iter(parts)).into_response()
}

fn error(status: u16, code: &str) -> Response {
    let body: Value = json!({ "__type": format!("com.amazonaws#{code}"), "message": "as the test ordered" });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}
