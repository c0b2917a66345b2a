//! What `ensure` costs an application: its fast path beside a bare GetItem through the same SDK, and 50 callers in 8
//! environments who all need one dead token.
//!
//! `cargo bench --features local --bench ensure`

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, reason = "it prints its table")]

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::{
    Client,
    config::Credentials,
    types::AttributeValue::{self, N, S},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tiktok_token_refresh::{
    domain::{clock::Clock, secret::AppCredentials},
    handler::Function,
    local::{dynamodb, tiktok::TikTokStandIn},
    settings::Settings,
};
use tokio::{net::TcpListener, task::JoinSet};

const TABLE: &str = "integrations";
const EVENT: &str = r#"{"action":"ensure","team_id":"1","integration_id":"7"}"#;
const READS: usize = 2_000;
const CALLERS: usize = 50;
const ENVIRONMENTS: usize = 8;
/// How long TikTok Shop takes to answer, as `infra/README.md` assumes.
const LATENCY: Duration = Duration::from_millis(300);
const REPETITIONS: usize = 5;

struct Bench {
    clock: Clock,
    tiktok: TikTokStandIn,
    url: String,
    sdk: SdkConfig,
    table: Client,
}

#[tokio::main]
async fn main() {
    let bench = Bench::start().await;
    bench.print_fast_path().await;
    bench.print_crowd().await;
}

impl Bench {
    async fn start() -> Self {
        let clock = Clock::system();
        let app = AppCredentials { app_key: "29a39d".into(), app_secret: "bench".to_owned().into() };
        let tiktok = TikTokStandIn::new(vec![app], clock.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(tiktok.clone().serve(listener));
        let address = dynamodb::serve(None).await.unwrap();
        let sdk = tiktok_token_refresh::aws::config()
            .endpoint_url(format!("http://{address}"))
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("bench", "bench", None, None, "bench"))
            .load()
            .await;
        let table = Client::new(&sdk);
        dynamodb::create_table(&table, TABLE).await.unwrap();
        Self { clock, tiktok, url, sdk, table }
    }

    /// A warm environment of the function.
    fn function(&self) -> Arc<Function> {
        let settings = Settings::parse(|name| match name {
            "TABLE_NAME" => Some(TABLE.into()),
            "TIKTOK_SHOP_APP_KEY" => Some("29a39d".into()),
            "TIKTOK_SHOP_APP_SECRET" => Some("bench".into()),
            "TIKTOK_AUTH_URL" | "TIKTOK_API_URL" => Some(self.url.clone()),
            _ => None,
        });
        Arc::new(Function::new(settings.unwrap(), &self.sdk, self.clock.clone(), Arc::new(|_: &str| {})))
    }

    /// Stores the row, whose access token expires in so many seconds.
    async fn put(&self, expires_in: i64) {
        let pair = self.tiktok.authorize("7495", "Bánh Mì 25");
        let at = |seconds: i64| N((self.clock.now().timestamp() + seconds).to_string());
        let text = |text: &str| S(text.to_owned());
        let scopes = ["seller.authorization.info", "seller.order.info"].map(text);
        let shop = [("id", "7495"), ("name", "Bánh Mì 25"), ("region", "VN"), ("cipher", "ROW_local")];
        let shop = AttributeValue::M(shop.map(|(name, value)| (name.to_owned(), text(value))).into());
        let item = [
            ("team_id", text("1")),
            ("integration_id", text("7")),
            ("status", text("active")),
            ("app_key", text("29a39d")),
            ("access_token", text(&pair.access_token)),
            ("refresh_token", text(&pair.refresh_token)),
            ("access_token_expires_at", at(expires_in)),
            ("refresh_token_expires_at", at(9_000_000)),
            ("last_refreshed_at", at(-90_000)),
            ("open_id", text("7495")),
            ("seller_name", text("Bánh Mì 25")),
            ("granted_scopes", AttributeValue::L(scopes.to_vec())),
            ("authorized_shops", AttributeValue::L(vec![shop])),
        ];
        let item = item.map(|(name, value)| (name.to_owned(), value)).into();
        self.table.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
    }

    async fn get(&self) {
        let get = self.table.get_item().table_name(TABLE).consistent_read(true);
        let get = get.key("team_id", S("1".into())).key("integration_id", S("7".into()));
        assert!(get.send().await.unwrap().item.is_some());
    }

    /// Both are measured in turn, so that the machine's moods hit both.
    async fn print_fast_path(&self) {
        self.put(86_400).await;
        let function = self.function();
        let ensure = async || assert_eq!(outcome(&function, &self.clock).await, "valid");
        for _ in 0..100 {
            self.get().await;
            ensure().await;
        }
        let (mut bare, mut fast) = (Vec::new(), Vec::new());
        for _ in 0..READS {
            let began = Instant::now();
            self.get().await;
            bare.push(began.elapsed());
            let began = Instant::now();
            ensure().await;
            fast.push(began.elapsed());
        }
        let [bare, fast] = [bare, fast].map(|mut times: Vec<Duration>| {
            times.sort();
            times[times.len() / 2]
        });
        let [bare, fast] = [bare, fast].map(|time| time.as_secs_f64() * 1e3);
        let ratio = fast / bare;
        println!("| median of {READS} | time, ms | / GetItem |\n|---|---:|---:|");
        println!("| a consistent GetItem | {bare:.3} | 1.00 |");
        println!("| `ensure` of a valid token | {fast:.3} | {ratio:.2} |\n");
        assert!(ratio <= 1.3, "the fast path adds too much to its one read");
    }

    async fn print_crowd(&self) {
        self.tiktok.latency(LATENCY);
        println!(
            "{CALLERS} callers in {ENVIRONMENTS} environments need one dead token, and TikTok Shop answers in {LATENCY:?}.\n"
        );
        println!(
            "| run | redemptions | the last caller is served after, ms | beyond TikTok's latency, ms |\n|---:|---:|---:|---:|"
        );
        for run in 1..=REPETITIONS {
            self.put(-60).await;
            let before = self.tiktok.all_calls();
            let environments: Vec<_> = (0..ENVIRONMENTS).map(|_| self.function()).collect();
            let began = Instant::now();
            let mut callers = JoinSet::new();
            for n in 0..CALLERS {
                let (function, clock) = (environments[n % ENVIRONMENTS].clone(), self.clock.clone());
                callers.spawn(async move { outcome(&function, &clock).await });
            }
            let outcomes = callers.join_all().await;
            let last = began.elapsed();
            let refreshed = outcomes.iter().filter(|outcome| *outcome == "refreshed").count();
            let waited = outcomes.iter().filter(|outcome| *outcome == "refreshed_by_another").count();
            assert!(refreshed == 1 && refreshed + waited <= CALLERS, "{outcomes:?}");
            let redemptions = self.tiktok.all_calls() - before;
            assert_eq!(redemptions, 1);
            let beyond = last.saturating_sub(LATENCY);
            println!("| {run} | {redemptions} | {} | {} |", last.as_millis(), beyond.as_millis());
            assert!(beyond < Duration::from_secs(1), "the last one waits too long");
        }
    }
}

async fn outcome(function: &Function, clock: &Clock) -> String {
    let deadline = clock.now() + chrono::TimeDelta::minutes(1);
    let answer = function.handle(EVENT, deadline).await.unwrap();
    let answer: Value = serde_json::to_value(&answer).unwrap();
    assert_eq!(answer["valid"], json!(true), "{answer}");
    answer["outcome"].as_str().unwrap().to_owned()
}
