//! Renders the function's responses as text: tables that fit the terminal, with colors only on a terminal.

use crate::{
    domain::integration::UnixTime,
    status_report::{self, in_words, relative},
};
use chrono::{DateTime, Utc};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;
use std::io::IsTerminal;

/// The width of a table if the output is not a terminal, in characters.
const WIDTH: u16 = 100;
/// The minimum width of a table with a readable column of errors, in characters.
const MIN_WIDTH_WITH_ERRORS: u16 = 110;

/// Renders a response to any action.
pub(super) fn response(response: &Value) -> String {
    match response["action"].as_str() {
        Some("refresh") => refresh(response),
        Some("status") => status(response),
        Some("connect") => connect(response),
        // Alone, so that a script can use it.
        Some("connect_link") => printable(&response["url"]),
        Some("ensure") => ensure(response),
        Some(_) => outcomes(response),
        // A response without an action is text.
        None => text(response),
    }
}

fn refresh(response: &Value) -> String {
    // Integrations that were not due are left out: they may be most of the table.
    let rows: Vec<&Value> = list(response, "integrations")
        .iter()
        .filter(|row| row["outcome"] != "not_due" || !row["reason"].is_null())
        .collect();
    let mut table = table(&["Team", "Id", "Seller", "Outcome", "Reason"]);
    for row in &rows {
        let reason = if row["message"].is_null() { &row["reason"] } else { &row["message"] };
        let reason = match row["error_reason"].as_str() {
            Some(stored) => format!("{}: {}", in_words(stored), printable(reason)),
            None if reason.is_null() => String::new(),
            None => printable(reason),
        };
        table.add_row([
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            plain(&row["seller_name"]),
            colored(&row["outcome"]),
            Cell::new(reason),
        ]);
    }
    let incomplete = if response["complete"] == false {
        "\nThe run is not complete: the next run refreshes the rest."
    } else {
        ""
    };
    format!("{}{}{}{incomplete}", non_empty(&table, &rows), counts(response), omitted(response))
}

fn status(report: &Value) -> String {
    let now =
        report["generated_at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok()).unwrap_or_default();
    let expiry =
        |at: &Value| Cell::new(at.as_i64().map_or_else(|| "-".into(), |at| relative(UnixTime(at), now)));
    let rows: Vec<&Value> = list(report, "integrations").iter().collect();
    let header = ["Team", "Id", "Seller", "State", "Status", "Access token", "Refresh token", "Last error"];
    // In a narrow table the last column would be a few letters wide, so the errors follow below the table.
    let is_narrow = table(&[]).width().is_some_and(|width| width < MIN_WIDTH_WITH_ERRORS);
    let mut table = table(&header[..if is_narrow { 7 } else { 8 }]);
    let mut errors = Vec::new();
    for row in &rows {
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
        table.add_row(cells);
    }
    format!("{}{}{}{}", non_empty(&table, &rows), errors.concat(), summary(report), omitted(report))
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

/// Renders a status report without its integrations.
pub(super) fn summary(report: &Value) -> String {
    let tokens = &report["refresh_tokens"];
    let expiring = ["within_1_day", "within_7_days", "within_14_days", "within_30_days"].map(|period| {
        let count = tokens[period].as_u64().unwrap_or(0);
        format!("{count} {}", in_words(period))
    });
    let expired = tokens["expired"].as_u64().unwrap_or(0);
    let mut lines =
        vec![counts(report), format!("refresh tokens: {expired} expired, {}", expiring.join(", "))];
    lines.extend(list(report, "warnings").iter().map(|warning| format!("warning: {}", printable(warning))));
    lines.join("\n")
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
    let retry =
        response["retry_after_seconds"].as_i64().map(|seconds| format!("\nAsk again in {seconds} s."));
    format!(
        "{}: integration {} of team {}{}{}{}",
        in_words(&part("outcome")),
        part("integration_id"),
        part("team_id"),
        expiry.unwrap_or_default(),
        why.unwrap_or_default(),
        retry.unwrap_or_default()
    )
}

/// Renders a response that lists the outcome of each integration.
fn outcomes(response: &Value) -> String {
    let rows: Vec<&Value> = list(response, "integrations").iter().collect();
    let mut table = table(&["Team", "Id", "Outcome", "Shops", "Reason"]);
    for row in &rows {
        let shops: Vec<String> = list(row, "shops").iter().map(text).collect();
        table.add_row([
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            colored(&row["outcome"]),
            Cell::new(shops.join(", ")),
            plain(&row["message"]),
        ]);
    }
    let incomplete =
        if response["complete"] == false { "\nThe run is not complete: the time ran out." } else { "" };
    format!("{}{}{}{incomplete}", non_empty(&table, &rows), counts(response), omitted(response))
}

/// A table as wide as the terminal, or else as `COLUMNS`, or else 100 characters wide.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if !std::io::stdout().is_terminal() {
        table.set_width(columns().unwrap_or(WIDTH));
    }
    if no_color() {
        table.force_no_tty();
        table.set_width(table.width().or(columns()).unwrap_or(WIDTH));
    }
    table
}

#[expect(clippy::disallowed_methods, reason = "the command may read the environment")]
fn columns() -> Option<u16> {
    std::env::var("COLUMNS").ok()?.parse().ok()
}

/// <https://no-color.org>
#[expect(clippy::disallowed_methods, reason = "the command may read the environment")]
fn no_color() -> bool {
    std::env::var("NO_COLOR").is_ok_and(|value| !value.is_empty())
}

/// The table, or nothing if it has no rows.
fn non_empty(table: &Table, rows: &[&Value]) -> String {
    if rows.is_empty() { String::new() } else { format!("{table}\n") }
}

/// The counts that are not zero, after the total: "12 examined, 3 refreshed".
fn counts(response: &Value) -> String {
    let order = [
        "examined",
        "total",
        "due",
        "refreshed",
        "would_refresh",
        "healthy",
        "needs_refresh",
        "expiring_soon",
        "expired",
        "cannot_refresh",
        "valid",
        "valid_after_refresh",
        "marked",
        "would_mark",
        "skipped",
        "skipped_not_due",
        "skipped_locked",
        "failed",
        "outcome_unknown",
        "deferred",
        "queued",
    ];
    let counts = &response["counts"];
    let texts = order.iter().filter_map(|name| {
        let count = counts[*name].as_u64()?;
        let is_total = matches!(*name, "examined" | "total");
        (count > 0 || is_total).then(|| format!("{count} {}", in_words(name)))
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn omitted(response: &Value) -> String {
    let count = response["truncated"].as_u64();
    count.map(|n| format!("\n{n} more integrations are not listed")).unwrap_or_default()
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
        "failed" | "cannot_refresh" | "expired" => Color::Red,
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
        let text = response(&json!({
            "action": "refresh", "complete": false,
            "counts": {"examined": 3, "refreshed": 1, "skipped_not_due": 1, "failed": 1, "queued": 0},
            "integrations": [
                {"team_id": "1", "integration_id": "7", "outcome": "failed", "reason": "refused", "message": "why\u{1b}[31m"},
                {"team_id": "1", "integration_id": "8", "outcome": "not_due", "reason": null, "message": null},
            ],
        }));
        assert!(text.contains("failed") && text.contains("why [31m") && !text.contains(" 8 "), "{text}");
        let summary = "3 examined, 1 refreshed, 1 skipped not due, 1 failed\nThe run is not complete";
        assert!(text.contains(summary), "{text}");
    }

    #[test]
    fn a_text_response_is_unchanged() {
        assert_eq!(response(&json!("a summary")), "a summary");
    }
}
