//! What the three exchanges of a refresh cost by themselves: the same requests through the same crates, as many at a
//! time, and nothing else. It reads no table, looks at no answer, and keeps no order. It says when it is ready, begins when a
//! line comes in, and says when it is done.

#![allow(
    clippy::unwrap_used,
    clippy::pedantic,
    clippy::print_stdout,
    reason = "a measurement, not a program"
)]

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use std::{
    env,
    io::{self, BufRead},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
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

#[tokio::main(flavor = "current_thread")]
async fn main() {
    #[expect(clippy::disallowed_methods, reason = "a program of its own, without settings")]
    let set = |name: &str| env::var(name).unwrap();
    let (rows, concurrency): (usize, usize) =
        (set("ROWS").parse().unwrap(), set("MAX_CONCURRENCY").parse().unwrap());
    let dynamodb = Client::new(&tiktok_token_refresh::aws::config().load().await);
    let table: Arc<str> = set("TABLE_NAME").into();
    let url = format!("{}/api/v2/token/refresh", set("TIKTOK_AUTH_URL"));
    let next = Arc::new(AtomicUsize::new(0));
    println!("ready");
    io::stdin().lock().read_line(&mut String::new()).unwrap();
    // Not before: what a client reads of the machine belongs to the run that needs it.
    let http = reqwest::Client::new();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (dynamodb, http, next) = (dynamodb.clone(), http.clone(), next.clone());
        let (table, url) = (table.clone(), url.clone());
        workers.spawn(async move {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= rows {
                    break;
                }
                lease(update(&dynamodb, &table, row), row).send().await.unwrap();
                let query = [
                    ("app_key", "29a39d"),
                    ("app_secret", "bench"),
                    ("refresh_token", token()),
                    ("grant_type", "refresh_token"),
                ];
                http.get(&url).query(&query).send().await.unwrap().bytes().await.unwrap();
                save(update(&dynamodb, &table, row)).send().await.unwrap();
            }
        });
    }
    workers.join_all().await;
    println!("done");
    io::stdin().lock().read_line(&mut String::new()).unwrap();
}

fn update(dynamodb: &Client, table: &str, row: usize) -> UpdateItemFluentBuilder {
    dynamodb
        .update_item()
        .table_name(table)
        .key("team_id", s(&format!("team-{}", row / 10)))
        .key("integration_id", s(&row.to_string()))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
}

fn lease(update: UpdateItemFluentBuilder, row: usize) -> UpdateItemFluentBuilder {
    update
        .update_expression(LEASE)
        .condition_expression(IF_FREE)
        .expression_attribute_names("#status", "status")
        .expression_attribute_values(":me", s(&format!("bf740066-3b4d-4407-a3c1-680d5819d158-{row}")))
        .expression_attribute_values(":until", n(NOW))
        .expression_attribute_values(":string", s("S"))
        .expression_attribute_values(":empty", s(""))
        .expression_attribute_values(":zero", n("0"))
        .expression_attribute_values(":now", n(NOW))
        .expression_attribute_values(":active", s("active"))
        .expression_attribute_values(":due", n(NOW))
        .expression_attribute_values(":believed", n(NOW))
        .return_values(ReturnValue::AllOld)
}

fn save(update: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    let scopes = ["seller.authorization.info", "seller.order.info"].map(s).to_vec();
    let sets = [
        s(token()),
        n(NOW),
        n(NOW),
        s(token()),
        n(NOW),
        s("7495"),
        s("Bánh Mì 25"),
        s("VN"),
        AttributeValue::L(scopes),
    ];
    let conditions = [s(token()), s(token()), s("active")];
    let mut update = update
        .update_expression(SAVE)
        .condition_expression(IF_UNCHANGED)
        .expression_attribute_names("#status", "status");
    for (at, value) in sets.into_iter().enumerate() {
        update = update.expression_attribute_values(format!(":s{at}"), value);
    }
    for (at, value) in conditions.into_iter().enumerate() {
        update = update.expression_attribute_values(format!(":c{at}"), value);
    }
    update
}

fn token() -> &'static str {
    "TTR_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: &str) -> AttributeValue {
    AttributeValue::N(number.to_owned())
}
