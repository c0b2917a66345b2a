//! One measured process: how it is started, what it took.

use super::{process, stand_ins::StandIns};
use nix::{time::clock_getcpuclockid, unistd::Pid};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tiktok_token_refresh::{domain::clock::Clock, local::runtime_api::RuntimeApi};
use tokio::net::TcpListener;

const FUNCTION: &str = env!("CARGO_BIN_EXE_tiktok-token-refresh");
/// As many refreshes in flight as the function's default.
pub const CONCURRENCY: usize = 32;

/// A run of the function: so many rows, so many of them due, and a TikTok Shop that answers after `latency` and is asked so
/// many times a second at most.
#[derive(Clone, Copy)]
pub struct Run {
    pub rows: usize,
    pub due: usize,
    pub latency: Duration,
    pub rate: u32,
}

/// What a process took for its refreshes, without its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    pub wall: f64,
    pub cpu: f64,
    /// What its start had taken before.
    pub cpu_of_start: f64,
    pub peak_rss_mib: f64,
    pub scans: u64,
    pub bytes_written: u64,
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn cpu(&self) -> Duration {
        let clock = clock_getcpuclockid(Pid::from_raw(self.0.id().try_into().unwrap())).unwrap();
        clock.now().unwrap().into()
    }
}

/// A program with what Lambda and the operator set.
fn command(program: &str) -> Command {
    let mut command = process::command(program, super::TABLE);
    command
        .env("APP_CREDENTIALS_SECRET_ID", "apps")
        .env("MAX_CONCURRENCY", CONCURRENCY.to_string())
        .env("FAN_OUT_ABOVE", "1000000")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn reaching(command: &mut Command, stand_ins: &StandIns) {
    command.env("AWS_ENDPOINT_URL", &stand_ins.aws_url).env("TIKTOK_AUTH_URL", &stand_ins.tiktok_url);
}

/// Lets the function's real binary refresh what is due.
pub async fn function(run: Run) -> Took {
    let Run { rows, due, latency, rate } = run;
    let stand_ins = StandIns::start(rows, due, latency, Clock::system().now().timestamp()).await;
    let mut api = RuntimeApi::start(Clock::system()).await.unwrap();
    let mut command = command(FUNCTION);
    reaching(&mut command, &stand_ins);
    command.env("MAX_REQUESTS_PER_SECOND", rate.to_string());
    let function = Running::start(command.env("AWS_LAMBDA_RUNTIME_API", api.address.to_string()));
    // It has started when it answers something that asks nobody.
    api.invoke(&json!({"describe": true}).to_string()).await.unwrap().unwrap();
    let (began, cpu_before) = (Instant::now(), function.cpu());
    let answer: Value = api.invoke("{}").await.unwrap().unwrap();
    let wall = began.elapsed();
    assert_eq!(answer["counts"]["refreshed"], due, "{}", answer["counts"]);
    assert_eq!(stand_ins.counted.secret_reads.load(Ordering::Relaxed), 1);
    taken(&function, wall, cpu_before, due, &stand_ins)
}

/// Lets the floor make the exchanges of `due` refreshes, so many at a time.
pub async fn floor(due: usize, latency: Duration, concurrency: usize) -> Took {
    let stand_ins = StandIns::start(due, due, latency, Clock::system().now().timestamp()).await;
    let mut command = command(&example("floor"));
    reaching(&mut command, &stand_ins);
    command.env("ROWS", due.to_string()).env("MAX_CONCURRENCY", concurrency.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let measured = tokio::task::spawn_blocking(move || {
        let mut floor = Running::start(&mut command);
        let (mut input, output) = (floor.0.stdin.take().unwrap(), floor.0.stdout.take().unwrap());
        let mut said = BufReader::new(output).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        let (began, cpu_before) = (Instant::now(), floor.cpu());
        input.write_all(b"go\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "done");
        let wall = began.elapsed();
        // It stays until its input ends.
        let took = taken(&floor, wall, cpu_before, due, &stand_ins);
        drop(input);
        took
    });
    measured.await.unwrap()
}

fn taken(measured: &Running, wall: Duration, cpu_before: Duration, due: usize, stand_ins: &StandIns) -> Took {
    let counted = &stand_ins.counted;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let due = due as u64;
    assert_eq!(
        (count(&counted.writes), count(&counted.calls)),
        (2 * due, due),
        "two writes and one call each"
    );
    Took {
        wall: wall.as_secs_f64(),
        cpu: (measured.cpu() - cpu_before).as_secs_f64(),
        cpu_of_start: cpu_before.as_secs_f64(),
        peak_rss_mib: process::peak_rss_mib(measured.0.id()),
        scans: count(&counted.scans),
        bytes_written: count(&counted.bytes_written) / due,
    }
}

/// From the start of the function's process to its first question for an event, with the settings of production.
pub async fn function_start() -> f64 {
    first_poll(command(FUNCTION)).await
}

/// The same of the smallest function.
pub async fn hello_start() -> f64 {
    first_poll(command(&example("hello"))).await
}

/// Where Cargo puts a program that is only measured.
fn example(name: &str) -> String {
    PathBuf::from(FUNCTION).with_file_name("examples").join(name).to_str().unwrap().to_owned()
}

/// Builds what is measured as it is deployed: for a bench Cargo builds the function with what the local stack needs too, and
/// no example at all.
pub fn build() {
    for target in [&["--bin", "tiktok-token-refresh"][..], &["--example", "hello", "--example", "floor"]] {
        let arguments = ["build", "--locked", "--profile", "bench"];
        assert!(Command::new(env!("CARGO")).args(arguments).args(target).status().unwrap().success());
    }
}

async fn first_poll(mut command: Command) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    command.env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().unwrap().to_string());
    let began = Instant::now();
    let _process = Running::start(&mut command);
    let asked = async {
        let (connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 44];
        connection.peek(&mut request).await.unwrap();
        assert_eq!(&request, b"GET /2018-06-01/runtime/invocation/next HTTP");
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.expect("it asks for an event");
    began.elapsed().as_secs_f64()
}
