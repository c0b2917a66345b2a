//! What `infra/README.md` says of a night's length and cost: by arithmetic, and by a night in virtual time.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "arithmetic on paper"
)]

use std::{fs, path::Path, sync::Arc, time::Duration};
use tiktok_token_refresh::{
    domain::message::KEYS_PER_MESSAGE, domain::retry_policy::RetryPolicy, settings::Settings,
};
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// TikTok's answer and two writes.
const REFRESH: Duration = Duration::from_millis(320);
const WORKERS: u64 = 4;
const SHARE: u64 = 40;
const SEGMENTS: u64 = 4;
const ROWS_OF_A_PAGE: u64 = 250;
const PAGE: f64 = 0.04;
/// Seconds of a processor for each row that is looked at, and the share of one that 128 MB have.
const ROW: f64 = 3e-6;
const PROCESSOR: f64 = 128.0 / 1769.0;

fn defaults() -> Settings {
    let set = |name: &str| matches!(name, "TABLE_NAME" | "APP_CREDENTIALS_SECRET_ID").then(|| "x".to_owned());
    Settings::parse(set).unwrap()
}

fn due(rows: u64) -> u64 {
    rows / 5
}

/// Calls a second that one worker makes at most.
fn pace(rate: u64) -> f64 {
    (rate as f64).min(defaults().max_concurrency as f64 / REFRESH.as_secs_f64())
}

/// Seconds in which one invocation, at `rate` calls a second, does what is due.
fn alone(due: u64, rate: u64) -> f64 {
    due as f64 / pace(rate)
}

/// Seconds in which workers do what is due, message by message: each ends when its last refresh has ended.
fn by_queue(due: u64, workers: u64, rate: u64) -> f64 {
    let messages = due.div_ceil(KEYS_PER_MESSAGE as u64).div_ceil(workers);
    messages as f64 * (KEYS_PER_MESSAGE as f64 / pace(rate) + REFRESH.as_secs_f64())
}

/// The same by workers that take messages, in virtual time.
async fn in_virtual_time(due: u64, workers: u64, rate: u64) -> f64 {
    let concurrency = defaults().max_concurrency;
    let began = Instant::now();
    let messages = Arc::new(Mutex::new(due.div_ceil(KEYS_PER_MESSAGE as u64)));
    let mut all = JoinSet::new();
    for _ in 0..workers {
        let messages = messages.clone();
        all.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                {
                    let mut left = messages.lock().await;
                    let Some(fewer) = left.checked_sub(1) else { break };
                    *left = fewer;
                }
                // As the function does a message: permit, rate, refresh; all of it done before the next.
                let permits = Arc::new(Semaphore::new(concurrency));
                let mut refreshes = JoinSet::new();
                for _ in 0..KEYS_PER_MESSAGE {
                    let permit = permits.clone().acquire_owned().await.unwrap();
                    ticks.tick().await;
                    refreshes.spawn(async move {
                        sleep(REFRESH).await;
                        drop(permit);
                    });
                }
                refreshes.join_all().await;
            }
        });
    }
    all.join_all().await;
    began.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn a_night_of_a_million_integrations_takes_what_the_arithmetic_says() {
    for rows in [100_000, 1_000_000] {
        let paper = by_queue(due(rows), WORKERS, SHARE);
        let simulated = in_virtual_time(due(rows), WORKERS, SHARE).await;
        let ratio = simulated / paper;
        assert!((0.95..1.05).contains(&ratio), "{rows}: {paper} s on paper, {simulated} s simulated");
    }
}

fn number(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

fn whole(seconds: f64) -> String {
    number(seconds.ceil() as u64)
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/README.md")).unwrap()
}

#[test]
fn the_table_of_times_is_what_the_code_does() {
    let settings = defaults();
    let page = readme();
    let reserve = RetryPolicy::with_call_timeout(settings.tiktok_timeout);
    let in_one_invocation = 15 * 60 - (reserve.call_timeout + reserve.save_reserve).as_secs();
    let rate = u64::from(settings.max_requests_per_second.get());
    for rows in SIZES {
        let due = due(rows);
        let survey = rows.div_ceil(ROWS_OF_A_PAGE).div_ceil(SEGMENTS) as f64 * PAGE;
        let survey = survey.max(rows as f64 * ROW / PROCESSOR);
        let once = alone(due, rate);
        let once =
            if once > in_one_invocation as f64 { "in parts".into() } else { format!("{} s", whole(once)) };
        let is_spread = due > settings.fan_out_above as u64;
        let queue = if is_spread { by_queue(due, WORKERS, SHARE) } else { alone(due, SHARE) };
        let messages = if is_spread { due.div_ceil(KEYS_PER_MESSAGE as u64) } else { 0 };
        let line = format!(
            "| {} | {} | {} s | {once} | {} s | {} | {} | {} |",
            number(rows),
            number(due),
            whole(survey),
            whole(queue),
            number(rows / 5),
            number(due * 4),
            number(messages)
        );
        assert!(page.contains(&line), "{line}");
    }
    let most = in_one_invocation * rate / 1000 * 1000;
    assert!(page.contains(&format!("at 50/s it does {} refreshes", number(most))), "{most}");
}

#[test]
fn the_table_of_costs_is_its_arithmetic() {
    let page = readme();
    for rows in SIZES {
        let (due, nights) = (due(rows) as f64, 30.0);
        let reads = nights * rows as f64 / 5.0 * 0.125e-6;
        let writes = nights * due * 4.0 * 0.625e-6;
        let is_spread = due > 5000.0;
        let seconds = if is_spread { by_queue(rows / 5, 1, SHARE) } else { alone(rows / 5, SHARE) };
        let lambda = nights * seconds * 0.125 * 0.000_013_3;
        // A message is sent (a tenth of a request), received and deleted.
        let sqs = if is_spread { nights * due / 50.0 * 2.1 * 0.4e-6 } else { 0.0 };
        let month = reads + writes + lambda + sqs;
        let line = format!(
            "| {} | {reads:.2} | {writes:.2} | {lambda:.2} | {sqs:.2} | {month:.2} USD |",
            number(rows)
        );
        assert!(page.contains(&line), "{line}");
    }
}
