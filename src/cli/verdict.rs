//! The problems that a response shows, in words. If there are any, the exit code is 1.

use crate::{
    domain::reason::Reason,
    status_report::{counted, printable},
};
use serde_json::Value;

/// What the command asked for. The problems and the tables depend on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) team_id: Option<String>,
    pub(super) integration_id: Option<String>,
    /// Whether the command forces refreshes and is not a dry run.
    pub(super) forces: bool,
}

/// The counts that are a problem, and what the sentence says of the integrations.
const PROBLEMS: [(&str, &str); 8] = [
    ("unreadable", "cannot be read"),
    ("cannot_refresh", "cannot be refreshed: the seller must connect again"),
    ("expired", "with an expired access token"),
    ("failed", "failed"),
    ("outcome_unknown", "with an unknown outcome"),
    ("deferred", "deferred"),
    ("invalid", "invalid"),
    ("not_written", "not written"),
];

/// All problems in a response, as sentences for a person.
pub(super) fn problems(response: &Value, asked: &Asked) -> Vec<String> {
    let counts = &response["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    let mut problems = Vec::new();
    if response["action"] == "ensure" && response["valid"] != true {
        problems.push("there is no usable access token".to_owned());
    }
    let is_not_found = is_not_found(response, asked);
    for (name, words) in PROBLEMS {
        if count(name) > 0 && !is_not_found {
            problems.push(format!("{} {words}", counted(count(name), "integration")));
        }
    }
    let is_incomplete = response["complete"] == false;
    if is_incomplete && count("deferred") == 0 {
        problems.push("the time ran out before every row was read".to_owned());
    }
    if let Some(team_id) = asked.team_id.as_deref().filter(|_| is_not_found) {
        let team_id = printable(team_id);
        problems.push(match &asked.integration_id {
            Some(id) => format!("there is no integration {} of team {team_id}", printable(id)),
            None => format!("there is no integration of team {team_id}"),
        });
    }
    if asked.forces && count("skipped_locked") > 0 {
        let locked = counted(count("skipped_locked"), "integration");
        problems.push(format!("{locked} not refreshed: another attempt holds the lease"));
    }
    if asked.integration_id.is_some() {
        problems.extend(skipped(response, asked));
    }
    problems
}

/// Whether the team or the integration that the command names does not exist.
fn is_not_found(response: &Value, asked: &Asked) -> bool {
    let counts = &response["counts"];
    let examined = counts["examined"].as_u64().or(counts["total"].as_u64());
    let is_empty = asked.team_id.is_some() && examined == Some(0) && response["complete"] != false;
    let reason = &response["integrations"][0]["reason"];
    is_empty || (asked.integration_id.is_some() && *reason == Reason::NotFound.as_str())
}

/// Why the integration that the command names was skipped, although `verify` or `refresh --force` asked for it by its ids.
fn skipped(response: &Value, asked: &Asked) -> Option<String> {
    let row = response["integrations"].get(0)?;
    let is_skipped = match response["action"].as_str()? {
        "verify" => row["outcome"] == "skipped",
        "refresh" => asked.forces && row["outcome"] == "not_due",
        _ => false,
    };
    let why = row["message"].as_str().unwrap_or("it is not due");
    is_skipped.then(|| format!("the integration was skipped: {}", printable(why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(action: &str, counts: &Value) -> Vec<String> {
        problems(&json!({"action": action, "complete": true, "counts": counts}), &Asked::default())
    }

    #[test]
    fn a_response_without_failures_is_well() {
        let counts =
            json!({"examined": 9, "due": 3, "refreshed": 3, "skipped_not_due": 5, "skipped_locked": 1});
        assert!(run("refresh", &counts).is_empty());
        assert!(run("status", &json!({"total": 3, "healthy": 2, "inactive": 1})).is_empty());
        assert!(run("verify", &json!({"examined": 3, "valid": 2, "skipped": 1})).is_empty());
        assert!(run("import", &json!({"created": 3, "exists": 2})).is_empty());
        let ensured = json!({"action": "ensure", "valid": true});
        let named = Asked { team_id: Some("1".into()), integration_id: Some("7".into()), forces: false };
        assert!(problems(&ensured, &named).is_empty());
    }

    #[test]
    fn each_kind_of_failure_is_a_sentence() {
        for (action, name, sentence) in [
            ("refresh", "failed", "2 integrations failed"),
            ("refresh", "outcome_unknown", "2 integrations with an unknown outcome"),
            (
                "refresh",
                "cannot_refresh",
                "2 integrations cannot be refreshed: the seller must connect again",
            ),
            ("cleanup", "deferred", "2 integrations deferred"),
            ("status", "expired", "2 integrations with an expired access token"),
            ("status", "unreadable", "2 integrations cannot be read"),
            ("import", "invalid", "2 integrations invalid"),
            ("import", "not_written", "2 integrations not written"),
        ] {
            assert_eq!(run(action, &json!({"examined": 2, name: 2})), [sentence]);
        }
        let none = problems(&json!({"action": "ensure", "valid": false}), &Asked::default());
        assert_eq!(none, ["there is no usable access token"]);
        let cut_off = json!({"action": "verify", "complete": false, "counts": {"valid": 3, "deferred": 0}});
        assert_eq!(problems(&cut_off, &Asked::default()), ["the time ran out before every row was read"]);
    }

    #[test]
    fn what_is_asked_for_by_name_must_be_found_and_done() {
        let asked = |integration_id: Option<&str>, forces| Asked {
            team_id: Some("9".into()),
            integration_id: integration_id.map(Into::into),
            forces,
        };
        let nothing = json!({"action": "refresh", "complete": true, "counts": {"examined": 0}});
        assert_eq!(problems(&nothing, &asked(None, false)), ["there is no integration of team 9"]);
        assert_eq!(problems(&nothing, &asked(Some("7"), false)), ["there is no integration 7 of team 9"]);
        assert!(problems(&nothing, &Asked::default()).is_empty(), "an empty table is well");
        let failed = json!({"reason": "not_found", "outcome": "failed"});
        let failed =
            json!({"action": "refresh", "counts": {"examined": 1, "failed": 1}, "integrations": [failed]});
        assert_eq!(problems(&failed, &asked(Some("7"), false)), ["there is no integration 7 of team 9"]);
        let cut_off = json!({"action": "refresh", "complete": false, "counts": {"examined": 0}});
        assert_eq!(problems(&cut_off, &asked(None, false)), ["the time ran out before every row was read"]);

        let row = |action: &str, outcome: &str| {
            let row = json!({"outcome": outcome, "message": "its status is \"paused\""});
            json!({"action": action, "counts": {"examined": 1}, "integrations": [row]})
        };
        let skipped = ["the integration was skipped: its status is \"paused\""];
        assert_eq!(problems(&row("verify", "skipped"), &asked(Some("7"), false)), skipped);
        assert!(problems(&row("verify", "skipped"), &asked(None, false)).is_empty(), "one of a team's");
        assert_eq!(problems(&row("refresh", "not_due"), &asked(Some("7"), true)), skipped);
        assert!(problems(&row("refresh", "not_due"), &asked(Some("7"), false)).is_empty());
        let locked = json!({"action": "refresh", "counts": {"examined": 1, "skipped_locked": 1}});
        let lease = "1 integration not refreshed: another attempt holds the lease";
        assert_eq!(problems(&locked, &Asked { forces: true, ..Asked::default() }), [lease]);
        assert!(problems(&locked, &Asked::default()).is_empty(), "the other attempt refreshes it");
    }
}
