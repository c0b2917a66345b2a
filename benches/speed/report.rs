//! The measurements as Markdown.

use super::{CONCURRENCY, Case, Night, Starts, Took};
use std::{fmt::Write as _, fs, thread};

const WALL_TO_FLOOR: f64 = 1.10;
const CPU_TO_FLOOR: f64 = 1.25;
const WALL_TO_IDEAL: f64 = 1.15;
const START_TO_HELLO: f64 = 2.0;
const START_MORE_MS: f64 = 25.0;
const RSS_GROWTH: f64 = 1.2;

/// MB of memory with which Lambda gives a whole processor; with less, a share of one.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>
const MB_OF_A_PROCESSOR: f64 = 1769.0;
/// USD for a GB-second on arm64 in us-east-1. <https://aws.amazon.com/lambda/pricing/>
const PRICE: f64 = 0.000_013_333_4;
const MEMORY_SIZES: [u32; 6] = [128, 192, 256, 512, 1024, 1769];

pub fn markdown(cases: &[Case], starts: &Starts, nights: &[Night]) -> String {
    let mut page = String::new();
    let mut say = |text: &str| writeln!(page, "{text}").unwrap();
    say("# How fast, how lean\n");
    say(
        "Measured by `cargo bench --features local --bench speed`, which writes this page and its picture anew.\n",
    );
    say(&format!("{}.\n", machine()));
    say("![Seconds of a run by the number of due integrations, for three latencies](speed.svg)\n");
    say("## Goals\n");
    say(&goals(cases, starts));
    say("## Time\n");
    say(&time(cases));
    say("## CPU\n");
    say(&cpu(cases));
    say("## Start\n");
    say(&start(starts));
    say("## Memory and requests\n");
    say(&memory(cases));
    say("## Cost by memory size\n");
    say(&cost(nights));
    say(NOTES);
    page
}

const NOTES: &str = "## How it is measured

- **The function** is its real binary, driven by Lambda's Runtime API, at its default level of logging into `/dev/null`.
  Its start is not part of a run's numbers; what it does with its first event is: reading the machine's root
  certificates, connecting, reading the secret.
- **The floor** is a program built alike (`benches/speed/floor.rs`) that makes the same three HTTP exchanges for each integration (lease,
  refresh, save) through the same crates, on one thread too, as many at a time, and nothing else: no scan, no rule, no
  log, no look at an answer. What the function takes beyond it is ours.
- **The ideal** is the provider's latency alone, in whole rounds: due / concurrency, rounded up, times the latency.
- **The sequential loop** is the floor with one refresh at a time, as the usual console command works. A number with `~`
  is extrapolated from a sample.
- **The stand-ins** for AWS and TikTok Shop run outside the measured process, on the same cores. They give canned answers
  over plain HTTP, so that their cost does not hide ours; DynamoDB's own latency and TLS are therefore not in these
  numbers, neither ours nor the floor's.
- Function and floor take turns, a process of its own each time. Numbers are medians; the smallest and the largest stand
  in brackets where there were several. A ratio to the floor is the median of each run's to the floor's next one. CPU is
  user and system time of the process.
- The start is from starting the process to its first question for an event, with production's settings (the providers'
  https addresses, Secrets Manager); nothing is connected before an event comes. Hello is the smallest `lambda_runtime`
  function of the same build (`benches/speed/hello.rs`).
- The build is the release's, without what only the local stack needs. The root certificates are read from one file, as on Lambda's machines.

## What is ours

By instructions (`valgrind --tool=callgrind`, 1,500 due at 0 ms; without the hashing, for which valgrind knows no processor's
own instructions) a refresh takes 7 % more than the floor's: 2.4 % for its row in the survey, 2 % for its line in the log,
1 % for reading TikTok's answer, 0.5 % for reading the row, and 0.8 % for all the rest. Building the two writes is cheaper than
the floor's, as their maps are made large enough at once. By time it is some 20 to 30 µs, which is 12 to 19 % by how fast the
machine is, for what runs between two exchanges pushes their code and data out of the caches: with a model of the first ones
(`--cache-sim=yes --branch-sim=yes`, 64 KiB for code and 48 for data) a refresh misses code 14,400 times, the floor's 13,000;
data 10,400 and 8,900; and 15,000 branches are guessed wrongly, not 13,800. At a third of a cycle for an instruction, 14 for
a miss and 18 for a wrong guess that makes 80,000 cycles, which agrees. About half are the survey, the line, the answer and
the row; the rest is spread over all steps, none of which has more than a fourteenth. A refresh without those four, which no
run can do without, would by this be just within the goal. Put into the floor's loop one after the other (10,000 due at 0 ms,
µs a refresh, 20 in all that day) they take: the function's lease 5, its call 3, its save 1 less than the floor's, the rest
of the protocol 2, the scan and the survey 3, handing out the work and telling of it 5, the line 3. A profile by time
(`perf`, `cpu-clock`) shows no place of it that takes more than half a percent but the allocator, which is a fifth of the
processor time of both. Another allocator (mimalloc) was no faster and took 7 to 17 MiB more; nor were smaller futures,
glibc's settings for its caches, level 3 for this crate and the parsers, or looking for what has arrived less often. Looking
more often, or tokio's other scheduler with one thread, made a refresh dearer by 25 to 40 %: what has arrived is better done
in one go, step by step. Level 3 for everything makes both 7 % faster and the ratio the same, for two thirds more of a file
and 2 MiB of memory.
What the function could drop and keeps is the SDK's `user-agent` header: composing it is 6 % of a refresh's instructions, in
both programs. A fixed one in the function alone saved 10 µs and the ratio became 1.13, as the exchanges were alike no more;
one in both would make it no better, and AWS would no longer learn which SDK and which of its features ask.

- **One thread.** With tokio's threads instead a refresh took 0.43 ms of processor time, not 0.24 (1,000 due at 0 ms, side by
  side, an earlier build): the work is handed from one to the other.
- **Time at 0 ms** is processor time and nothing else, so that its goal of 1.10 asks for more there than the goal of CPU. A
  run's own exchanges (the secret, the scan) take 1 to 2 ms, which is a twentieth of a run with 100 due.
- **A first run** reads the machine's root certificates, twice: the SDK's client and reqwest's each read their own, as in the
  floor. With one due that is two thirds of all instructions, 16 of 25 million. The SDK's takes no others but as PEM, which it
  would read again; one client for both, reqwest's through `aws-smithy-http-client-reqwest`, was no faster as a whole.
- **Time against the ideal** is farthest with few rows. Refreshes that were begun together stay in step: 32 answers come in
  the same millisecond, and one processor, which the stand-ins share, does the next 32 writes, as in the floor. The function
  begins four at a time, so that it is nearer to the ideal than the floor is. One at a time it is nearer still (0.216 s
  with 100 due at 50 ms, not 0.223; 0.234 all at once, side by side), and 2 ms farther from the floor at no latency.
- **On a slower machine** (AMD EPYC; from 1,000 due at 0 ms the floor's refresh takes 0.31 to 0.44 ms of a processor, not 0.18)
  two full runs had as their worst: time / floor 1.15 and 1.18, CPU / floor 1.22 and just over 1.25, peak memory 1.19 and 1.21,
  and time / ideal 1.20 (1,000 due at 50 ms) and 1.18 (10,000), where the floor's own were 1.18 and 1.17. A round at 50 ms
  took the function 57 to 59 ms, however evenly spread its refreshes were begun, and the floor 59; one refresh alone 52. So
  far as can be told the two processors, which the stand-ins share, slow each other down.
- **Peak memory** of a run with thousands due is at its end, when the answer's list and its JSON stand side by side: some 230
  bytes for each integration that is listed, of which there are at most 4,000. Before, it is 48 bytes for each row that waits.
  The SDK's buffers for pages of a scan come once, which are therefore of 250 rows (pages of 200 changed nothing).
  A third of the growth is not ours, and the floor's too: after its 32nd request each of the 64 connections has a second
  piece of its queue in hyper, of 9 or 12 KB. With a queue no more than `FAN_OUT_ABOVE` rows are held. A copy of the same
  program may have 0.2 MiB more or less in memory, with few due and with many: so much the kernel maps of its file.";

/// The middle one, and the smallest and largest.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], min: values[0], max: values[values.len() - 1] }
    }

    fn show(&self, decimals: usize) -> String {
        let Self { median, min, max } = self;
        if min.to_bits() == max.to_bits() {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}

fn of(took: &[Took], what: impl Fn(&Took) -> f64) -> Spread {
    Spread::of(took.iter().map(what))
}

impl Case {
    fn due_f64(&self) -> f64 {
        self.due as f64
    }

    pub fn wall(&self) -> f64 {
        of(&self.function, |took| took.wall).median
    }

    pub fn floor_wall(&self) -> f64 {
        of(&self.floor, |took| took.wall).median
    }

    fn wall_to_floor(&self) -> f64 {
        self.to_floor(|took| took.wall)
    }

    /// Of the floor's run that came next: the machine may have become slower in between two others.
    fn to_floor(&self, what: impl Fn(&Took) -> f64) -> f64 {
        let pairs = self.function.iter().zip(&self.floor);
        Spread::of(pairs.map(|(function, floor)| what(function) / what(floor))).median
    }

    fn wall_to_ideal(&self) -> Option<f64> {
        (self.latency_ms > 0).then(|| self.wall() / self.ideal)
    }

    fn cpu_ms(&self, took: &[Took]) -> Spread {
        of(took, |took| took.cpu * 1000.0 / self.due_f64())
    }

    fn cpu_to_floor(&self) -> f64 {
        self.to_floor(|took| took.cpu)
    }
}

fn machine() -> String {
    let cores = thread::available_parallelism().unwrap();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!(
        "On {cores} cores ({model}) that the stand-ins share, {CONCURRENCY} refreshes in flight, every row due"
    )
}

fn goals(cases: &[Case], starts: &Starts) -> String {
    let mut table = "| goal | at most | worst | |\n|---|---:|---:|---|\n".to_owned();
    let mut row = |goal: &str, limit: f64, unit: &str, worst: f64, at: &str| {
        let verdict = if worst <= limit { "met" } else { "**missed**" };
        writeln!(table, "| {goal} | {limit:.2}{unit} | {worst:.2}{unit}{at} | {verdict} |").unwrap();
    };
    let mut over_cases = |goal: &str, limit: f64, ratio: &dyn Fn(&Case) -> Option<f64>| {
        let worst = cases.iter().filter_map(|case| Some((ratio(case)?, case)));
        let (worst, case) = worst.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
        row(goal, limit, "", worst, &format!(" ({} due at {} ms)", number(case.due), case.latency_ms));
    };
    over_cases("time / the floor's", WALL_TO_FLOOR, &|case| Some(case.wall_to_floor()));
    over_cases("CPU / the floor's", CPU_TO_FLOOR, &|case| Some(case.cpu_to_floor()));
    over_cases("time / ideal, at 50 ms and above", WALL_TO_IDEAL, &Case::wall_to_ideal);
    let peak = |case: &Case| of(&case.function, |took| took.peak_rss_mib).median;
    let fewest = |case: &Case| cases.iter().find(|fewest| fewest.latency_ms == case.latency_ms).map(peak);
    over_cases("peak memory / with the fewest due", RSS_GROWTH, &|case| Some(peak(case) / fewest(case)?));
    let (function, hello) = medians(starts);
    row("start / hello's", START_TO_HELLO, "", function / hello, "");
    row("start beyond hello's", START_MORE_MS, " ms", (function - hello) * 1000.0, "");
    table
}

fn time(cases: &[Case]) -> String {
    let mut table = "| latency | due | refreshes/s | time, s | floor, s | / floor | ideal, s | / ideal | sequential, s | faster than it |\n\
                     |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for case in cases {
        let mark = if case.sequential.sample < case.due { "~" } else { "" };
        let to_ideal = case.wall_to_ideal().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        writeln!(
            table,
            "| {} ms | {} | {:.0} | {} | {} | {:.2} | {:.2} | {to_ideal} | {mark}{:.2} | {:.0} × |",
            case.latency_ms,
            number(case.due),
            case.due_f64() / case.wall(),
            of(&case.function, |took| took.wall).show(2),
            of(&case.floor, |took| took.wall).show(2),
            case.wall_to_floor(),
            case.ideal,
            case.sequential.wall,
            case.sequential.wall / case.wall(),
        )
        .unwrap();
    }
    table
}

fn cpu(cases: &[Case]) -> String {
    let mut table =
        "| latency | due | CPU ms a refresh | floor's | / floor |\n|---:|---:|---:|---:|---:|\n".to_owned();
    for case in cases {
        writeln!(
            table,
            "| {} ms | {} | {} | {} | {:.2} |",
            case.latency_ms,
            number(case.due),
            case.cpu_ms(&case.function).show(3),
            case.cpu_ms(&case.floor).show(3),
            case.cpu_to_floor(),
        )
        .unwrap();
    }
    table
}

fn medians(starts: &Starts) -> (f64, f64) {
    let median = |starts: &[f64]| Spread::of(starts.iter().copied()).median;
    (median(&starts.function), median(&starts.hello))
}

fn start(starts: &Starts) -> String {
    let mut table = "| process start to first poll | median, ms | min, ms | max, ms | starts |\n|---|---:|---:|---:|---:|\n".to_owned();
    for (name, starts) in [("the function", &starts.function), ("hello", &starts.hello)] {
        let Spread { median, min, max } = Spread::of(starts.iter().map(|seconds| seconds * 1000.0));
        writeln!(table, "| {name} | {median:.1} | {min:.1} | {max:.1} | {} |", starts.len()).unwrap();
    }
    table
}

fn memory(cases: &[Case]) -> String {
    let mut table = "| latency | due | peak RSS, MiB | floor's, MiB | scans | writes a refresh | calls a refresh | bytes written | floor's |\n\
                     |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for case in cases {
        let (function, floor) = (case.function[0], case.floor[0]);
        writeln!(
            table,
            "| {} ms | {} | {} | {} | {} | 2 | 1 | {} | {} |",
            case.latency_ms,
            number(case.due),
            of(&case.function, |took| took.peak_rss_mib).show(1),
            of(&case.floor, |took| took.peak_rss_mib).show(1),
            function.scans,
            function.bytes_written,
            floor.bytes_written,
        )
        .unwrap();
    }
    table
}

fn cost(nights: &[Night]) -> String {
    let mut text = String::new();
    for Night { run, took } in nights {
        writeln!(
            text,
            "A night of {} integrations, {} of them due, at {} calls a second to a TikTok Shop that answers in {} ms: {:.1} s, \
             and {:.2} s of a processor, {:.0} ms of it for the start.\n",
            number(run.rows),
            number(run.due),
            run.rate,
            run.latency.as_millis(),
            took.wall,
            took.cpu + took.cpu_of_start,
            took.cpu_of_start * 1000.0,
        )
        .unwrap();
    }
    let heads =
        nights.iter().map(|night| format!("{0}/s: billed, s | {0}/s: USD in 1,000 nights", night.run.rate));
    writeln!(text, "| memory, MB | share of a processor | {} |", heads.collect::<Vec<_>>().join(" | "))
        .unwrap();
    writeln!(text, "|---:|---:|{}", "---:|".repeat(2 * nights.len())).unwrap();
    for memory in MEMORY_SIZES {
        write!(text, "| {memory} | {:.2} |", share(memory)).unwrap();
        for Night { took, .. } in nights {
            write!(text, " {:.1} | {:.3} |", billed(took, memory), price(took, memory) * 1000.0).unwrap();
        }
        writeln!(text).unwrap();
    }
    let cheapest = nights.iter().map(|Night { run, took }| {
        let cheapest = MEMORY_SIZES.into_iter().min_by(|a, b| price(took, *a).total_cmp(&price(took, *b)));
        format!("{} MB at {}/s", cheapest.unwrap(), run.rate)
    });
    let cheapest = cheapest.collect::<Vec<_>>().join(", ");
    writeln!(text, "\nWhat is billed is the longer of waiting and computing. The cheapest: {cheapest}.")
        .unwrap();
    text
}

/// Of one processor, which is all that a function of one thread can use.
fn share(memory: u32) -> f64 {
    (f64::from(memory) / MB_OF_A_PROCESSOR).min(1.0)
}

fn billed(took: &Took, memory: u32) -> f64 {
    took.wall.max((took.cpu + took.cpu_of_start) / share(memory))
}

fn price(took: &Took, memory: u32) -> f64 {
    billed(took, memory) * PRICE * f64::from(memory) / 1024.0
}

fn number(number: usize) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", number / 1000, number % 1000)
}
