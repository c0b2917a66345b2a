//! The table of integrations, for a person at a terminal. Of a token only its last characters show.

use crate::{
    aws::dynamodb::row::{self, Item},
    cli::show::table,
    domain::integration::{DuePolicy, UnixTime},
    response::RefreshResponse,
    status_report::relative,
};
use comfy_table::Table;

/// The rows as they are.
pub(super) fn rows(items: &[Item], rule: &DuePolicy) -> Table {
    let mut table = table(&["Team", "Id", "Seller", "Status", "Token", "Expires", "State"]);
    for item in items {
        let key = row::key_of(item);
        let candidate = row::candidate(item);
        let expires = item.get("access_token_expires_at").and_then(|value| value.as_n().ok());
        table.add_row([
            key.team_id.to_string(),
            key.integration_id.to_string(),
            text(item, "seller_name"),
            text(item, "status"),
            tail(&text(item, "access_token")),
            expires
                .and_then(|at| at.parse().ok())
                .map_or_else(|| "-".into(), |at| relative(UnixTime(at), rule.now)),
            candidate.map_or_else(|_| "malformed".into(), |row| row.health(rule).as_str().to_owned()),
        ]);
    }
    table
}

/// What a run did, what needs a person first.
pub(super) fn report(answer: &RefreshResponse) -> Table {
    let mut table = table(&["Team", "Id", "Outcome", "Why"]);
    for report in &answer.integrations {
        let key = &report.key;
        let why = report.message.as_deref().or(report.reason).unwrap_or_default();
        table.add_row([&key.team_id, &key.integration_id, report.outcome.as_str(), why]);
    }
    table
}

fn text(item: &Item, name: &str) -> String {
    item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default()
}

fn tail(token: &str) -> String {
    let from = token.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
    if token.len() > 8 { format!("…{}", &token[from..]) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_token_shows() {
        assert_eq!(tail("TTP_1_0123456789abcdef"), "…cdef");
        assert_eq!(tail("short"), "-");
        assert_eq!(tail(""), "-");
    }
}
