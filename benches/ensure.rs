//! What `ensure` costs an application: its fast path beside a bare GetItem through the same SDK, and 50 callers in 8
//! environments who all need one dead token.
//!
//! `cargo bench --features local --bench ensure [-- --write | --quick]`

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its table, and nothing uses it")]

mod common;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::{
    Client,
    config::Credentials,
    types::AttributeValue::{self, N, S},
};
use common::report::{self, Goal, Report, grouped, median, table};
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
const CALLERS: usize = 50;
const ENVIRONMENTS: usize = 8;
/// How long TikTok Shop takes to answer, as `infra/README.md` assumes.
const LATENCY: Duration = Duration::from_millis(300);

struct Bench {
    clock: Clock,
    tiktok: TikTokStandIn,
    url: String,
    sdk: SdkConfig,
    table: Client,
}

#[tokio::main]
async fn main() {
    let report = Report::start("ensure");
    let (reads, repetitions) = if report.quick { (100, 1) } else { (2_000, 5) };
    let bench = Bench::start().await;
    let [bare, fast] = bench.fast_path(reads).await;
    let mut last = Duration::ZERO;
    for _ in 0..repetitions {
        last = last.max(bench.crowd().await);
    }
    let reads = grouped(reads);
    let row =
        |name: &str, time: f64| vec![name.to_owned(), format!("{time:.3}"), format!("{:.2}", time / bare)];
    let rows = [row("a consistent GetItem", bare), row("`ensure` of a valid token", fast)];
    let reads = table(1, &[&format!("median of {reads}"), "time, ms", "/ GetItem"], &rows);
    let goals = report::goals(&[
        Goal {
            name: "`ensure` of a valid token / GetItem".into(),
            limit: 1.3,
            unit: "",
            measured: Some(fast / bare),
        },
        Goal {
            name: format!(
                "wait of the last of {CALLERS} callers, in {ENVIRONMENTS} environments, who need one dead token, beyond TikTok \
                 Shop's {} ms: worst of {repetitions}",
                LATENCY.as_millis()
            ),
            limit: 1000.0,
            unit: "ms",
            measured: Some(last.saturating_sub(LATENCY).as_secs_f64() * 1e3),
        },
    ]);
    report.finish(&[reads, goals]);
}

impl Bench {
    async fn start() -> Self {
        let clock = Clock::system();
        let app =
            AppCredentials { app_key: "29a39d".into(), app_secret: "bench".to_owned().into(), service: None };
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

    /// Milliseconds of a bare read and of `ensure`. Both are measured in turn, so that the machine's moods hit both.
    async fn fast_path(&self, reads: usize) -> [f64; 2] {
        self.put(86_400).await;
        let function = self.function();
        let ensure = async || assert_eq!(outcome(&function, &self.clock).await, "valid");
        for _ in 0..100 {
            self.get().await;
            ensure().await;
        }
        let (mut bare, mut fast) = (Vec::new(), Vec::new());
        for _ in 0..reads {
            let began = Instant::now();
            self.get().await;
            bare.push(began.elapsed());
            let began = Instant::now();
            ensure().await;
            fast.push(began.elapsed());
        }
        [bare, fast].map(|times| median(times.iter().map(|time| time.as_secs_f64() * 1e3)))
    }

    /// How long it takes until the last of the callers is served.
    async fn crowd(&self) -> Duration {
        self.tiktok.latency(LATENCY);
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
        assert_eq!((refreshed, self.tiktok.all_calls() - before), (1, 1), "one redemption: {outcomes:?}");
        last
    }
}

async fn outcome(function: &Function, clock: &Clock) -> String {
    let deadline = clock.now() + chrono::TimeDelta::minutes(1);
    let answer = function.handle(EVENT, deadline).await.unwrap();
    let answer: Value = serde_json::to_value(&answer).unwrap();
    assert_eq!(answer["valid"], json!(true), "{answer}");
    answer["outcome"].as_str().unwrap().to_owned()
}
