//! A process that is measured: what Lambda gives it, and what the kernel tells of it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// The root certificates in one file, as Lambda's machines have them. Others have some hundred files beside it.
const ROOTS: [&str; 2] = ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt"];

/// A program with Lambda's environment, credentials that open nothing, and the table `table`.
pub fn command(program: &str, table: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench")
        .env("TABLE_NAME", table)
        .stdout(Stdio::null());
    if let Some(bundle) = ROOTS.iter().find(|file| Path::new(file).exists()) {
        command.env("SSL_CERT_FILE", bundle);
    }
    command
}

/// The most memory that a running process ever had, in MiB.
pub fn peak_rss_mib(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
