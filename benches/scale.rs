//! How a run's time and memory grow with the table: the function's real binary looks through tables of 1,000, 10,000 and
//! 100,000 rows, a fifth of them due. It hands these over to the queue, and works them off from there. It also reports the
//! status of tables of up to 1,000,000 rows, in at most [`STATUS_LIMIT_MIB`] of memory.
//!
//! `cargo bench --features local --bench scale [-- rows …]`

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its table, and nothing uses it")]

mod common;

use common::{FUNCTION, measure, stand_ins::StandIns};
use serde_json::{Value, json};
use std::{mem, time::Duration};

/// Three quarters of what the template gives the function.
const STATUS_LIMIT_MIB: f64 = 96.0;

#[tokio::main]
async fn main() {
    let rows: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    println!("| rows | status (json), s | peak RSS, MiB |");
    println!("|---:|---:|---:|");
    for rows in if rows.is_empty() { vec![1_000, 100_000, 1_000_000] } else { rows.clone() } {
        print_status(rows).await;
    }
    println!();
    println!("| rows | due | survey, s | peak RSS, MiB | work-off, s | due/s | peak RSS of a worker, MiB |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for rows in if rows.is_empty() { vec![1_000, 10_000, 100_000] } else { rows } {
        print_row(rows).await;
    }
}

async fn print_status(rows: usize) {
    let stand_ins = StandIns::start(rows, rows / 5, Duration::ZERO).await;
    let event = json!({"action": "status"}).to_string();
    let (status, report) = measure(FUNCTION, &stand_ins, &[], &[event]).await;
    assert_eq!((&report["counts"]["total"], &report["warnings"]), (&json!(rows), &json!([])));
    println!("| {rows} | {:.1} | {:.1} |", status.wall, status.peak_rss_mib);
    assert!(status.peak_rss_mib <= STATUS_LIMIT_MIB, "more than {STATUS_LIMIT_MIB} MiB");
}

async fn print_row(rows: usize) {
    let due = rows / 5;
    let stand_ins = StandIns::start(rows, due, Duration::ZERO).await;
    let settings = [
        ("WORK_QUEUE_URL", format!("{}/1/work", stand_ins.url)),
        ("FAN_OUT_ABOVE", "100".into()),
        ("MAX_REQUESTS_PER_SECOND", "10000".into()),
    ];
    let (survey, answer) = measure(FUNCTION, &stand_ins, &settings, &["{}".into()]).await;
    let counts = ["examined", "queued"].map(|count| answer["counts"][count].clone());
    assert_eq!(counts, [json!(rows), json!(due)]);
    let delivery = |body: String| -> Value {
        json!({"Records": [{"messageId": "m", "body": body, "eventSource": "aws:sqs"}]})
    };
    let queued = mem::take(&mut *stand_ins.queued.lock().unwrap());
    let deliveries: Vec<String> = queued.into_iter().map(|body| delivery(body).to_string()).collect();
    let (work_off, _) = measure(FUNCTION, &stand_ins, &settings, &deliveries).await;
    stand_ins.check(due);
    println!(
        "| {rows} | {due} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} |",
        survey.wall,
        survey.peak_rss_mib,
        work_off.wall,
        due as f64 / work_off.wall,
        work_off.peak_rss_mib,
    );
}
