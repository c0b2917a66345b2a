//! How fast and how lean the function is. The bench runs the function's real binary, and beside it:
//!
//! - **the floor** (`floor.rs`), a function that makes the same HTTP exchanges without our protocol. It is information: there
//!   is no goal for the difference;
//! - **the ideal**, the provider's latency alone: due / concurrency, rounded up, times the latency;
//! - **the sequential loop**, the floor with one refresh at a time, as the usual console command works;
//! - **hello** (`hello.rs`), the smallest function that Lambda accepts, for the start.
//!
//! `cargo bench --features local --bench speed` prints tables in Markdown; on a quiet machine they take a quarter of an hour.
//! With `-- --quick` the bench only shows that it runs.

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its tables, and nothing uses it")]

#[path = "../common/mod.rs"]
mod common;

use common::{FUNCTION, Running, Took, measure, stand_ins::StandIns};
use serde_json::json;
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

/// How many refreshes the function has in flight by default.
const CONCURRENCY: usize = 32;
/// How many refreshes of the sequential loop are measured. The time of others follows from theirs.
const IN_SEQUENCE: usize = 200;
/// Requests a second: a worker's share in the template, and the function's default.
const PACES: [u32; 2] = [10, 50];
/// How long TikTok Shop takes to answer, as `infra/README.md` assumes.
const USUAL_LATENCY: Duration = Duration::from_millis(300);
/// The MB of memory with which Lambda gives a whole processor. With less, it gives a share of one.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>
const MB_OF_A_PROCESSOR: f64 = 1769.0;
/// USD for a GB-second on arm64 in us-east-1. <https://aws.amazon.com/lambda/pricing/>
const PRICE: f64 = 0.000_013_333_4;

/// What is measured.
struct Plan {
    latencies_ms: &'static [u64],
    /// How many rows are due, and how many times that is measured: short runs vary more.
    sizes: &'static [(usize, usize)],
    starts: usize,
    /// How many integrations the priced run has.
    integrations: usize,
}

const FULL: Plan = Plan {
    latencies_ms: &[0, 50, 200],
    sizes: &[(100, 25), (1_000, 7), (10_000, 3)],
    starts: 21,
    integrations: 1_000,
};
const QUICK: Plan =
    Plan { latencies_ms: &[0, 50], sizes: &[(100, 3), (1_000, 1)], starts: 5, integrations: 100 };

#[tokio::main]
async fn main() {
    let plan = if env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    build();
    print_runs(&plan).await;
    print_starts(&plan).await;
    print_cost(&plan).await;
}

/// Builds the function without what only the local stack needs, as it is deployed, and the programs beside it.
fn build() {
    for target in [&["--bin", "tiktok-token-refresh"][..], &["--example", "hello", "--example", "floor"]] {
        let arguments = ["build", "--locked", "--profile", "bench"];
        assert!(Command::new(env!("CARGO")).args(arguments).args(target).status().unwrap().success());
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(FUNCTION).with_file_name("examples").join(name)
}

async fn print_runs(plan: &Plan) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    println!(
        "{} cores ({}), which the stand-ins share. {CONCURRENCY} refreshes in flight, every row due. Medians, with the \
         smallest and the largest value in brackets; the start is not included.\n",
        thread::available_parallelism().unwrap(),
        model.unwrap_or("unknown"),
    );
    println!(
        "| latency, ms | due | time, s | ideal, s | time / ideal | sequential, s | CPU a refresh, ms | peak RSS, MiB \
         | floor's time, s | floor's CPU, ms | floor's RSS, MiB |"
    );
    println!("|{}", "---:|".repeat(11));
    let mut bytes_written = (0, 0);
    for &latency_ms in plan.latencies_ms {
        let latency = Duration::from_millis(latency_ms);
        let in_sequence = floor(IN_SEQUENCE, latency, 1).await.0.wall / IN_SEQUENCE as f64;
        for &(due, repetitions) in plan.sizes {
            let mut runs = [Vec::new(), Vec::new()];
            for _ in 0..repetitions {
                let (function, bytes) = function(due, due, latency, 10_000).await;
                let (floor, floor_bytes) = floor(due, latency, CONCURRENCY).await;
                runs[0].push(function);
                runs[1].push(floor);
                bytes_written = (bytes, floor_bytes);
            }
            let [[time, cpu, rss], [floor_time, floor_cpu, floor_rss]] = runs.map(|runs| {
                let cpu_ms = |took: &Took| took.cpu * 1000.0 / due as f64;
                let (time, rss) = (|took: &Took| took.wall, |took: &Took| took.peak_rss_mib);
                [Spread::of(&runs, time), Spread::of(&runs, cpu_ms), Spread::of(&runs, rss)]
            });
            let ideal = due.div_ceil(CONCURRENCY) as f64 * latency.as_secs_f64();
            let to_ideal = if ideal > 0.0 { format!("{:.2}", time.median / ideal) } else { "–".into() };
            let sequential = in_sequence * due as f64;
            println!(
                "| {latency_ms} | {due} | {time:.2} | {ideal:.2} | {to_ideal} | {sequential:.2} | {cpu:.3} | {rss:.1} \
                 | {floor_time:.2} | {floor_cpu:.3} | {floor_rss:.1} |"
            );
        }
    }
    let (bytes, floor_bytes) = bytes_written;
    println!(
        "\nEach refresh made 2 writes and 1 call, as the floor does. In the last run both writes of a refresh together had \
         {bytes} bytes, the floor's {floor_bytes}. The sequential loop was measured with {IN_SEQUENCE} refreshes.\n"
    );
}

/// A run of the function with at most `rate` requests a second, and the bytes that each refresh wrote.
async fn function(rows: usize, due: usize, latency: Duration, rate: u32) -> (Took, usize) {
    let stand_ins = StandIns::start(rows, due, latency).await;
    let settings = [("MAX_REQUESTS_PER_SECOND", rate.to_string())];
    let (took, answer) = measure(FUNCTION, &stand_ins, &settings, &["{}".into()]).await;
    assert_eq!(answer["counts"]["refreshed"], due, "{}", answer["counts"]);
    (took, stand_ins.check(due))
}

/// The same of the floor.
async fn floor(due: usize, latency: Duration, concurrency: usize) -> (Took, usize) {
    let stand_ins = StandIns::start(due, due, latency).await;
    let event = json!({"rows": due, "concurrency": concurrency}).to_string();
    let (took, _) = measure(example("floor"), &stand_ins, &[], &[event]).await;
    (took, stand_ins.check(due))
}

async fn print_starts(plan: &Plan) {
    println!("| {} starts of | process start to first poll, ms |\n|---|---:|", plan.starts);
    for (name, program) in [("the function", PathBuf::from(FUNCTION)), ("hello", example("hello"))] {
        // This start reads the file from the disk, and does not count.
        first_poll(&program).await;
        let mut starts = Vec::new();
        for _ in 0..plan.starts {
            starts.push(first_poll(&program).await * 1000.0);
        }
        println!("| {name} | {:.1} |", Spread::of(&starts, |start| *start));
    }
}

/// Seconds from the start of a process, with production's settings, to its first request for an event.
async fn first_poll(program: &Path) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = common::command(program);
    command.env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().unwrap().to_string());
    let began = Instant::now();
    let _running = Running::start(&mut command);
    let polled = async {
        let (connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 44];
        connection.peek(&mut request).await.unwrap();
        assert_eq!(&request, b"GET /2018-06-01/runtime/invocation/next HTTP");
    };
    tokio::time::timeout(Duration::from_secs(10), polled).await.unwrap();
    began.elapsed().as_secs_f64()
}

/// Lambda bills the time of a run, which is the longer of waiting and computing with the processor's share.
async fn print_cost(plan: &Plan) {
    let (rows, due) = (plan.integrations, plan.integrations / 5);
    println!(
        "\nCost of a run with {due} of {rows} integrations due, when TikTok Shop answers in {USUAL_LATENCY:?}:\n"
    );
    println!(
        "| requests a second | time, s | CPU with the start, s | memory, MB | billed, s | USD for 1,000 runs |"
    );
    println!("|{}", "---:|".repeat(6));
    for rate in PACES {
        let (took, _) = function(rows, due, USUAL_LATENCY, rate).await;
        let cpu = took.cpu + took.cpu_of_start;
        for memory in [128.0, 256.0, 512.0, MB_OF_A_PROCESSOR] {
            let billed = took.wall.max(cpu * MB_OF_A_PROCESSOR / memory);
            let price = billed * PRICE * memory / 1024.0 * 1000.0;
            println!("| {rate} | {:.1} | {cpu:.2} | {memory} | {billed:.1} | {price:.3} |", took.wall);
        }
    }
}

/// The median of some values, the smallest and the largest.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of<T>(measured: &[T], value: impl Fn(&T) -> f64) -> Self {
        let mut values: Vec<f64> = measured.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], min: values[0], max: values[values.len() - 1] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}
