//! How fast and how lean the function is, beside two scripts that a user would write instead: `peers/refresh.py` refreshes one
//! integration after the other, `peers/refresh.mjs` as many at a time as the function. Both make the same three exchanges for
//! each integration (lease, refresh, save), and neither scans, logs or answers. `.ci/sdks` installs what they need.
//!
//! `cargo bench --features local --bench speed [-- --write | --quick]` takes ten minutes on a quiet machine.

#![allow(clippy::pedantic, clippy::unwrap_used, clippy::panic, reason = "a measurement, not a program")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints its tables, and nothing uses it")]

#[path = "../common/mod.rs"]
mod common;
mod programs;

use common::{
    Took, build_function,
    report::{self, Goal, Report, grouped, median, table},
};
use programs::{Program, function};
use std::{fs, thread, time::Duration};

/// How many refreshes the function has in flight by default.
const CONCURRENCY: usize = 32;
/// Requests a second: a worker's share in the template, and the function's default.
const PACES: [u32; 2] = [10, 50];
/// How long TikTok Shop takes to answer, as `infra/README.md` assumes.
const USUAL_LATENCY: Duration = Duration::from_millis(300);
/// The MB of memory with which Lambda gives a whole processor. With less, it gives a share of one.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>
const MB_OF_A_PROCESSOR: f64 = 1769.0;
/// USD for a GB-second on arm64 in us-east-1. <https://aws.amazon.com/lambda/pricing/>
const PRICE: f64 = 0.000_013_333_4;
/// The share of Node.js's CPU and memory that the function may take.
const A_THIRD: f64 = 0.33;

/// What stands in place of a number, with the command that helps.
const NOT_INSTALLED: &str = "not installed: `.ci/sdks`";

/// What is measured.
struct Plan {
    cases: &'static [Case],
    /// How many refreshes of the sequential script are measured.
    in_sequence: usize,
    starts: usize,
    /// How many integrations the priced run has.
    integrations: usize,
}

#[derive(Clone, Copy)]
struct Case {
    latency_ms: u64,
    due: usize,
    repetitions: usize,
}

const FULL: Plan = Plan {
    cases: &[
        Case { latency_ms: 50, due: 1_000, repetitions: 5 },
        Case { latency_ms: 200, due: 1_000, repetitions: 3 },
        Case { latency_ms: 50, due: 20_000, repetitions: 3 },
    ],
    in_sequence: 150,
    starts: 21,
    integrations: 1_000,
};
const QUICK: Plan = Plan {
    cases: &[
        Case { latency_ms: 50, due: 100, repetitions: 1 },
        Case { latency_ms: 50, due: 1_000, repetitions: 1 },
    ],
    in_sequence: 20,
    starts: 3,
    integrations: 100,
};

#[tokio::main]
async fn main() {
    let report = Report::start("speed");
    let plan = if report.quick { QUICK } else { FULL };
    build_function();
    let programs = [Program::function(), Program::node(), Program::python(plan.in_sequence)];
    let mut results = Vec::new();
    for case in plan.cases {
        results.push(CaseResult::measure(case, &programs).await);
    }
    let starts = measure_starts(plan.starts, &programs).await;
    let cost = cost(&plan).await;
    report.finish(&[
        surroundings(&programs),
        goals(&results, starts[0].unwrap()),
        runs(&results, &programs, plan.in_sequence),
        starts_table(plan.starts, &starts, &programs),
        cost,
    ]);
}

/// What is measured, and on which machine.
fn surroundings(programs: &[Program]) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = thread::available_parallelism().unwrap();
    let model = model.unwrap_or("of unknown model");
    let runtimes: Vec<_> =
        programs.iter().map(|program| &*program.runs_on).filter(|on| !on.is_empty()).collect();
    let runtimes = if runtimes.is_empty() { String::new() } else { format!(" {}.", runtimes.join(", ")) };
    format!("{cores} cores ({model}), which the stand-ins share.{runtimes}")
}

/// What a program takes for the due rows of a case: medians.
struct Figures {
    /// Seconds.
    time: f64,
    /// Milliseconds of user and system time.
    cpu_of_refresh: f64,
    peak_rss_mib: f64,
    is_extrapolated: bool,
}

impl Figures {
    /// From runs that refreshed `measured` of the `due` rows. `None` if there were no runs.
    fn of(runs: &[Took], measured: usize, due: usize) -> Option<Self> {
        let median = |value: fn(&Took) -> f64| median(runs.iter().map(value));
        (!runs.is_empty()).then(|| Self {
            time: median(|took| took.wall) / measured as f64 * due as f64,
            cpu_of_refresh: median(|took| took.cpu) / measured as f64 * 1000.0,
            peak_rss_mib: median(|took| took.peak_rss_mib),
            is_extrapolated: measured < due,
        })
    }
}

struct CaseResult {
    case: Case,
    ideal: f64,
    function: Figures,
    /// Those of the programs beside it, as far as they are installed.
    peers: [Option<Figures>; 2],
}

impl CaseResult {
    /// The programs take turns, so that the machine's moods hit all of them.
    async fn measure(case: &Case, programs: &[Program; 3]) -> Self {
        let &Case { latency_ms, due, repetitions } = case;
        let latency = Duration::from_millis(latency_ms);
        let measured =
            programs.each_ref().map(|program| program.sample.map_or(due, |sample| sample.min(due)));
        let mut runs = [const { Vec::new() }; 3];
        for repetition in 1..=repetitions {
            eprintln!("{due} due, {latency_ms} ms: {repetition} of {repetitions}");
            for n in 0..programs.len() {
                runs[n].extend(programs[n].refresh(measured[n], latency).await);
            }
        }
        let [function, node, python] = [0, 1, 2].map(|n| Figures::of(&runs[n], measured[n], due));
        let ideal = due.div_ceil(CONCURRENCY) as f64 * latency.as_secs_f64();
        Self { case: *case, ideal, function: function.unwrap(), peers: [node, python] }
    }

    fn rows(&self, programs: &[Program; 3]) -> Vec<Vec<String>> {
        let Self { case, ideal, function, peers } = self;
        let case = format!("{} due, {} ms ({} runs)", grouped(case.due), case.latency_ms, case.repetitions);
        let mut rows =
            vec![[&case, "ideal", &format!("{ideal:.2}"), "1.00", "", "", ""].map(str::to_owned).to_vec()];
        for (program, figures) in programs.iter().zip([Some(function), peers[0].as_ref(), peers[1].as_ref()])
        {
            let cells = figures.map_or([NOT_INSTALLED, "", "", "", ""].map(str::to_owned), |figures| {
                let &Figures { time, cpu_of_refresh, peak_rss_mib, is_extrapolated } = figures;
                [
                    if is_extrapolated { format!("~{time:.0}") } else { format!("{time:.2}") },
                    format!("{:.2}", time / ideal),
                    format!("{:.2}", time / function.time),
                    format!("{cpu_of_refresh:.2}"),
                    format!("{peak_rss_mib:.0}"),
                ]
            });
            rows.push([vec![String::new(), program.name.to_owned()], cells.to_vec()].concat());
        }
        rows
    }
}

fn runs(results: &[CaseResult], programs: &[Program; 3], in_sequence: usize) -> String {
    let header = [
        "due, TikTok Shop's latency",
        "program",
        "time, s",
        "/ ideal",
        "/ the function",
        "CPU a refresh, ms",
        "peak memory, MiB",
    ];
    let rows: Vec<_> = results.iter().flat_map(|result| result.rows(programs)).collect();
    format!(
        "Medians. The function and Node.js refresh {CONCURRENCY} at a time, Python one after the other; `~`: extrapolated from \
         {in_sequence} refreshes. The start is not included.\n\n{}",
        table(2, &header, &rows)
    )
}

/// How many milliseconds each program takes until it is ready to work: medians.
async fn measure_starts(repetitions: usize, programs: &[Program; 3]) -> [Option<f64>; 3] {
    eprintln!("starts");
    let mut starts = [const { Vec::new() }; 3];
    for repetition in 0..=repetitions {
        for n in 0..programs.len() {
            let start = programs[n].start().await;
            // The first start reads the files from the disk, and does not count.
            starts[n].extend(start.filter(|_| repetition > 0));
        }
    }
    starts.map(|starts| (!starts.is_empty()).then(|| median(starts) * 1000.0))
}

fn starts_table(repetitions: usize, starts: &[Option<f64>; 3], programs: &[Program; 3]) -> String {
    let row = |(program, start): (&Program, &Option<f64>)| {
        let start = start.map_or(NOT_INSTALLED.into(), |start| format!("{start:.1}"));
        vec![program.name.to_owned(), start]
    };
    let rows: Vec<_> = programs.iter().zip(starts).map(row).collect();
    table(1, &[&format!("median of {repetitions} starts"), "process start to ready, ms"], &rows)
}

/// Lambda bills the time of a run, which is the longer of waiting and computing with the processor's share.
async fn cost(plan: &Plan) -> String {
    let (rows, due) = (plan.integrations, plan.integrations / 5);
    let mut runs = Vec::new();
    for rate in PACES {
        eprintln!("cost at {rate} requests a second");
        runs.push(function(rows, due, USUAL_LATENCY, rate).await);
    }
    let took: Vec<_> = PACES
        .iter()
        .zip(&runs)
        .map(|(rate, took)| {
            format!(
                "{:.1} s and {:.2} s of CPU at {rate} requests a second",
                took.wall,
                took.cpu + took.cpu_of_start
            )
        })
        .collect();
    let caption = format!(
        "A run with {due} of {} integrations due, when TikTok Shop answers in {} ms, takes {}, its start \
         included. It is billed so:",
        grouped(rows),
        USUAL_LATENCY.as_millis(),
        took.join(", "),
    );
    let mut header = vec!["memory, MB".to_owned()];
    for rate in PACES {
        header.extend([format!("at {rate}/s: billed, s"), format!("at {rate}/s: USD for 1,000 runs")]);
    }
    let price = |memory: f64| {
        let mut row = vec![memory.to_string()];
        for took in &runs {
            let cpu = took.cpu + took.cpu_of_start;
            let billed = took.wall.max(cpu * MB_OF_A_PROCESSOR / memory);
            let price = billed * PRICE * memory / 1024.0 * 1000.0;
            row.extend([format!("{billed:.1}"), format!("{price:.3}")]);
        }
        row
    };
    let rows = [128.0, 256.0, 512.0, MB_OF_A_PROCESSOR].map(price);
    let table = table(0, &header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    format!("{caption}\n\n{table}")
}

/// Each ratio is that of the worst case.
fn goals(results: &[CaseResult], start: f64) -> String {
    let worst = |ratio: &dyn Fn(&CaseResult) -> Option<f64>| {
        results.iter().map(ratio).collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
    };
    let to_node = |value: fn(&Figures) -> f64| {
        worst(&|result| Some(value(&result.function) / value(result.peers[0].as_ref()?)))
    };
    let largest = results.iter().max_by_key(|result| result.case.due).unwrap();
    let memory = format!("peak memory with {} due and no queue", grouped(largest.case.due));
    let goal = |name: &str, limit, unit, measured| Goal { name: name.into(), limit, unit, measured };
    report::goals(&[
        goal("time / ideal", 1.15, "", worst(&|result| Some(result.function.time / result.ideal))),
        goal("time / that of Node.js", 1.0, "", to_node(|figures| figures.time)),
        goal("CPU / that of Node.js", A_THIRD, "", to_node(|figures| figures.cpu_of_refresh)),
        goal("peak memory / that of Node.js", A_THIRD, "", to_node(|figures| figures.peak_rss_mib)),
        goal("process start to first poll", 50.0, "ms", Some(start)),
        goal(&memory, 64.0, "MiB", Some(largest.function.peak_rss_mib)),
    ])
}
