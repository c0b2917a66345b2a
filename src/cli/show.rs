//! The function's answers for a person: tables that fit the terminal, coloured only on one.

use crate::{domain::integration::UnixTime, status_report::relative};
use chrono::{DateTime, Utc};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;
use std::io::IsTerminal;

/// The width where there is no terminal to ask.
const WIDTH: u16 = 100;
/// The width from which a column of errors is readable.
const ROOM_FOR_ERRORS: u16 = 110;

/// Any answer.
pub(super) fn answer(answer: &Value) -> String {
    match answer["action"].as_str() {
        Some("refresh") => refresh(answer),
        Some("status") => status(answer),
        Some("connect") => connect(answer),
        Some(_) => listed(answer),
        // A report that is text already.
        None => text(answer),
    }
}

fn refresh(answer: &Value) -> String {
    let rows = list(answer, "integrations");
    // What was not due says nothing, and may be most of the table.
    let told: Vec<&Value> =
        rows.iter().filter(|row| row["outcome"] != "not_due" || !row["reason"].is_null()).collect();
    let mut table = table(&["Team", "Id", "Outcome", "Why"]);
    for row in &told {
        let why = if row["message"].is_null() { &row["reason"] } else { &row["message"] };
        table.add_row([
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            coloured(&row["outcome"]),
            plain(why),
        ]);
    }
    let unfinished =
        if answer["complete"] == false { "\nNot complete: the rest was left to the next run." } else { "" };
    format!("{}{}{}{unfinished}", shown(&table, &told), counts(answer), left_out(answer))
}

fn status(report: &Value) -> String {
    let now =
        report["generated_at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok()).unwrap_or_default();
    let expiry =
        |at: &Value| Cell::new(at.as_i64().map_or_else(|| "-".into(), |at| relative(UnixTime(at), now)));
    let rows: Vec<&Value> = list(report, "integrations").iter().collect();
    let header = ["Team", "Id", "Seller", "State", "Status", "Access token", "Refresh token", "Last error"];
    // Where the last column would be a few letters wide, the errors stand below.
    let is_narrow = table(&[]).width().is_some_and(|width| width < ROOM_FOR_ERRORS);
    let mut table = table(&header[..if is_narrow { 7 } else { 8 }]);
    let mut below = Vec::new();
    for row in &rows {
        let error = if row["error_message"].is_null() { &row["error_code"] } else { &row["error_message"] };
        let mut cells = vec![
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            plain(&row["seller_name"]),
            coloured(&row["state"]),
            plain(&row["status"]),
            expiry(&row["access_token_expires_at"]),
            expiry(&row["refresh_token_expires_at"]),
        ];
        if !is_narrow {
            cells.push(plain(error));
        } else if !error.is_null() {
            let name = [&row["integration_id"], &row["team_id"]].map(printable);
            below.push(format!("integration {} of team {}: {}\n", name[0], name[1], printable(error)));
        }
        table.add_row(cells);
    }
    format!("{}{}{}{}", shown(&table, &rows), below.concat(), summary(report), left_out(report))
}

/// A status report without its integrations.
pub(super) fn summary(report: &Value) -> String {
    let tokens = &report["refresh_tokens"];
    let running_out = ["within_1_day", "within_7_days", "within_14_days", "within_30_days"].map(|span| {
        let count = tokens[span].as_u64().unwrap_or(0);
        format!("{count} {}", span.replace('_', " "))
    });
    let expired = tokens["expired"].as_u64().unwrap_or(0);
    let mut lines =
        vec![counts(report), format!("refresh tokens: {expired} expired, {}", running_out.join(", "))];
    lines.extend(list(report, "warnings").iter().map(|warning| format!("warning: {}", printable(warning))));
    lines.join("\n")
}

fn connect(answer: &Value) -> String {
    let part = |name: &str| text(&answer[name]);
    format!(
        "{}: integration {} of team {}, seller {} ({})",
        part("outcome"),
        part("integration_id"),
        part("team_id"),
        part("seller_name"),
        part("open_id")
    )
}

/// An answer with a list of outcomes.
fn listed(answer: &Value) -> String {
    let rows: Vec<&Value> = list(answer, "integrations").iter().collect();
    let mut table = table(&["Team", "Id", "Outcome", "Shops", "Why"]);
    for row in &rows {
        let shops: Vec<String> = list(row, "shops").iter().map(text).collect();
        table.add_row([
            plain(&row["team_id"]),
            plain(&row["integration_id"]),
            coloured(&row["outcome"]),
            Cell::new(shops.join(", ")),
            plain(&row["message"]),
        ]);
    }
    format!("{}{}{}", shown(&table, &rows), counts(answer), left_out(answer))
}

/// A table that fits the terminal, or `COLUMNS`, or 100 columns.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    if !std::io::stdout().is_terminal() {
        table.set_width(width_of_the_environment().unwrap_or(WIDTH));
    }
    if wants_no_colour() {
        table.force_no_tty();
        table.set_width(table.width().or(width_of_the_environment()).unwrap_or(WIDTH));
    }
    table
}

#[expect(clippy::disallowed_methods, reason = "an entry reads the environment")]
fn width_of_the_environment() -> Option<u16> {
    std::env::var("COLUMNS").ok()?.parse().ok()
}

/// <https://no-color.org>
#[expect(clippy::disallowed_methods, reason = "an entry reads the environment")]
fn wants_no_colour() -> bool {
    std::env::var("NO_COLOR").is_ok_and(|value| !value.is_empty())
}

fn shown(table: &Table, rows: &[&Value]) -> String {
    if rows.is_empty() { String::new() } else { format!("{table}\n") }
}

/// "12 examined, 3 refreshed": what is not zero, and always the first.
fn counts(answer: &Value) -> String {
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
    let counts = &answer["counts"];
    let told = order.iter().filter_map(|name| {
        let count = counts[*name].as_u64()?;
        let always = matches!(*name, "examined" | "total");
        (count > 0 || always).then(|| format!("{count} {}", name.replace('_', " ")))
    });
    told.collect::<Vec<_>>().join(", ")
}

fn left_out(answer: &Value) -> String {
    answer["truncated"].as_u64().map(|n| format!("\n{n} more are not listed")).unwrap_or_default()
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map(Vec::as_slice).unwrap_or_default()
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

/// What strangers wrote must not steer the terminal.
fn printable(value: &Value) -> String {
    text(value).replace(char::is_control, " ")
}

fn coloured(value: &Value) -> Cell {
    let colour = match value.as_str().unwrap_or_default() {
        "refreshed" | "healthy" | "valid" | "valid_after_refresh" | "marked" => Color::Green,
        "failed" | "cannot_refresh" | "expired" => Color::Red,
        "outcome_unknown" | "deferred" | "expiring_soon" | "needs_refresh" | "would_refresh"
        | "would_mark" => Color::Yellow,
        _ => return plain(value),
    };
    // In words, which a narrow column can break.
    Cell::new(printable(value).replace('_', " ")).fg(colour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_told_in_a_sentence_and_what_was_not_due_is_not_listed() {
        let told = answer(&json!({
            "action": "refresh", "complete": false,
            "counts": {"examined": 3, "refreshed": 1, "skipped_not_due": 1, "failed": 1, "queued": 0},
            "integrations": [
                {"team_id": "1", "integration_id": "7", "outcome": "failed", "reason": "refused", "message": "why\u{1b}[31m"},
                {"team_id": "1", "integration_id": "8", "outcome": "not_due", "reason": null, "message": null},
            ],
        }));
        assert!(told.contains("failed") && told.contains("why [31m") && !told.contains(" 8 "), "{told}");
        assert!(
            told.contains("3 examined, 1 refreshed, 1 skipped not due, 1 failed\nNot complete"),
            "{told}"
        );
    }

    #[test]
    fn text_passes_as_it_is() {
        assert_eq!(answer(&json!("a summary")), "a summary");
    }
}
