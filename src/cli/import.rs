//! `tiktok-tokens import`: creates rows for existing tokens, from a file of JSON lines. The whole file is checked before the
//! first row is written. A line is sent as its own text, so that an id of any length stays digit for digit.

use super::{CliError, show};
use crate::{
    cli::Aws,
    domain::import::{self, Invalid, MAX_ROW_BYTES, MAX_ROWS},
    status_report::{counted, in_words, printable},
};
use clap::Args;
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json, value::RawValue};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// The maximum size of the lines in one request, in bytes: well below Lambda's limit of 6 MB.
const MAX_BYTES: usize = 4_000_000;
/// The maximum number of lines that the table shows.
const MAX_SHOWN: usize = 50;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// File with one integration on each line, as a JSON object
    file: PathBuf,
    /// Check the file and show what an import would create, without writing to the table
    #[arg(long)]
    dry_run: bool,
}

/// A line of the file that is not blank.
struct Line {
    number: usize,
    /// The size of the line in the file, in bytes.
    bytes: u64,
    /// Its JSON text, or why it has none.
    text: Result<String, Invalid>,
}

/// What became of the file's lines.
struct Imported {
    counts: Map<String, Value>,
    /// The lines that were not created, as the function reports them, with their numbers.
    rows: Vec<Value>,
    /// The line after which the import stopped, because it could not write any row of a request.
    stopped_after: Option<usize>,
}

impl Imported {
    fn new() -> Self {
        let outcomes = ["created", "would_create", "exists", "invalid", "not_written"];
        let counts = outcomes.into_iter().map(|outcome| (outcome.to_owned(), json!(0))).collect();
        Self { counts, rows: Vec::new(), stopped_after: None }
    }

    fn add(&mut self, line: usize, mut row: Value) {
        let outcome = row["outcome"].as_str().unwrap_or("not_written").to_owned();
        let count = self.count(&outcome) + 1;
        self.counts.insert(outcome.clone(), json!(count));
        if !matches!(outcome.as_str(), "created" | "would_create") {
            row["line"] = json!(line);
            self.rows.push(row);
        }
    }

    fn count(&self, outcome: &str) -> u64 {
        self.counts.get(outcome).and_then(Value::as_u64).unwrap_or(0)
    }

    /// The response to the whole file, in the form of a response to one request.
    fn response(&self, dry_run: bool) -> Value {
        json!({"action": "import", "dry_run": dry_run, "counts": self.counts, "integrations": self.rows})
    }
}

/// Imports a file. Returns the response to all of it.
pub(super) async fn run(aws: &Aws, import: &Import) -> Result<Value, CliError> {
    let mut checked = pass(aws, &import.file, true).await?;
    if checked.count("invalid") > 0 {
        // Nothing is written, so the rows that would be created are not.
        let unwritten = checked.count("not_written") + checked.count("would_create");
        checked.counts.insert("would_create".into(), json!(0));
        checked.counts.insert("not_written".into(), json!(unwritten));
        // These rows are valid; the invalid ones say what to correct.
        checked.rows.retain(|row| row["outcome"] != "not_written");
    }
    if import.dry_run || checked.count("invalid") > 0 {
        return Ok(checked.response(import.dry_run));
    }
    let written = pass(aws, &import.file, false).await?;
    let mut response = written.response(false);
    if let Some(line) = written.stopped_after {
        response["stopped_after_line"] = json!(line);
    }
    Ok(response)
}

/// Sends the file's lines, in as many requests as they need.
async fn pass(aws: &Aws, file: &Path, dry_run: bool) -> Result<Imported, CliError> {
    let unreadable = |error| CliError::File(file.to_owned(), error);
    let opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        // The check would empty a pipe before anything is written.
        let why = "not a regular file; an import reads its file twice, so save the lines to a file first";
        return Err(unreadable(io::Error::other(why)));
    }
    // The bar is drawn only on a terminal.
    let bar = ProgressBar::new(metadata.len());
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(if dry_run { "checking" } else { "writing" });
    let mut reader = Chunks { file: BufReader::new(opened), number: 0, next: None };
    let mut imported = Imported::new();
    let mut first_lines = HashMap::new();
    while let Some(chunk) = reader.next().map_err(unreadable)? {
        let last = chunk.last().map_or(0, |line| line.number);
        bar.inc(chunk.iter().map(|line| line.bytes).sum());
        let rows = send(aws, &chunk, dry_run).await.inspect_err(|_| {
            if !dry_run {
                super::complain(&format!(
                    "stopped before line {}, after {} created; repeat the command, which skips the rows that exist",
                    chunk.first().map_or(0, |line| line.number),
                    counted(imported.count("created"), "row")
                ));
            }
        })?;
        let is_hopeless = !dry_run && rows.iter().all(|row| row["outcome"] == "not_written");
        for (line, row) in chunk.iter().zip(rows) {
            imported.add(line.number, with_duplicates(&mut first_lines, line.number, row));
        }
        if is_hopeless {
            imported.stopped_after = Some(last);
            break;
        }
    }
    bar.finish_and_clear();
    Ok(imported)
}

/// Makes a row invalid if an earlier line has the same key, even in another request.
fn with_duplicates(first: &mut HashMap<(String, String), usize>, line: usize, row: Value) -> Value {
    let (Some(team_id), Some(id)) = (row["team_id"].as_str(), row["integration_id"].as_str()) else {
        return row;
    };
    match first.get(&(team_id.to_owned(), id.to_owned())) {
        None => {
            first.insert((team_id.to_owned(), id.to_owned()), line);
            row
        }
        Some(earlier) => {
            let message = format!("the same team_id and integration_id as line {earlier}");
            invalid(row, "duplicate_key", &message)
        }
    }
}

fn invalid(mut row: Value, reason: &str, message: &str) -> Value {
    row["outcome"] = json!("invalid");
    row["reason"] = json!(reason);
    row["message"] = json!(message);
    row
}

/// Sends lines in one request. Returns the outcome of each.
async fn send(aws: &Aws, chunk: &[Line], dry_run: bool) -> Result<Vec<Value>, CliError> {
    let texts: Vec<&str> = chunk.iter().filter_map(|line| line.text.as_deref().ok()).collect();
    let event = format!(r#"{{"action":"import","dry_run":{dry_run},"integrations":[{}]}}"#, texts.join(","));
    let answer = aws.invoke(event).await?.json;
    let mut rows = answer["integrations"].as_array().cloned().unwrap_or_default().into_iter();
    let none = json!({"team_id": null, "integration_id": null, "outcome": "not_written"});
    let row = |line: &Line| match &line.text {
        Ok(_) => rows.next().unwrap_or_else(|| none.clone()),
        Err(problem) => invalid(none.clone(), problem.reason, &problem.message),
    };
    Ok(chunk.iter().map(row).collect())
}

/// The JSON text of a line, or what is wrong with it.
fn json_text(line: Vec<u8>) -> Result<String, Invalid> {
    let not_json = |message: String| Invalid { reason: "invalid_json", message };
    let line = String::from_utf8(line)
        .map_err(|error| not_json(format!("not UTF-8 after byte {}", error.utf8_error().valid_up_to())))?;
    let text = line.trim_start_matches('\u{feff}').trim();
    import::size(text.len())?;
    if !text.is_empty() {
        serde_json::from_str::<&RawValue>(text).map_err(|error| {
            // The position is in the line, so the column alone says where.
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            not_json(format!("not JSON: {what} at column {}", error.column()))
        })?;
    }
    Ok(text.to_owned())
}

/// Reads a file in chunks of lines that fit into one request.
struct Chunks<R> {
    file: R,
    number: usize,
    /// The line that did not fit into the last chunk.
    next: Option<Line>,
}

impl<R: BufRead> Chunks<R> {
    fn next(&mut self) -> io::Result<Option<Vec<Line>>> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < MAX_ROWS {
            let Some(line) = self.next.take().map_or_else(|| self.line(), |line| Ok(Some(line)))? else {
                break;
            };
            bytes += line.text.as_ref().map_or(0, String::len) + 1;
            if bytes > MAX_BYTES && !chunk.is_empty() {
                self.next = Some(line);
                break;
            }
            chunk.push(line);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The next line that is not blank. Of one that is too long for a row, only the start is held.
    fn line(&mut self) -> io::Result<Option<Line>> {
        // Room for the line break, and for one byte too many.
        const LIMIT: usize = MAX_ROW_BYTES + 3;
        loop {
            let mut text = Vec::new();
            let mut bytes = self.file.by_ref().take(LIMIT as u64).read_until(b'\n', &mut text)?;
            if bytes == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_cut = bytes == LIMIT && !text.ends_with(b"\n");
            if is_cut {
                bytes += self.file.skip_until(b'\n')?;
            }
            let text = if is_cut { import::size(bytes).map(|()| String::new()) } else { json_text(text) };
            if text.as_ref().map_or(true, |text| !text.is_empty()) {
                return Ok(Some(Line { number: self.number, bytes: bytes as u64, text }));
            }
        }
    }
}

/// Renders the response to a file: the lines that need attention, and the counts with the numbers of the lines.
pub(super) fn show(response: &Value) -> String {
    let rows = response["integrations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let problems: Vec<&Value> = rows.iter().filter(|row| row["outcome"] != "exists").collect();
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let cells = problems.iter().take(MAX_SHOWN).map(|row| {
        let outcome = in_words(&text(&row["outcome"]));
        let why = if row["message"].is_null() { &row["reason"] } else { &row["message"] };
        [text(&row["line"]), text(&row["team_id"]), text(&row["integration_id"]), outcome, text(why)]
            .map(Cell::new)
            .to_vec()
    });
    let cells: Vec<_> = cells.collect();
    let mut shown =
        vec![show::filled(&["Line", "Team", "Id", "Outcome", "Reason"], &cells).trim_end().to_owned()];
    if problems.len() > MAX_SHOWN {
        let more = counted((problems.len() - MAX_SHOWN) as u64, "more line");
        shown.push(format!("and {more}; --output json lists all of them"));
    }
    let summary = show::counts(&response["counts"]);
    shown.push(if summary.is_empty() { "the file has no lines".to_owned() } else { summary });
    for outcome in ["exists", "invalid", "not_written"] {
        let lines =
            rows.iter().filter(|row| row["outcome"] == outcome).filter_map(|row| row["line"].as_u64());
        let lines = ranges(&lines.collect::<Vec<_>>());
        if !lines.is_empty() {
            shown.push(format!("{}: {lines}", in_words(outcome)));
        }
    }
    if let Some(line) = response["stopped_after_line"].as_u64() {
        shown.push(format!("stopped after line {line}, because no row of the last request could be written"));
    }
    if response["counts"]["invalid"].as_u64().is_some_and(|count| count > 0) && response["dry_run"] == false {
        shown.push("Nothing was written.".to_owned());
    }
    shown.retain(|part| !part.is_empty());
    shown.join("\n")
}

/// Ascending line numbers as ranges: "lines 4-6, 9".
fn ranges(lines: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for line in lines {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *line => *last = *line,
            _ => ranges.push((*line, *line)),
        }
    }
    let texts = ranges
        .iter()
        .take(MAX_SHOWN)
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    let mut text = texts.collect::<Vec<_>>().join(", ");
    if ranges.len() > MAX_SHOWN {
        text.push_str(", …");
    }
    match lines {
        [] => text,
        [_] => format!("line {text}"),
        _ => format!("lines {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &[u8]) -> Vec<Vec<(usize, Result<String, Invalid>)>> {
        let mut reader = Chunks { file: text, number: 0, next: None };
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().unwrap() {
            all.push(chunk.into_iter().map(|line| (line.number, line.text)).collect());
        }
        all
    }

    #[test]
    fn a_file_is_read_in_chunks_of_lines_with_their_numbers() {
        let lines = "\u{feff}{}\r\n\n  [7] \n";
        assert_eq!(chunks(lines.as_bytes()), [[(1, Ok("{}".to_owned())), (3, Ok("[7]".to_owned()))]]);
        assert!(chunks(b"\n\n").is_empty());
        let sizes: Vec<usize> = chunks("{}\n".repeat(201).as_bytes()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [100, 100, 1]);
        let large = format!("\"{}\"\n", "x".repeat(MAX_ROW_BYTES - 2));
        let sizes: Vec<usize> = chunks(large.repeat(25).as_bytes()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [11, 11, 3], "a request stays below Lambda's limit");
    }

    #[test]
    fn a_line_that_is_no_row_is_invalid_and_the_next_one_is_read() {
        let long = "x".repeat(7_000_000);
        let just_too_long = format!("\"{}\"", "x".repeat(MAX_ROW_BYTES - 1));
        let file =
            [b"\xff\n{\n".as_slice(), long.as_bytes(), b"\n", just_too_long.as_bytes(), b"\n{}"].concat();
        let [chunk] = &chunks(&file)[..] else { panic!("one chunk") };
        let told: Vec<(usize, String)> = chunk
            .iter()
            .map(|(number, text)| match text {
                Ok(text) => (*number, text.clone()),
                Err(problem) => (*number, format!("{}: {}", problem.reason, problem.message)),
            })
            .collect();
        assert_eq!(
            told,
            [
                (1, "invalid_json: not UTF-8 after byte 0".to_owned()),
                (2, "invalid_json: not JSON: EOF while parsing an object at column 1".to_owned()),
                (3, "row_too_large: got 7000001 bytes, expected at most 350000".to_owned()),
                (4, "row_too_large: got 350001 bytes, expected at most 350000".to_owned()),
                (5, "{}".to_owned()),
            ]
        );
    }

    #[test]
    fn line_numbers_are_told_in_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[7]), "line 7");
        assert_eq!(ranges(&[1, 2, 3, 5, 8, 9]), "lines 1-3, 5, 8-9");
    }
}
