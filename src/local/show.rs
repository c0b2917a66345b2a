//! The local stack's tables. They show only the last characters of a token.

use crate::{
    aws::dynamodb::row::{self, Item},
    cli::show::table,
    domain::{
        due::{DuePolicy, Health},
        integration::UnixTime,
        reason::Reason,
    },
    response::RefreshResponse,
    status_report::{in_words, printable, relative},
};
use comfy_table::Table;

/// The table's rows and their states.
pub(super) fn rows(items: &[Item], policy: &DuePolicy) -> Table {
    let mut table = table(&["Team", "Id", "Seller", "Status", "Token", "Expires", "State"]);
    for item in items {
        let key = row::key_of(item);
        let candidate = row::candidate(item);
        let expires = item.get("access_token_expires_at").and_then(|value| value.as_n().ok());
        table.add_row([
            printable(&key.team_id),
            printable(&key.integration_id),
            printable(&text(item, "seller_name")),
            printable(&text(item, "status")),
            token_suffix(&text(item, "access_token")),
            expires
                .and_then(|at| at.parse().ok())
                .map_or_else(|| "-".into(), |at| relative(UnixTime(at), policy.now)),
            in_words(candidate.map_or(Health::Unreadable, |row| row.health(policy)).as_str()),
        ]);
    }
    table
}

/// The outcomes of a run, those that need attention first.
pub(super) fn outcomes(response: &RefreshResponse) -> Table {
    let mut table = table(&["Team", "Id", "Outcome", "Reason"]);
    for report in &response.integrations {
        let reason = report.message.as_deref().or(report.reason.map(Reason::as_str)).unwrap_or_default();
        table.add_row([
            printable(&report.key.team_id),
            printable(&report.key.integration_id),
            in_words(report.outcome.as_str()),
            printable(reason),
        ]);
    }
    table
}

fn text(item: &Item, name: &str) -> String {
    item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default()
}

fn token_suffix(token: &str) -> String {
    let start = token.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
    if token.len() > 8 { format!("…{}", &token[start..]) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_characters_of_a_token_show() {
        assert_eq!(token_suffix("TTP_1_0123456789abcdef"), "…cdef");
        assert_eq!(token_suffix("short"), "-");
        assert_eq!(token_suffix(""), "-");
    }
}
