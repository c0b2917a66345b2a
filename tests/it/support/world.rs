//! One table, one TikTok Shop, one function and a clock that only the test moves.

use super::{
    aws::{Aws, Gate, Step},
    logs,
};
use aws_sdk_dynamodb::{
    Client,
    config::{Credentials, Region},
    types::AttributeValue,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};
use tiktok_token_refresh::{
    domain::retry_policy::RetryPolicy,
    domain::{clock::Clock, secret::AppCredentials},
    handler::{Function, InvocationError},
    local::{
        dynamodb,
        tiktok::{Pair, TikTokStandIn},
    },
    settings::Settings,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// When the tests take place: 2026-11-23T02:00:00Z.
pub const NIGHT: i64 = 1_795_399_200;
pub const TABLE: &str = "integrations";
pub const APP_KEY: &str = "29a39d";
/// Searched for in everything that the function says.
pub const APP_SECRET: &str = "app-secret-e59af819cc";
/// What no text of the function's may hold: the beginnings of all tokens, and all secrets.
pub const SECRETS: [&str; 4] = ["TTP_", "TTR_", "TTC_", "app-secret"];

/// For a test in which TikTok does not answer.
pub const IMPATIENT: (&str, &str) = ("TIKTOK_TIMEOUT", "1s");

pub fn minutes(n: i64) -> TimeDelta {
    TimeDelta::minutes(n)
}

pub fn hours(n: i64) -> TimeDelta {
    TimeDelta::hours(n)
}

pub fn days(n: i64) -> TimeDelta {
    TimeDelta::days(n)
}

pub fn app(key: &str, secret: &str) -> AppCredentials {
    AppCredentials { app_key: key.into(), app_secret: secret.to_owned().into(), service: None }
}

/// One integration of the world's.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "the ids are what a shop is to a test")]
pub struct Shop {
    pub team_id: String,
    pub integration_id: String,
    pub open_id: String,
}

pub struct World {
    pub aws: Aws,
    pub tiktok: TikTokStandIn,
    pub table: Client,
    pub function: Arc<Function>,
    pub team: String,
    pub clock: Clock,
    time: Arc<AtomicI64>,
    panics: Arc<AtomicBool>,
    emitted: Arc<Mutex<Vec<String>>>,
    settings: HashMap<&'static str, String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = logs::text();
            for secret in SECRETS {
                let leak = log.lines().find(|line| line.contains(secret));
                assert_eq!(leak, None, "a secret was logged");
            }
        }
    }
}

impl World {
    /// A world with the usual settings.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A world with settings of its own.
    pub async fn with(settings: &[(&'static str, &str)]) -> Self {
        logs::listen();
        let time = Arc::new(AtomicI64::new(NIGHT));
        let panics = Arc::new(AtomicBool::new(false));
        let clock = {
            let (time, panics) = (time.clone(), panics.clone());
            Clock::new(move || {
                let ordered = tokio::task::try_id().is_some() && panics.swap(false, Ordering::SeqCst);
                assert!(!ordered, "as the test ordered");
                DateTime::from_timestamp(time.load(Ordering::SeqCst), 0).unwrap()
            })
        };
        let tiktok = TikTokStandIn::new(vec![app(APP_KEY, APP_SECRET)], clock.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(tiktok.clone().serve(listener));
        let address = dynamodb::serve(None).await.unwrap();
        let aws = Aws::start(address).await;
        aws.set_secret(Some(&json!({"app_key": APP_KEY, "app_secret": APP_SECRET}).to_string()));
        let table = Client::new(&sdk(&format!("http://{address}")).await);
        dynamodb::create_table(&table, TABLE).await.unwrap();
        let mut all: HashMap<&str, String> = HashMap::from([
            ("TABLE_NAME", TABLE.into()),
            ("APP_CREDENTIALS_SECRET_ID", "apps".into()),
            ("TIKTOK_AUTH_URL", url.clone()),
            ("TIKTOK_API_URL", url),
            // Longer than any machine is slow: a test that means a time-out sets it.
            ("TIKTOK_TIMEOUT", "20s".into()),
            ("MAX_REQUESTS_PER_SECOND", "10000".into()),
        ]);
        all.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let emitted = Arc::default();
        let function = function(&all, &aws, &clock, &emitted).await;
        let team = format!("team-{}", uuid::Uuid::new_v4().simple());
        Self { aws, tiktok, table, function, team, clock, time, panics, emitted, settings: all }
    }

    /// Another warm environment of the same function.
    pub async fn another_function(&self) -> Arc<Function> {
        function(&self.settings, &self.aws, &self.clock, &self.emitted).await
    }

    /// Another warm environment, with this configuration of the AWS SDK.
    pub fn function_with(&self, sdk: &aws_config::SdkConfig) -> Arc<Function> {
        function_with(&self.settings, sdk, &self.clock, &self.emitted)
    }

    /// Another warm environment, with another time-out of TikTok's.
    pub async fn function_with_call_timeout(&self, timeout: &str) -> Arc<Function> {
        self.function_with_setting("TIKTOK_TIMEOUT", timeout).await
    }

    /// Another warm environment, with one setting of its own.
    pub async fn function_with_setting(&self, name: &'static str, value: &str) -> Arc<Function> {
        let mut settings = self.settings.clone();
        settings.insert(name, value.into());
        function(&settings, &self.aws, &self.clock, &self.emitted).await
    }

    /// One of the world's settings.
    pub fn setting(&self, name: &str) -> String {
        self.settings[name].clone()
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The next task that asks for the time panics: a refresh, unless another task is quicker.
    pub fn panic_in_the_next_task(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Sets the world's clock to the system's, for a test whose function reads that one: TikTok and the rows must agree
    /// with the function, on whatever day the test runs.
    pub fn go_by_the_system_clock(&self) {
        self.time.store(Clock::system().now().timestamp(), Ordering::SeqCst);
    }

    /// Lets time pass.
    pub fn pass(&self, time: TimeDelta) {
        self.time.fetch_add(time.num_seconds(), Ordering::SeqCst);
    }

    /// When an invocation that begins now must end.
    pub fn deadline(&self) -> DateTime<Utc> {
        self.now() + minutes(15)
    }

    /// Invokes the function with an event.
    pub async fn invoke(&self, event: &Value) -> Result<Value, InvocationError> {
        invoke(&self.function, event, self.deadline()).await
    }

    /// The answer to a refresh that as a whole is done.
    pub async fn refresh(&self, event: Value) -> Value {
        self.invoke(&event).await.expect("the run as a whole is done")
    }

    /// The answer to a plain refresh of everything.
    pub async fn refresh_all(&self) -> Value {
        self.refresh(json!({})).await
    }

    /// Begins a refresh of everything, which stops at the gate before a step.
    pub async fn refresh_until(&self, step: Step) -> Underway {
        let gate = self.aws.hold(step);
        let (function, deadline) = (self.function.clone(), self.deadline());
        let run = tokio::spawn(async move { invoke(&function, &json!({}), deadline).await });
        gate.reached().await;
        Underway { gate, run }
    }

    /// Delivers all that waits in the queue to the function, as SQS does, and takes back what was not done.
    pub async fn deliver(&self) -> Value {
        self.deliver_by(self.deadline()).await
    }

    /// Delivers all that waits in the queue, for an invocation that must end by `deadline`.
    pub async fn deliver_by(&self, deadline: DateTime<Utc>) -> Value {
        let messages = self.aws.receive();
        let record = |message: &super::aws::Queued| {
            json!({"messageId": message.id, "receiptHandle": "h", "body": message.body, "attributes": {},
                   "messageAttributes": {}, "md5OfBody": "d", "eventSource": "aws:sqs",
                   "eventSourceARN": "arn:aws:sqs:us-east-1:1:q", "awsRegion": "us-east-1"})
        };
        let event = json!({"Records": messages.iter().map(record).collect::<Vec<_>>()});
        let answer =
            invoke(&self.function, &event, deadline).await.expect("a queue event is always answered");
        let failed = |message: &super::aws::Queued| {
            let failures = answer["batchItemFailures"].as_array().unwrap();
            failures.iter().any(|failure| failure["itemIdentifier"] == message.id.as_str())
        };
        self.aws.return_to_queue(messages.into_iter().filter(failed));
        answer
    }

    /// The single integration in the answer to a plain refresh.
    pub async fn outcome(&self) -> Value {
        let answer = self.refresh_all().await;
        assert_eq!(answer["counts"]["examined"], 1);
        answer["integrations"][0].clone()
    }

    /// The lines for CloudWatch's metrics.
    pub fn metrics(&self) -> Vec<Value> {
        let lines = self.emitted.lock().unwrap();
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// An integration to be inserted: healthy, unless the test says otherwise.
    pub fn integration(&self) -> NewIntegration<'_> {
        let next = uuid::Uuid::new_v4().simple().to_string();
        let attributes = BTreeMap::from([
            ("status", AttributeValue::S("active".into())),
            ("note", AttributeValue::S("the user's own".into())),
        ]);
        NewIntegration { world: self, team_id: self.team.clone(), integration_id: next, attributes }
            .expiring_in(days(6))
            .refreshable_for(days(300))
    }

    /// The stored row, attribute by attribute.
    pub async fn row(&self, shop: &Shop) -> BTreeMap<String, AttributeValue> {
        self.find(shop).await.expect("the row is there")
    }

    pub async fn find(&self, shop: &Shop) -> Option<BTreeMap<String, AttributeValue>> {
        let get = self.table.get_item().table_name(TABLE).consistent_read(true);
        let get = get.key("team_id", AttributeValue::S(shop.team_id.clone()));
        let got =
            get.key("integration_id", AttributeValue::S(shop.integration_id.clone())).send().await.unwrap();
        got.item.map(|item| item.into_iter().collect())
    }

    /// One stored string.
    pub async fn text(&self, shop: &Shop, name: &str) -> Option<String> {
        self.row(shop).await.get(name).and_then(|value| value.as_s().ok()).cloned()
    }

    /// One stored number.
    pub async fn number(&self, shop: &Shop, name: &str) -> Option<i64> {
        self.row(shop).await.get(name).and_then(|value| value.as_n().ok()).map(|n| n.parse().unwrap())
    }

    /// The stored tokens.
    pub async fn stored_pair(&self, shop: &Shop) -> Option<Pair> {
        Some(Pair {
            access_token: self.text(shop, "access_token").await?,
            refresh_token: self.text(shop, "refresh_token").await?,
        })
    }

    /// The tokens that TikTok gave last.
    pub fn granted_pair(&self, shop: &Shop) -> Option<Pair> {
        self.tiktok.last_pair(&shop.open_id)
    }

    /// Somebody else writes attributes into a row.
    pub async fn write(&self, shop: &Shop, attributes: &[(&str, AttributeValue)]) {
        let mut item = self.row(shop).await;
        item.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let put = self.table.put_item().table_name(TABLE).set_item(Some(item.into_iter().collect()));
        put.send().await.unwrap();
    }

    /// Somebody else removes an attribute of a row.
    pub async fn remove(&self, shop: &Shop, name: &str) {
        let mut item = self.row(shop).await;
        item.remove(name);
        let put = self.table.put_item().table_name(TABLE).set_item(Some(item.into_iter().collect()));
        put.send().await.unwrap();
    }

    /// The user deletes a row.
    pub async fn delete(&self, shop: &Shop) {
        let delete = self.table.delete_item().table_name(TABLE);
        let delete = delete.key("team_id", AttributeValue::S(shop.team_id.clone()));
        delete.key("integration_id", AttributeValue::S(shop.integration_id.clone())).send().await.unwrap();
    }

    /// The whole table.
    pub async fn everything(&self) -> Vec<BTreeMap<String, AttributeValue>> {
        let pages = self.table.scan().table_name(TABLE).into_paginator().items().send();
        let items = pages.try_collect().await.unwrap();
        let mut rows: Vec<BTreeMap<_, _>> =
            items.into_iter().map(|item| item.into_iter().collect()).collect();
        rows.sort_by_key(|row| format!("{:?}{:?}", row["team_id"], row["integration_id"]));
        rows
    }
}

/// A refresh that waits at a gate.
pub struct Underway {
    gate: Gate,
    run: JoinHandle<Result<Value, InvocationError>>,
}

impl Underway {
    /// Lets it go on to its end.
    pub async fn go_on(self) -> Value {
        self.gate.open();
        self.run.await.unwrap().expect("the run as a whole is done")
    }

    /// Kills it where it stands.
    pub async fn kill(self) {
        self.run.abort();
        self.run.await.unwrap_err();
    }
}

pub struct NewIntegration<'a> {
    world: &'a World,
    team_id: String,
    integration_id: String,
    attributes: BTreeMap<&'static str, AttributeValue>,
}

impl NewIntegration<'_> {
    pub fn team(mut self, team_id: &str) -> Self {
        self.team_id = team_id.into();
        self
    }

    pub fn id(mut self, integration_id: &str) -> Self {
        self.integration_id = integration_id.into();
        self
    }

    pub fn expiring_in(self, time: TimeDelta) -> Self {
        let at = (self.world.now() + time).timestamp();
        self.number("access_token_expires_at", at)
    }

    pub fn refreshable_for(self, time: TimeDelta) -> Self {
        let at = (self.world.now() + time).timestamp();
        self.number("refresh_token_expires_at", at)
    }

    pub fn status(self, status: &str) -> Self {
        self.attribute("status", AttributeValue::S(status.into()))
    }

    pub fn number(self, name: &'static str, number: i64) -> Self {
        self.attribute(name, AttributeValue::N(number.to_string()))
    }

    pub fn text(self, name: &'static str, text: &str) -> Self {
        self.attribute(name, AttributeValue::S(text.into()))
    }

    pub fn leased_for(self, time: TimeDelta) -> Self {
        let at = (self.world.now() + time).timestamp();
        self.text("lock_owner", "somebody-else").number("lock_expires_at", at)
    }

    pub fn attribute(mut self, name: &'static str, value: AttributeValue) -> Self {
        self.attributes.insert(name, value);
        self
    }

    pub fn without(mut self, name: &'static str) -> Self {
        self.attributes.insert(name, AttributeValue::Null(true));
        self
    }

    pub async fn insert(self) -> Shop {
        let open_id = format!("seller-{}-{}", self.team_id, self.integration_id);
        let pair = self.world.tiktok.authorize(&open_id, "Bánh Mì 25");
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let mut item = BTreeMap::from([
            ("team_id", text(&self.team_id)),
            ("integration_id", text(&self.integration_id)),
            ("access_token", text(&pair.access_token)),
            ("refresh_token", text(&pair.refresh_token)),
            ("open_id", text(&open_id)),
        ]);
        for (name, value) in self.attributes {
            match value {
                AttributeValue::Null(_) => item.remove(name),
                value => item.insert(name, value),
            };
        }
        let item = item.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.world.table.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
        Shop { team_id: self.team_id, integration_id: self.integration_id, open_id }
    }
}

/// An integration that is not in the table, unless the test puts it there.
pub fn shop(team_id: &str, integration_id: &str, open_id: &str) -> Shop {
    Shop { team_id: team_id.into(), integration_id: integration_id.into(), open_id: open_id.into() }
}

async fn function(
    settings: &HashMap<&'static str, String>,
    aws: &Aws,
    clock: &Clock,
    emitted: &Arc<Mutex<Vec<String>>>,
) -> Arc<Function> {
    function_with(settings, &sdk(&format!("http://{}", aws.address)).await, clock, emitted)
}

fn function_with(
    settings: &HashMap<&'static str, String>,
    sdk: &aws_config::SdkConfig,
    clock: &Clock,
    emitted: &Arc<Mutex<Vec<String>>>,
) -> Arc<Function> {
    let settings = Settings::parse(|name| settings.get(name).cloned()).unwrap();
    let pace = RetryPolicy {
        call_timeout: settings.tiktok_timeout,
        save_reserve: Duration::from_secs(5),
        call_backoff: Duration::from_millis(2),
        lost_response_wait: Duration::from_millis(2),
        save_backoff: Duration::from_millis(2),
        rescue_after: Duration::from_secs(1),
        save_time_after_rescue: Duration::from_secs(1),
    };
    let ear = emitted.clone();
    let emit = Arc::new(move |line: &str| ear.lock().unwrap().push(line.to_owned()));
    Arc::new(Function::with_retry_policy(settings, sdk, clock.clone(), emit, pace))
}

/// Invokes a function, and sees to it that neither its answer nor its error holds a secret.
pub async fn invoke(
    function: &Function,
    event: &Value,
    deadline: DateTime<Utc>,
) -> Result<Value, InvocationError> {
    let result = function.handle(&event.to_string(), deadline).await;
    let said =
        format!("{result:?} {:?}", result.as_ref().map(|answer| serde_json::to_string(answer).unwrap()));
    let shown = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    for secret in SECRETS {
        assert!(!said.contains(secret) && !shown.contains(secret), "a secret was answered: {said} {shown}");
    }
    result.map(|answer| serde_json::to_value(answer).unwrap())
}

/// The SDK's configuration for AWS at a URL.
pub async fn sdk(url: &str) -> aws_config::SdkConfig {
    tiktok_token_refresh::aws::config()
        .endpoint_url(url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .load()
        .await
}
