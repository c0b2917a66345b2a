//! The floor: a function that makes the three HTTP exchanges of each refresh (lease, refresh, save) through the same crates,
//! as many at a time, and nothing else. It scans no table, reads no answer and keeps no protocol.
//!
//! Its event is `{"rows": 1000, "concurrency": 32}`. It ignores every other event.

#![allow(clippy::pedantic, clippy::unwrap_used, reason = "a measurement, not a program")]

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{
        AttributeValue::{self, L, N, S},
        ReturnValue, ReturnValuesOnConditionCheckFailure,
    },
};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;
use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::task::JoinSet;

const LEASE: &str = "SET lock_owner = :me, lock_expires_at = :until";
const IF_FREE: &str = "#status = :active AND attribute_type(refresh_token, :string) AND refresh_token <> :empty AND \
    (attribute_not_exists(refresh_token_expires_at) OR refresh_token_expires_at > :now OR refresh_token_expires_at <= \
    :zero) AND (attribute_not_exists(lock_expires_at) OR lock_expires_at <= :now) AND \
    (attribute_not_exists(access_token) OR access_token = :empty OR attribute_not_exists(access_token_expires_at) OR \
    access_token_expires_at <= :due OR access_token_expires_at > :believed)";
const SAVE: &str = "SET access_token = :s0, last_refreshed_at = :s1, access_token_expires_at = :s2, refresh_token = :s3, \
    refresh_token_expires_at = :s4, open_id = :s5, seller_name = :s6, seller_base_region = :s7, granted_scopes = :s8 \
    REMOVE lock_owner, lock_expires_at, error_code, error_message, error_at, consecutive_failures";
const IF_UNCHANGED: &str =
    "attribute_exists(team_id) AND refresh_token = :c0 AND access_token = :c1 AND #status = :c2";
const NOW: &str = "1795399200";
const TOKEN: &str = "TTR_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let dynamodb = &Client::new(&tiktok_token_refresh::aws::config().load().await);
    run(service_fn(move |event: LambdaEvent<Value>| async move {
        let [rows, concurrency] = ["rows", "concurrency"].map(|name| event.payload[name].as_u64());
        if let Some((rows, concurrency)) = rows.zip(concurrency) {
            exchange(dynamodb, rows, concurrency).await;
        }
        Ok::<_, Error>(())
    }))
    .await
}

async fn exchange(dynamodb: &Client, rows: u64, concurrency: u64) {
    #[expect(clippy::disallowed_methods, reason = "a program of its own, without settings")]
    let url: Arc<str> = format!("{}/api/v2/token/refresh", env::var("TIKTOK_AUTH_URL").unwrap()).into();
    let (http, next) = (reqwest::Client::new(), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (dynamodb, http, url, next) = (dynamodb.clone(), http.clone(), url.clone(), next.clone());
        workers.spawn(async move {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= rows {
                    break;
                }
                lease(&dynamodb, row).send().await.unwrap();
                let query = [
                    ("app_key", "29a39d"),
                    ("app_secret", "bench"),
                    ("refresh_token", TOKEN),
                    ("grant_type", "refresh_token"),
                ];
                http.get(&*url).query(&query).send().await.unwrap().bytes().await.unwrap();
                save(&dynamodb, row).send().await.unwrap();
            }
        });
    }
    workers.join_all().await;
}

fn lease(dynamodb: &Client, row: u64) -> UpdateItemFluentBuilder {
    let me = format!("bf740066-3b4d-4407-a3c1-680d5819d158-{row}");
    let texts = [(":me", me.as_str()), (":active", "active"), (":string", "S"), (":empty", "")];
    let numbers = [(":until", NOW), (":now", NOW), (":due", NOW), (":believed", NOW), (":zero", "0")];
    let texts = texts.map(|(name, text)| (name, S(text.to_owned())));
    let values = texts.into_iter().chain(numbers.map(|(name, number)| (name, N(number.to_owned()))));
    update(dynamodb, row, LEASE, IF_FREE, values).return_values(ReturnValue::AllOld)
}

fn save(dynamodb: &Client, row: u64) -> UpdateItemFluentBuilder {
    let scopes = ["seller.authorization.info", "seller.order.info"].map(|scope| S(scope.to_owned()));
    let tokens = [":s0", ":s3", ":c0", ":c1"].map(|name| (name, S(TOKEN.to_owned())));
    let texts = [(":s5", "7495"), (":s6", "Bánh Mì 25"), (":s7", "VN"), (":c2", "active")];
    let texts = texts.map(|(name, text)| (name, S(text.to_owned())));
    let numbers = [":s1", ":s2", ":s4"].map(|name| (name, N(NOW.to_owned())));
    let values = tokens.into_iter().chain(texts).chain(numbers).chain([(":s8", L(scopes.to_vec()))]);
    update(dynamodb, row, SAVE, IF_UNCHANGED, values)
}

fn update(
    dynamodb: &Client,
    row: u64,
    expression: &str,
    condition: &str,
    values: impl Iterator<Item = (&'static str, AttributeValue)>,
) -> UpdateItemFluentBuilder {
    dynamodb
        .update_item()
        .table_name("integrations")
        .key("team_id", S(format!("team-{}", row / 10)))
        .key("integration_id", S(row.to_string()))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .update_expression(expression)
        .condition_expression(condition)
        .expression_attribute_names("#status", "status")
        .set_expression_attribute_values(Some(values.map(|(name, value)| (name.to_owned(), value)).collect()))
}
