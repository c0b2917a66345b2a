//! How a run's time and memory grow with the table: the function's real binary looks through tables of up to 100,000 rows, a
//! fifth of them due. It hands these over to the queue, and works them off from there. It also reports the status of tables of
//! up to 1,000,000 rows.
//!
//! `cargo bench --features local --bench scale [-- --write | --quick]`

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its table, and nothing uses it")]

mod common;

use common::{
    Took, build_function, measure,
    report::{self, Goal, Report, grouped, table},
    stand_ins::StandIns,
};
use serde_json::{Value, json};
use std::{mem, time::Duration};

#[tokio::main]
async fn main() {
    let report = Report::start("scale");
    let (runs, statuses): (&[usize], &[usize]) = if report.quick {
        (&[1_000], &[1_000, 10_000])
    } else {
        (&[1_000, 10_000, 100_000], &[1_000, 100_000, 1_000_000])
    };
    build_function();
    let mut rows = Vec::new();
    for &count in runs {
        rows.push(run(count).await);
    }
    let header = [
        "rows",
        "due",
        "scan, s",
        "peak memory, MiB",
        "refreshes, s",
        "due/s",
        "a worker's peak memory, MiB",
    ];
    let runs = table(0, &header, &rows);
    let (mut rows, mut most, mut peak) = (Vec::new(), 0, 0.0);
    for &count in statuses {
        let took = status(count).await;
        rows.push(vec![grouped(count), format!("{:.1}", took.wall), format!("{:.1}", took.peak_rss_mib)]);
        (most, peak) = (count, took.peak_rss_mib);
    }
    let statuses = table(0, &["rows", "status report, s", "peak memory, MiB"], &rows);
    let goals = report::goals(&[Goal {
        name: format!("status report of {} rows: peak memory (three quarters of 128 MB)", grouped(most)),
        limit: 96.0,
        unit: "MiB",
        measured: Some(peak),
    }]);
    report.finish(&[runs, statuses, goals]);
}

async fn status(rows: usize) -> Took {
    let stand_ins = StandIns::start(rows, rows / 5, Duration::ZERO).await;
    let event = json!({"action": "status"}).to_string();
    let (took, report) = measure(&stand_ins, &[], &[event]).await;
    assert_eq!((&report["counts"]["total"], &report["warnings"]), (&json!(rows), &json!([])));
    took
}

async fn run(rows: usize) -> Vec<String> {
    let due = rows / 5;
    let stand_ins = StandIns::start(rows, due, Duration::ZERO).await;
    let settings = [
        ("WORK_QUEUE_URL", format!("{}/1/work", stand_ins.url)),
        ("FAN_OUT_ABOVE", "100".into()),
        ("MAX_REQUESTS_PER_SECOND", "10000".into()),
    ];
    let (scan, answer) = measure(&stand_ins, &settings, &["{}".into()]).await;
    let counts = ["examined", "queued"].map(|count| answer["counts"][count].clone());
    assert_eq!(counts, [json!(rows), json!(due)]);
    let delivery = |body: String| -> Value {
        json!({"Records": [{"messageId": "m", "body": body, "eventSource": "aws:sqs"}]})
    };
    let queued = mem::take(&mut *stand_ins.queued.lock().unwrap());
    let deliveries: Vec<String> = queued.into_iter().map(|body| delivery(body).to_string()).collect();
    let (work, _) = measure(&stand_ins, &settings, &deliveries).await;
    stand_ins.check(due);
    vec![
        grouped(rows),
        grouped(due),
        format!("{:.1}", scan.wall),
        format!("{:.1}", scan.peak_rss_mib),
        format!("{:.1}", work.wall),
        grouped((due as f64 / work.wall) as usize),
        format!("{:.1}", work.peak_rss_mib),
    ]
}
