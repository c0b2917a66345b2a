//! What a bench has measured, as Markdown: on standard output, or with `--write` in the bench's block of
//! `docs/PERFORMANCE.md`. The prose around the blocks is written by hand.

use clap::Parser;
use indicatif::HumanCount;
use std::{fs, path::PathBuf, process::exit};

/// Measures, and prints tables in Markdown.
#[derive(Parser)]
pub struct Report {
    #[arg(skip)]
    bench: &'static str,
    /// Only show that the bench runs
    #[arg(long, conflicts_with = "write")]
    pub quick: bool,
    /// Write the tables into docs/PERFORMANCE.md
    #[arg(long)]
    write: bool,
    /// Cargo's own
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// What a bench must not exceed. A value that exceeds it is reported, and the bench goes on.
pub struct Goal {
    pub name: String,
    pub limit: f64,
    /// Empty for a ratio.
    pub unit: &'static str,
    /// `None` if it cannot be measured on this machine.
    pub measured: Option<f64>,
}

impl Report {
    /// Reads the arguments, and makes sure that there is a block to write to.
    pub fn start(bench: &'static str) -> Self {
        let report = Self { bench, ..Self::parse() };
        if report.write {
            report.page();
        }
        report
    }

    /// Prints the paragraphs and tables, or writes them into the bench's block.
    pub fn finish(self, parts: &[String]) {
        let text: String = parts.iter().map(|part| format!("{}\n\n", part.trim_end())).collect();
        if self.write {
            let (before, after) = self.page();
            fs::write(page_path(), format!("{before}\n\n{text}{after}")).unwrap();
        } else {
            println!("\n{}", text.trim_end());
        }
    }

    /// The page up to this bench's block, and from its end.
    fn page(&self) -> (String, String) {
        let page = fs::read_to_string(page_path()).unwrap();
        let [begin, end] = [format!("<!-- {} -->", self.bench), format!("<!-- /{} -->", self.bench)];
        match (page.find(&begin), page.find(&end)) {
            (Some(at), Some(end)) if at < end => {
                (page[..at + begin.len()].to_owned(), page[end..].to_owned())
            }
            _ => fail(&format!("docs/PERFORMANCE.md has no block from {begin} to {end}")),
        }
    }
}

/// A table whose first `names` columns are texts, and the others numbers.
pub fn table(names: usize, header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.to_vec());
    text += &format!("|{}{}\n", "---|".repeat(names), "---:|".repeat(header.len() - names));
    text.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    text
}

/// A table of goals.
pub fn goals(goals: &[Goal]) -> String {
    let rows: Vec<_> = goals.iter().map(Goal::row).collect();
    table(1, &["goal", "at most", "measured", "met"], &rows)
}

impl Goal {
    fn row(&self) -> Vec<String> {
        let Self { name, limit, unit, measured } = self;
        let Some(measured) = measured else {
            return vec![name.clone(), with_unit(*limit, unit), "–".into(), "not measured".into()];
        };
        let shown = with_unit(*measured, unit);
        // What rounds to the limit meets it: "1.00, at most 1.00, not met" would puzzle a reader.
        let rounded: f64 = shown.split(' ').next().unwrap().parse().unwrap();
        let met = if rounded <= *limit { "yes" } else { "**no**" };
        vec![name.clone(), with_unit(*limit, unit), shown, met.into()]
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "" => format!("{value:.2}"),
        _ if value.fract() == 0.0 || value >= 100.0 => format!("{value:.0} {unit}"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// The middle one of some values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A number with commas between the thousands.
pub fn grouped(number: usize) -> String {
    HumanCount(number as u64).to_string()
}

fn page_path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "docs", "PERFORMANCE.md"].iter().collect()
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(2)
}
