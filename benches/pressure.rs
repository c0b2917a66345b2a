//! The function's real binary at the limits: a TikTok that takes few requests, and a table full of refresh tokens that expire
//! soon.
//!
//! `cargo bench --features local --bench pressure [-- --write | --quick]`

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its table, and nothing uses it")]

mod common;

use common::{
    build_function, measure,
    report::{self, Goal, Report, grouped},
    stand_ins::{Expiry, StandIns},
};
use serde_json::json;
use std::{num::NonZeroU32, time::Duration};

#[tokio::main]
async fn main() {
    let report = Report::start("pressure");
    let (due, rows) = if report.quick { (30, 5_000) } else { (300, 500_000) };
    build_function();
    let goals = report::goals(&[busy(due).await, expiring(rows).await]);
    report.finish(&[goals]);
}

async fn busy(due: usize) -> Goal {
    let limit = NonZeroU32::new(10);
    let stand_ins = StandIns::start_with(due, due, Duration::from_millis(100), Expiry::Far, limit).await;
    let (took, answer) = measure(&stand_ins, &[], &["{}".into()]).await;
    assert_eq!(answer["counts"]["refreshed"], json!(due), "{}", answer["counts"]);
    let refused = stand_ins.calls() - due;
    Goal {
        name: format!(
            "TikTok Shop takes 10 requests a second and answers 429 beyond: time to refresh {due} ({refused} refused)"
        ),
        limit: 90.0,
        unit: "s",
        measured: Some(took.wall),
    }
}

async fn expiring(rows: usize) -> Goal {
    let stand_ins = StandIns::start_with(rows, 100, Duration::ZERO, Expiry::Soon, None).await;
    let settings = [("EVENT_BUS_NAME", "bus".into()), ("MAX_REQUESTS_PER_SECOND", "10000".into())];
    let (took, answer) = measure(&stand_ins, &settings, &["{}".into()]).await;
    assert_eq!(answer["counts"]["refreshed"], json!(100));
    Goal {
        name: format!("{} refresh tokens expire soon, and each needs a warning: peak memory", grouped(rows)),
        limit: 64.0,
        unit: "MiB",
        measured: Some(took.peak_rss_mib),
    }
}
