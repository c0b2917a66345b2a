//! The status report as plain text.

use super::{RefreshTokenCounts, StateCounts, StatusReport};
use crate::domain::{
    bounded_list::{MAX_BYTES, json_len},
    duration::in_two_units,
    integration::UnixTime,
};
use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Deserialize;

/// The width of the table, in characters.
const TABLE_WIDTH: u16 = 120;

/// The part of a report that its summary shows. The command reads it from the JSON report, so that both show the same text.
#[derive(Debug, Deserialize)]
pub struct Summary {
    generated_at: DateTime<Utc>,
    counts: StateCounts,
    refresh_tokens: RefreshTokenCounts,
    soonest_access_token_expiry: Option<UnixTime>,
    warnings: Vec<String>,
}

impl Summary {
    /// The counts and warnings, as a few lines of text.
    pub fn text(&self) -> String {
        let (counts, tokens, now) = (&self.counts, &self.refresh_tokens, self.generated_at);
        let soonest = self.soonest_access_token_expiry.map_or_else(|| "none".into(), |at| relative(at, now));
        // These two are rare, so they show only if there are any.
        let rare = [(counts.inactive, "inactive"), (counts.unreadable, "unreadable")];
        let rare =
            rare.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!(", {count} {name}"));
        let mut lines = vec![
            format!("TikTok Shop tokens at {}", now.format("%Y-%m-%d %H:%M UTC")),
            format!(
                "{}: {} healthy, {} due for a refresh, {} expiring soon, {} expired, {} cannot be refreshed{}",
                counted(counts.total, "integration"),
                counts.healthy,
                counts.needs_refresh,
                counts.expiring_soon,
                counts.expired,
                counts.cannot_refresh,
                rare.collect::<String>()
            ),
            format!(
                "Refresh tokens: {} expired; {} within a day, {} within 7 days, {} within 14, {} within 30",
                tokens.expired,
                tokens.within_1_day,
                tokens.within_7_days,
                tokens.within_14_days,
                tokens.within_30_days
            ),
            format!("Soonest expiry of an access token: {soonest}"),
        ];
        if !self.warnings.is_empty() {
            lines.push(format!("{}:", counted(self.warnings.len() as u64, "warning")));
            lines.extend(self.warnings.iter().map(|warning| format!("- {}", printable(warning))));
        }
        lines.join("\n")
    }
}

impl StatusReport {
    /// The counts and warnings, as a few lines of text.
    pub fn summary(&self) -> String {
        let summary = Summary {
            generated_at: self.generated_at,
            counts: self.counts,
            refresh_tokens: self.refresh_tokens,
            soonest_access_token_expiry: self.soonest_access_token_expiry,
            warnings: self.warnings.clone(),
        };
        summary.text()
    }

    /// The integrations as a text table, the most urgent first, with the summary below it.
    pub fn table(&self) -> String {
        let mut rows = self.integrations.len();
        loop {
            let table = self.table_of(rows);
            let bytes = json_len(&table);
            if bytes <= MAX_BYTES || rows == 0 {
                return table;
            }
            // Cells wrap, so the size of a row is known only after the table is rendered.
            rows = (rows * MAX_BYTES / bytes).min(rows - 1);
        }
    }

    /// The table of the first `rows` integrations.
    fn table_of(&self, rows: usize) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(TABLE_WIDTH)
            .set_header([
                "Team",
                "Id",
                "Seller",
                "State",
                "Status",
                "Access token",
                "Refresh token",
                "Last error",
            ]);
        let now = self.generated_at;
        let expiry = |at: Option<UnixTime>| at.map_or_else(|| "-".into(), |at| relative(at, now));
        for row in &self.integrations[..rows] {
            table.add_row([
                printable(&row.key.team_id),
                printable(&row.key.integration_id),
                printable(row.seller_name.as_deref().unwrap_or_default()),
                in_words(row.state.as_str()),
                printable(row.status.as_deref().unwrap_or_default()),
                expiry(row.access_token_expires_at),
                expiry(row.refresh_token_expires_at),
                printable(&row.last_error().unwrap_or_default()),
            ]);
        }
        let omitted = match self.truncated.unwrap_or(0) + (self.integrations.len() - rows) as u64 {
            0 => String::new(),
            n => format!("\n{n} less urgent integrations are not listed"),
        };
        format!("{table}{omitted}\n{}", self.summary())
    }
}

/// Text for a terminal: control characters become blanks, so that a stored value cannot steer the terminal.
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The name of a state or an outcome in words, which a table can wrap: `cannot_refresh` becomes "cannot refresh".
pub fn in_words(name: &str) -> String {
    name.replace('_', " ")
}

/// A count and its noun, which takes an "s" in the plural: "1 warning", "2 warnings".
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The time from `now` to `at` in its two largest units, such as "in 5d 3h" or "2h ago".
pub fn relative(at: UnixTime, now: DateTime<Utc>) -> String {
    let seconds = at.seconds_from(now);
    let span = in_two_units(seconds.unsigned_abs());
    if seconds >= 0 { format!("in {span}") } else { format!("{span} ago") }
}
