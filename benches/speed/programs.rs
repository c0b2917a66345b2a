//! The programs that the speed bench compares: the function, and two scripts that a user would write instead.

use super::common::{self, FUNCTION, Running, Took, measure, stand_ins::StandIns, target};
use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

pub struct Program {
    pub name: &'static str,
    /// What it runs on, for a reader.
    pub runs_on: String,
    /// The most refreshes that a run makes. The time of more follows from theirs.
    pub sample: Option<usize>,
    kind: Kind,
}

enum Kind {
    Function,
    Script { interpreter: PathBuf, script: PathBuf },
    NotInstalled,
}

impl Program {
    pub fn function() -> Self {
        Self { name: "the function", runs_on: String::new(), sample: None, kind: Kind::Function }
    }

    /// A script for Node.js, which refreshes as many at a time as the function. It runs in the folder that has its packages, as
    /// it finds them nowhere else.
    pub fn node() -> Self {
        const TELL: &str = "process.execPath + '\\nNode.js ' + process.versions.node + ' with AWS SDK ' + \
            require('@aws-sdk/client-dynamodb/package.json').version";
        let folder = target().join("client-node");
        let script = folder.join("refresh.mjs");
        let found = [target().join("client-tools/bin/node"), "node".into()]
            .iter()
            .find_map(|node| ask(Command::new(node).args(["-p", TELL]).current_dir(&folder)));
        if found.is_some() {
            fs::copy(Path::new(PEERS).join("refresh.mjs"), &script).unwrap();
        }
        Self::script("Node.js", None, found, script)
    }

    /// A script for Python, which refreshes one after the other. It is measured with so many refreshes.
    pub fn python(sample: usize) -> Self {
        const TELL: &str = "import boto3, platform, sys; \
            print(sys.executable); print('Python', platform.python_version(), 'with boto3', boto3.__version__)";
        let found = [target().join("client-tools/bin/python3"), "python3".into()]
            .iter()
            .find_map(|python| ask(Command::new(python).args(["-c", TELL])));
        Self::script("Python", Some(sample), found, Path::new(PEERS).join("refresh.py"))
    }

    fn script(
        name: &'static str,
        sample: Option<usize>,
        found: Option<(PathBuf, String)>,
        script: PathBuf,
    ) -> Self {
        match found {
            Some((interpreter, runs_on)) => {
                Self { name, runs_on, sample, kind: Kind::Script { interpreter, script } }
            }
            None => Self { name, runs_on: String::new(), sample, kind: Kind::NotInstalled },
        }
    }

    /// What a run takes that refreshes so many rows. `None` if the program's runtime is not installed.
    pub async fn refresh(&self, due: usize, latency: Duration) -> Option<Took> {
        match &self.kind {
            Kind::Function => Some(function(due, due, latency, 10_000).await),
            Kind::Script { interpreter, script } => {
                let stand_ins = StandIns::start(due, due, latency).await;
                let mut running = RunningScript::start(interpreter, script, &stand_ins.url);
                let took = running.refresh(due);
                stand_ins.check(due);
                Some(took)
            }
            Kind::NotInstalled => None,
        }
    }

    /// Seconds from the start of the process until it is ready to work. `None` if the program's runtime is not installed.
    pub async fn start(&self) -> Option<f64> {
        match &self.kind {
            Kind::Function => Some(first_poll().await),
            Kind::Script { interpreter, script } => {
                let began = Instant::now();
                let _running = RunningScript::start(interpreter, script, "http://127.0.0.1:9");
                Some(began.elapsed().as_secs_f64())
            }
            Kind::NotInstalled => None,
        }
    }
}

/// What a run of the function takes that makes at most `rate` requests a second.
pub async fn function(rows: usize, due: usize, latency: Duration, rate: u32) -> Took {
    let stand_ins = StandIns::start(rows, due, latency).await;
    let settings = [("MAX_REQUESTS_PER_SECOND", rate.to_string())];
    let (took, answer) = measure(&stand_ins, &settings, &["{}".into()]).await;
    assert_eq!(answer["counts"]["refreshed"], due, "{}", answer["counts"]);
    stand_ins.check(due);
    took
}

/// Seconds from the start of the function's process, with production's settings, to its first request for an event.
async fn first_poll() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = common::command(FUNCTION);
    command.env("AWS_LAMBDA_RUNTIME_API", listener.local_addr().unwrap().to_string());
    let began = Instant::now();
    let running = Running::start(&mut command);
    let polled = async {
        let (connection, _) = listener.accept().await.unwrap();
        let mut request = [0; 44];
        connection.peek(&mut request).await.unwrap();
        assert_eq!(&request, b"GET /2018-06-01/runtime/invocation/next HTTP");
        connection
    };
    let _connection = tokio::time::timeout(Duration::from_secs(10), polled).await.unwrap();
    let start = began.elapsed().as_secs_f64();
    // Before its connection, of whose end it would complain.
    drop(running);
    start
}

/// The path and the version of an interpreter, which it prints on two lines. `None` if it or a package is not installed.
fn ask(command: &mut Command) -> Option<(PathBuf, String)> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let output = String::from_utf8(output.stdout).ok()?;
    let (path, version) = output.trim().split_once('\n')?;
    Some((path.into(), version.into()))
}

struct RunningScript {
    running: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

impl RunningScript {
    /// Starts the script and waits until it is ready.
    fn start(interpreter: &Path, script: &Path, url: &str) -> Self {
        let mut running = Running::start(
            common::command(interpreter)
                .arg(script)
                .env("AWS_ENDPOINT_URL", url)
                .env("TIKTOK_AUTH_URL", url)
                .env("APP_KEY", "29a39d")
                .env("APP_SECRET", "bench")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        );
        let lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
        let mut script = Self { running, lines };
        script.expect("ready");
        script
    }

    fn refresh(&mut self, due: usize) -> Took {
        let (began, cpu_of_start) = (Instant::now(), self.running.cpu());
        writeln!(self.running.0.stdin.as_ref().unwrap(), "{due}").unwrap();
        self.expect("done");
        let wall = began.elapsed().as_secs_f64();
        let cpu = self.running.cpu() - cpu_of_start;
        Took { wall, cpu, cpu_of_start, peak_rss_mib: self.running.peak_rss_mib() }
    }

    fn expect(&mut self, line: &str) {
        assert_eq!(self.lines.next().unwrap().unwrap(), line);
    }
}
