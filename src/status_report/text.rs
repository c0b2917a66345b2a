//! The status report as text for a person.

use super::StatusReport;
use crate::domain::{
    bounded_list::{MAX_BYTES, json_len},
    integration::UnixTime,
};
use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use std::time::Duration;

/// How wide the table is, in characters.
const TABLE_WIDTH: u16 = 120;

impl StatusReport {
    /// A few lines for a person.
    pub fn summary(&self) -> String {
        let (counts, tokens, now) = (&self.counts, &self.refresh_tokens, self.generated_at);
        let soonest = self.soonest_access_token_expiry.map_or_else(|| "none".into(), |at| relative(at, now));
        let mut lines = vec![
            format!("TikTok Shop tokens at {}", now.format("%Y-%m-%d %H:%M UTC")),
            format!(
                "{} integrations: {} healthy, {} need a refresh, {} expiring soon, {} expired, {} cannot be refreshed",
                counts.total,
                counts.healthy,
                counts.needs_refresh,
                counts.expiring_soon,
                counts.expired,
                counts.cannot_refresh
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
            lines.push(format!("{} warnings:", self.warnings.len()));
            lines.extend(self.warnings.iter().map(|warning| format!("- {warning}")));
        }
        lines.join("\n")
    }

    /// The integrations as a table for a person, the most urgent first, with the summary below it.
    pub fn table(&self) -> String {
        let mut listed = self.integrations.len();
        loop {
            let table = self.table_of(listed);
            let bytes = json_len(&table);
            if bytes <= MAX_BYTES || listed == 0 {
                return table;
            }
            // Lines wrap, so what a row takes is known only when the table is drawn.
            listed = (listed * MAX_BYTES / bytes).min(listed - 1);
        }
    }

    /// The table of the first `listed` integrations.
    fn table_of(&self, listed: usize) -> String {
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
        for row in &self.integrations[..listed] {
            table.add_row([
                row.key.team_id.to_string(),
                row.key.integration_id.to_string(),
                row.seller_name.clone().unwrap_or_default(),
                row.state.as_str().to_owned(),
                row.status.clone(),
                expiry(row.access_token_expires_at),
                expiry(row.refresh_token_expires_at),
                row.error_message.clone().or(row.error_code.clone()).unwrap_or_default(),
            ]);
        }
        let left_out = match self.truncated.unwrap_or(0) + (self.integrations.len() - listed) as u64 {
            0 => String::new(),
            n => format!("\n{n} more integrations, less urgent than these"),
        };
        format!("{table}{left_out}\n{}", self.summary())
    }
}

/// "in 5days 3h" or "2h ago": the two largest units of it.
pub fn relative(at: UnixTime, now: DateTime<Utc>) -> String {
    let seconds = at.seconds_from(now);
    let span = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs())).to_string();
    let span = span.split(' ').take(2).collect::<Vec<_>>().join(" ");
    if seconds >= 0 { format!("in {span}") } else { format!("{span} ago") }
}
