//! The function's real binary at the limits: a TikTok that takes few requests, and a table full of refresh tokens that expire soon.
//! Each row of the table has a goal, and the bench fails if one is missed.
//!
//! `cargo bench --features local --bench pressure`

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its table, and nothing uses it")]

mod common;

use common::{
    FUNCTION, measure,
    stand_ins::{Expiry, StandIns},
};
use serde_json::json;
use std::{num::NonZeroU32, time::Duration};

#[tokio::main]
async fn main() {
    println!("| pressure | goal | measured |");
    println!("|---|---|---|");
    busy().await;
    expiring().await;
}

async fn busy() {
    const DUE: usize = 300;
    let limit = NonZeroU32::new(10);
    let stand_ins = StandIns::start_with(DUE, DUE, Duration::from_millis(100), Expiry::Far, limit).await;
    let (took, answer) = measure(FUNCTION, &stand_ins, &[], &["{}".into()]).await;
    assert_eq!(answer["counts"]["refreshed"], json!(DUE), "{}", answer["counts"]);
    println!(
        "| {DUE} due, TikTok takes 10 a second and answers 429 beyond | all refreshed in 90 s | {:.0} s, {} refused |",
        took.wall,
        stand_ins.calls() - DUE
    );
    assert!(took.wall < 90.0);
}

async fn expiring() {
    const ROWS: usize = 500_000;
    let stand_ins = StandIns::start_with(ROWS, 100, Duration::ZERO, Expiry::Soon, None).await;
    let settings = [("EVENT_BUS_NAME", "bus".into()), ("MAX_REQUESTS_PER_SECOND", "10000".into())];
    let (took, answer) = measure(FUNCTION, &stand_ins, &settings, &["{}".into()]).await;
    assert_eq!(answer["counts"]["refreshed"], json!(100));
    println!("| {ROWS} rows to warn of | 64 MiB | {:.0} MiB, {:.0} s |", took.peak_rss_mib, took.wall);
    assert!(took.peak_rss_mib < 64.0);
}
