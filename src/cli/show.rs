//! Renders the function's responses as text: tables that fit the terminal, with colors only on a terminal.

use super::verdict::Asked;
use crate::{
    domain::{duration::in_two_units, integration::UnixTime},
    status_report::{self, Summary, counted, in_words, relative},
};
use chrono::{DateTime, Utc};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::IsTerminal;

/// The width of a table if the output is not a terminal, in characters.
const WIDTH: u16 = 100;
/// The minimum width of a table with a readable column of errors, in characters.
const MIN_WIDTH_WITH_ERRORS: u16 = 110;

/// Renders a response to any action.
pub(super) fn response(response: &Value, asked: &Asked) -> String {
    match response["action"].as_str() {
        Some("refresh") => refresh(response, asked),
        Some("status") => status(response),
        Some("connect") => connect(response),
        // Nothing but the URL, so that a script can use it.
        Some("connect_link") => printable(&response["url"]),
        Some("ensure") => ensure(response),
        Some(_) => outcomes(response),
        // A response without an action is text.
        None => text(response),
    }
}

fn refresh(response: &Value, asked: &Asked) -> String {
    // Integrations that were not due are left out, unless the command names one: they may be most of the table.
    let is_named = asked.integration_id.is_some();
    let rows = list(response, "integrations").iter();
    let rows = rows.filter(|row| is_named || row["outcome"] != "not_due" || !row["reason"].is_null());
    let rows = rows.map(|row| {
        let reason = if row["message"].is_null() { &row["reason"] } else { &row["message"] };
        let reason = match row["error_reason"].as_str() {
            Some(stored) => format!("{}: {}", in_words(stored), printable(reason)),
            None if reason.is_null() => String::new(),
            None => printable(reason),
        };
        vec![
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            plain(&row["seller_name"]),
            colored(&row["outcome"]),
            Cell::new(reason),
        ]
    });
    let table = filled(&["Team", "Id", "Seller", "Outcome", "Reason"], &rows.collect::<Vec<_>>());
    let incomplete = if response["complete"] == false {
        "\nThe run is not complete: the next run refreshes the rest."
    } else {
        ""
    };
    format!("{table}{}{}{incomplete}", counts(&response["counts"]), omitted(response))
}

fn status(report: &Value) -> String {
    let now =
        report["generated_at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok()).unwrap_or_default();
    let expiry =
        |at: &Value| Cell::new(at.as_i64().map_or_else(String::new, |at| relative(UnixTime(at), now)));
    let header = ["Team", "Id", "Seller", "State", "Status", "Access token", "Refresh token", "Last error"];
    // In a narrow table the last column would be a few letters wide, so the errors follow below the table.
    let is_narrow = table(&[]).width().is_some_and(|width| width < MIN_WIDTH_WITH_ERRORS);
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for row in list(report, "integrations") {
        let error = last_error(row);
        let mut cells = vec![
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            plain(&row["seller_name"]),
            colored(&row["state"]),
            plain(&row["status"]),
            expiry(&row["access_token_expires_at"]),
            expiry(&row["refresh_token_expires_at"]),
        ];
        if !is_narrow {
            cells.push(Cell::new(error));
        } else if !error.is_empty() {
            let name = [&row["integration_id"], &row["team_id"]].map(printable);
            errors.push(format!("integration {} of team {}: {error}\n", name[0], name[1]));
        }
        rows.push(cells);
    }
    let table = filled(&header[..if is_narrow { 7 } else { 8 }], &rows);
    format!("{table}{}{}{}", errors.concat(), summary(report), omitted(report))
}

/// The last failure of an integration: its reason in words, and its message.
fn last_error(row: &Value) -> String {
    let error = if row["error_message"].is_null() { &row["error_code"] } else { &row["error_message"] };
    match (row["error_reason"].as_str(), error.is_null()) {
        (Some(reason), false) => format!("{}: {}", in_words(reason), printable(error)),
        (Some(reason), true) => in_words(reason),
        (None, false) => printable(error),
        (None, true) => String::new(),
    }
}

/// Renders a status report without its integrations, like the function's own summary.
pub(super) fn summary(report: &Value) -> String {
    Summary::deserialize(report).map_or_else(|_| counts(&report["counts"]), |summary| summary.text())
}

fn connect(response: &Value) -> String {
    let part = |name: &str| printable(&response[name]);
    format!(
        "{}: integration {} of team {}, seller {} ({})",
        part("outcome"),
        part("integration_id"),
        part("team_id"),
        part("seller_name"),
        part("open_id")
    )
}

fn ensure(response: &Value) -> String {
    let part = |name: &str| printable(&response[name]);
    let expiry = response["access_token_expires_at"].as_i64().filter(|_| response["valid"] == true);
    let expiry = expiry
        .and_then(|at| DateTime::from_timestamp(at, 0))
        .map(|at| at.format(", whose access token expires at %Y-%m-%d %H:%M UTC").to_string());
    let why = (!response["message"].is_null())
        .then(|| format!("\n{}: {}", in_words(&part("reason")), part("message")));
    let retry = response["retry_after_seconds"].as_u64();
    let retry = retry.map(|seconds| format!("\nTry again in {}.", in_two_units(seconds)));
    let seller = (!response["seller_name"].is_null()).then(|| format!(" ({})", part("seller_name")));
    format!(
        "{}: integration {} of team {}{}{}{}{}",
        in_words(&part("outcome")),
        part("integration_id"),
        part("team_id"),
        seller.unwrap_or_default(),
        expiry.unwrap_or_default(),
        why.unwrap_or_default(),
        retry.unwrap_or_default()
    )
}

/// Renders a response that lists the outcome of each integration.
fn outcomes(response: &Value) -> String {
    let rows = list(response, "integrations").iter().map(|row| {
        let shops: Vec<String> = list(row, "shops").iter().map(text).collect();
        vec![
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            plain(&row["seller_name"]),
            colored(&row["outcome"]),
            Cell::new(shops.join(", ")),
            plain(&row["message"]),
        ]
    });
    let table = filled(&["Team", "Id", "Seller", "Outcome", "Shops", "Reason"], &rows.collect::<Vec<_>>());
    let incomplete =
        if response["complete"] == false { "\nThe run is not complete: the time ran out." } else { "" };
    format!("{table}{}{}{incomplete}", counts(&response["counts"]), omitted(response))
}

/// A table of these rows, without empty columns. An empty string if there are no rows.
pub(crate) fn filled(header: &[&str], rows: &[Vec<Cell>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let is_filled = |column: &usize| rows.iter().any(|row| !row[*column].content().is_empty());
    let columns: Vec<usize> = (0..header.len()).filter(is_filled).collect();
    let mut table = table(&columns.iter().map(|column| header[*column]).collect::<Vec<_>>());
    for row in rows {
        table.add_row(columns.iter().map(|column| row[*column].clone()).collect::<Vec<_>>());
    }
    format!("{table}\n")
}

/// A table as wide as the terminal, or else as `COLUMNS`, or else 100 characters wide.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if no_color() {
        table.force_no_tty();
    }
    // A terminal may say that it is 0 characters wide, which means that it does not know.
    let of_terminal = table.width().filter(|width| *width > 0 && std::io::stdout().is_terminal());
    table.set_width(of_terminal.or(columns()).unwrap_or(WIDTH));
    table
}

#[expect(clippy::disallowed_methods, reason = "the command may read the environment")]
fn columns() -> Option<u16> {
    std::env::var("COLUMNS").ok()?.parse().ok().filter(|width| *width > 0)
}

/// <https://no-color.org>
#[expect(clippy::disallowed_methods, reason = "the command may read the environment")]
fn no_color() -> bool {
    std::env::var("NO_COLOR").is_ok_and(|value| !value.is_empty())
}

/// The counts that are not zero, after the total: "12 examined, 3 refreshed".
pub(crate) fn counts(counts: &Value) -> String {
    // The counts that a person looks for first; then any others in the response.
    let order = [
        "examined",
        "total",
        "due",
        "refreshed",
        "would_refresh",
        "skipped_not_due",
        "skipped_locked",
        "cannot_refresh",
        "newly_marked",
        "valid",
        "valid_after_refresh",
        "marked",
        "would_mark",
        "skipped",
        "created",
        "would_create",
        "exists",
        "invalid",
        "not_written",
        "failed",
        "outcome_unknown",
        "deferred",
        "queued",
    ];
    let none = Map::new();
    let counts = counts.as_object().unwrap_or(&none);
    let others = counts.keys().map(String::as_str).filter(|name| !order.contains(name));
    let texts = order.into_iter().chain(others).filter_map(|name| {
        let count = counts.get(name)?.as_u64()?;
        let is_total = matches!(name, "examined" | "total");
        let name = name.strip_prefix("skipped_").unwrap_or(name);
        (count > 0 || is_total).then(|| format!("{count} {}", in_words(name)))
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn omitted(response: &Value) -> String {
    let count = response["truncated"].as_u64();
    count.map(|n| format!("\n{} not listed", counted(n, "more integration"))).unwrap_or_default()
}

fn list<'a>(response: &'a Value, name: &str) -> &'a [Value] {
    response[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn plain(value: &Value) -> Cell {
    Cell::new(if value.is_null() { String::new() } else { printable(value) })
}

fn printable(value: &Value) -> String {
    status_report::printable(&text(value))
}

/// A state or an outcome in words, in the color of its urgency.
fn colored(value: &Value) -> Cell {
    let words = Cell::new(in_words(&printable(value)));
    let color = match value.as_str().unwrap_or_default() {
        "refreshed" | "healthy" | "valid" | "valid_after_refresh" | "marked" => Color::Green,
        "failed" | "cannot_refresh" | "expired" | "unreadable" => Color::Red,
        "outcome_unknown" | "deferred" | "expiring_soon" | "needs_refresh" | "would_refresh"
        | "would_mark" => Color::Yellow,
        _ => return words,
    };
    words.fg(color)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_summarized_and_integrations_that_were_not_due_are_not_listed() {
        let text = response(
            &json!({
                "action": "refresh", "complete": false,
                "counts": {"examined": 3, "refreshed": 1, "skipped_not_due": 1, "failed": 1, "queued": 0},
                "integrations": [
                    {"team_id": "1", "integration_id": "7", "outcome": "failed", "reason": "refused", "message": "why\u{1b}[31m"},
                    {"team_id": "1", "integration_id": "8", "outcome": "not_due", "reason": null, "message": null},
                ],
            }),
            &Asked::default(),
        );
        assert!(text.contains("failed") && text.contains("why [31m") && !text.contains(" 8 "), "{text}");
        let summary = "3 examined, 1 refreshed, 1 not due, 1 failed\nThe run is not complete";
        assert!(text.contains(summary), "{text}");
    }

    #[test]
    fn a_text_response_is_unchanged() {
        assert_eq!(response(&json!("a summary"), &Asked::default()), "a summary");
    }
}
