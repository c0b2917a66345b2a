//! How fast and how lean the function is: its real binary beside the floor of its own HTTP exchanges, the ideal that
//! the provider's latency sets, a sequential loop, and the smallest function that Lambda takes.
//!
//! `cargo bench --features local --bench speed` writes `docs/SPEED.md` and `docs/speed.svg`; with `-- --quick` it only
//! shows that it runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::pedantic, clippy::type_complexity, reason = "the same")]
#![allow(clippy::print_stdout, reason = "its tables")]
#![allow(unreachable_pub, reason = "nothing is reachable in a bench")]

mod plot;
mod process;
mod program;
mod report;
mod stand_ins;

use program::{CONCURRENCY, Run, Took};
use std::{env, fs, path::Path, time::Duration};

const TABLE: &str = "integrations";

/// What is measured.
struct Plan {
    latencies_ms: &'static [u64],
    due: &'static [usize],
    repetitions: usize,
    starts: usize,
    /// Integrations whose night is priced.
    integrations: usize,
}

const FULL: Plan = Plan {
    latencies_ms: &[0, 50, 200],
    due: &[100, 1_000, 10_000],
    repetitions: 9,
    starts: 21,
    integrations: 1_000,
};
const QUICK: Plan =
    Plan { latencies_ms: &[0, 50], due: &[100, 1_000], repetitions: 1, starts: 5, integrations: 100 };
/// About how many seconds of a processor a refresh takes.
const OWN_TIME: f64 = 0.0002;
/// Calls a second: what the template gives one worker, and the function's own default.
const PACES: [u32; 2] = [10, 50];
/// How long TikTok takes for an answer, as `infra/README.md` reckons.
const USUAL_LATENCY: Duration = Duration::from_millis(300);

impl Plan {
    /// A run of seconds needs less of it than a shorter one, and the shortest most: a millisecond of something else is a part
    /// of it.
    fn repetitions(&self, latency_ms: u64, due: usize) -> usize {
        match ideal(due, latency_ms) + due as f64 * OWN_TIME {
            seconds if seconds > 5.0 => self.repetitions.div_ceil(3),
            short if short < 0.5 => self.repetitions * 3,
            _ => self.repetitions,
        }
    }
}

/// One latency and size.
struct Case {
    latency_ms: u64,
    due: usize,
    function: Vec<Took>,
    floor: Vec<Took>,
    ideal: f64,
    sequential: Sequential,
}

/// One refresh after the other, as a console command does it: measured, or what a sample comes to.
struct Sequential {
    wall: f64,
    /// How many refreshes were measured.
    sample: usize,
}

/// A night at the pace of production: a fifth of the integrations is due.
struct Night {
    run: Run,
    took: Took,
}

/// Seconds from the start of a process to its first question for an event.
#[derive(Default)]
struct Starts {
    function: Vec<f64>,
    hello: Vec<f64>,
}

/// Seconds that the provider's latency alone takes: rounds of refreshes side by side.
fn ideal(due: usize, latency_ms: u64) -> f64 {
    due.div_ceil(CONCURRENCY) as f64 * Duration::from_millis(latency_ms).as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    measure(arguments.iter().any(|argument| argument == "--quick"));
}

#[tokio::main]
async fn measure(is_quick: bool) {
    let plan = if is_quick { QUICK } else { FULL };
    program::build();
    let starts = starts(&plan).await;
    let mut cases = Vec::new();
    for &latency_ms in plan.latencies_ms {
        for &due in plan.due {
            eprintln!("{due} due at {latency_ms} ms");
            cases.push(case(&plan, latency_ms, due).await);
        }
    }
    let nights = nights(&plan).await;
    let report = report::markdown(&cases, &starts, &nights);
    println!("{report}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let folder = if is_quick { Path::new(env!("CARGO_TARGET_TMPDIR")) } else { &folder };
    fs::write(folder.join("SPEED.md"), report).unwrap();
    plot::draw(&cases, &folder.join("speed.svg"));
}

async fn starts(plan: &Plan) -> Starts {
    let mut starts = Starts::default();
    // The first start of each reads its file from the disk.
    program::function_start().await;
    program::hello_start().await;
    for _ in 0..plan.starts {
        starts.function.push(program::function_start().await);
        starts.hello.push(program::hello_start().await);
    }
    starts
}

async fn nights(plan: &Plan) -> Vec<Night> {
    let mut nights = Vec::new();
    for rate in PACES {
        eprintln!("a night of {} integrations at {rate}/s", plan.integrations);
        let (rows, due) = (plan.integrations, plan.integrations / 5);
        let run = Run { rows, due, latency: USUAL_LATENCY, rate };
        nights.push(Night { run, took: program::function(run).await });
    }
    nights
}

async fn case(plan: &Plan, latency_ms: u64, due: usize) -> Case {
    let latency = Duration::from_millis(latency_ms);
    let (mut function, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..plan.repetitions(latency_ms, due) {
        function.push(program::function(Run { rows: due, due, latency, rate: 10_000 }).await);
        floor.push(program::floor(due, latency, CONCURRENCY).await);
    }
    let sequential = sequential(latency_ms, due).await;
    Case { latency_ms, due, function, floor, ideal: ideal(due, latency_ms), sequential }
}

async fn sequential(latency_ms: u64, due: usize) -> Sequential {
    let enough = if latency_ms == 0 { 1_000 } else { 25 };
    let sample = if due <= 100 { due } else { due.min(enough) };
    let took = program::floor(sample, Duration::from_millis(latency_ms), 1).await;
    Sequential { wall: took.wall * due as f64 / sample as f64, sample }
}
