//! What the benches share: the function as Lambda runs it, what its events take, the stand-ins and the report.
//!
//! `cargo bench --features local` runs all benches, and `--bench speed` only one. They print tables in Markdown; `-- --write`
//! writes these into `docs/PERFORMANCE.md` instead, each bench's into its own block. `-- --quick` only shows in a minute that
//! the benches run. Measure on a quiet machine.

#![allow(dead_code, reason = "each bench uses a part")]

pub mod report;
pub mod stand_ins;

use nix::{time::clock_getcpuclockid, unistd::Pid};
use serde_json::Value;
use stand_ins::StandIns;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tiktok_token_refresh::{domain::clock::Clock, local::runtime_api::RuntimeApi};

/// The function's real binary. [`build_function`] builds it.
pub const FUNCTION: &str = env!("CARGO_BIN_EXE_tiktok-token-refresh");
/// The root certificates in one file, as on Lambda. Other machines also have them in some hundred files.
const ROOTS: [&str; 2] = ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt"];

/// What a program takes for its work. Its start is not included, except in `cpu_of_start`.
pub struct Took {
    /// Seconds.
    pub wall: f64,
    /// Seconds of user and system time.
    pub cpu: f64,
    /// Seconds of user and system time before the work.
    pub cpu_of_start: f64,
    pub peak_rss_mib: f64,
}

/// A process that is killed when this is dropped.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Seconds of user and system time so far, of all threads.
    pub fn cpu(&self) -> f64 {
        let clock = clock_getcpuclockid(Pid::from_raw(self.0.id().try_into().unwrap())).unwrap();
        Duration::from(clock.now().unwrap()).as_secs_f64()
    }

    /// The most memory that the process has had so far.
    pub fn peak_rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder into which Cargo builds.
pub fn target() -> &'static Path {
    Path::new(FUNCTION).ancestors().nth(2).unwrap()
}

/// Builds the function as it is deployed: Cargo has built it as it builds the bench, with what only the local stack needs.
pub fn build_function() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--locked", "--release", "--bin", "tiktok-token-refresh", "--target-dir"])
        .arg(target());
    assert!(cargo.status().unwrap().success());
}

/// A program with the environment that Lambda and the template give it, and credentials that open nothing.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command
        .env_clear()
        .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench")
        .env("TABLE_NAME", "integrations")
        .env("APP_CREDENTIALS_SECRET_ID", "apps")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(roots) = ROOTS.iter().find(|file| Path::new(file).exists()) {
        command.env("SSL_CERT_FILE", roots);
    }
    command
}

/// Starts the function against the stand-ins and sends it the events, one after the other. Returns what they took and the last
/// answer.
pub async fn measure(stand_ins: &StandIns, settings: &[(&str, String)], events: &[String]) -> (Took, Value) {
    let mut api = RuntimeApi::start(Clock::system()).await.unwrap();
    let running = Running::start(
        command(FUNCTION)
            .env("AWS_LAMBDA_RUNTIME_API", api.address.to_string())
            .env("AWS_ENDPOINT_URL", &stand_ins.url)
            .env("TIKTOK_AUTH_URL", &stand_ins.url)
            .env("TIKTOK_API_URL", &stand_ins.url)
            .envs(settings.iter().map(|(name, value)| (name, value))),
    );
    // The function has started when it answers an event that needs no request.
    api.invoke(r#"{"describe": true}"#).await.unwrap().unwrap();
    let (began, cpu_of_start) = (Instant::now(), running.cpu());
    let mut answer = Value::Null;
    for event in events {
        answer = api.invoke(event).await.unwrap().unwrap();
    }
    let wall = began.elapsed().as_secs_f64();
    let cpu = running.cpu() - cpu_of_start;
    (Took { wall, cpu, cpu_of_start, peak_rss_mib: running.peak_rss_mib() }, answer)
}
