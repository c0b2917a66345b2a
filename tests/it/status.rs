//! What an operator is told of the tokens' health, and the clean-up.

use super::support::{Fault, NIGHT, Step, World, days, hours, minutes};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

/// One integration in each state, and some oddities.
async fn town() -> World {
    let world = World::new().await;
    world.integration().id("healthy").text("seller_name", "Bánh Mì").insert().await;
    world.integration().id("needs").expiring_in(hours(20)).insert().await;
    world.integration().id("soon").expiring_in(minutes(20)).insert().await;
    world.integration().id("expired").expiring_in(hours(-1)).refreshable_for(days(6)).insert().await;
    world.integration().id("no-access-token").without("access_token").insert().await;
    world.integration().id("marked").status("error").text("error_code", "36004005").insert().await;
    world.integration().id("old").refreshable_for(days(-1)).insert().await;
    world.integration().id("no-refresh-token").without("refresh_token").insert().await;
    let text = AttributeValue::S("soon".into());
    world.integration().id("paused").status("paused").expiring_in(hours(-1)).insert().await;
    world.integration().id("garbled").attribute("refresh_token_expires_at", text).insert().await;
    world
}

#[tokio::test]
async fn the_report_counts_every_integration_in_the_first_state_that_fits() {
    let world = town().await;
    let report = world.refresh(json!({"action": "status"})).await;
    assert_eq!(report["action"], "status");
    assert_eq!(report["generated_at"], "2026-11-23T02:00:00Z");
    assert_eq!(
        report["counts"],
        json!({"total": 10, "healthy": 1, "expiring_soon": 1, "expired": 2, "needs_refresh": 1, "cannot_refresh": 3,
               "inactive": 1, "unreadable": 1})
    );
    assert_eq!(
        report["refresh_tokens"],
        json!({"expired": 2, "within_1_day": 0, "within_7_days": 1, "within_14_days": 1, "within_30_days": 1})
    );
    assert_eq!(report["soonest_access_token_expiry"], NIGHT - 3600);
    let listed: Vec<_> =
        report["integrations"].as_array().unwrap().iter().map(|row| row["state"].clone()).collect();
    let urgent = [
        "unreadable",
        "cannot_refresh",
        "cannot_refresh",
        "cannot_refresh",
        "expired",
        "expired",
        "expiring_soon",
        "needs_refresh",
        "healthy",
        "inactive",
    ];
    assert_eq!(listed, urgent);
    let find = |id: &str| {
        let rows = report["integrations"].as_array().unwrap();
        rows.iter().find(|row| row["integration_id"] == id).unwrap().clone()
    };
    assert_eq!(
        (&find("marked")["error_code"], &find("marked")["status"]),
        (&json!("36004005"), &json!("error"))
    );
    assert_eq!(find("healthy")["seller_name"], "Bánh Mì");
    let warnings = report["warnings"].to_string();
    assert!(
        warnings.contains("integration garbled of team") && warnings.contains("expected a number"),
        "{warnings}"
    );
}

#[tokio::test]
async fn a_report_reads_only_and_asks_for_no_secret() {
    let world = town().await;
    let before = world.everything().await;
    for format in ["json", "table", "summary"] {
        world.refresh(json!({"action": "status", "format": format})).await;
    }
    assert_eq!(world.everything().await, before);
    assert_eq!((world.aws.writes(), world.aws.count(Step::Secret), world.tiktok.all_calls()), (0, 0, 0));
}

#[tokio::test]
async fn a_row_without_any_token_is_counted_once() {
    let world = World::new().await;
    world.integration().without("access_token").without("refresh_token").insert().await;
    let counts = world.refresh(json!({"action": "status"})).await["counts"].clone();
    assert_eq!((&counts["total"], &counts["cannot_refresh"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_report_covers_the_team_that_it_names() {
    let world = town().await;
    world.integration().team("another").insert().await;
    let team = world.refresh(json!({"action": "status", "team_id": "another"})).await;
    assert_eq!(team["counts"]["total"], 1);
    assert_eq!(world.refresh(json!({"action": "status"})).await["counts"]["total"], 11);
}

#[tokio::test]
async fn a_table_and_a_summary_are_plain_text() {
    let world = town().await;
    world.integration().team("1").id("17").status("error").text("error_message", "gone").insert().await;
    let table = world.refresh(json!({"action": "status", "team_id": 1, "format": "table"})).await;
    let table = table.as_str().unwrap();
    let row = table.lines().find(|line| line.contains("│ 17 ") || line.contains("┆ 17 ")).unwrap();
    assert!(row.contains("cannot refresh") && row.contains("gone"), "{table}");
    assert!(table.ends_with("Soonest expiry of an access token: none"), "{table}");
    let summary = world.refresh(json!({"action": "status", "format": "summary"})).await;
    let summary = summary.as_str().unwrap();
    assert!(summary.contains("11 integrations: 1 healthy") && !summary.contains("Bánh Mì"), "{summary}");
    assert!(!table.contains('\u{1b}') && !summary.contains('\u{1b}'), "no colours in an answer");
}

#[tokio::test]
async fn a_widget_is_a_fragment_without_script_in_which_nothing_of_a_sellers_is_markup() {
    let world = town().await;
    let evil = "<img src=x onerror=\"alert(1)\">";
    world.integration().id("'><script>").status("error").text("seller_name", evil).insert().await;
    let event: Value = serde_json::from_str(include_str!("../../events/status-widget.json")).unwrap();
    let html = world.refresh(event).await.as_str().unwrap().to_owned();
    assert!(html.contains("&lt;img src=x") && html.contains("<svg"), "{html}");
    assert!(!html.contains("<img") && !html.contains("<script") && !html.contains("http"), "{html}");
    let help = world.refresh(json!({"describe": true})).await;
    assert!(help.as_str().unwrap().contains("### Example parameters"));
    assert_eq!(world.aws.writes(), 0);
}

#[tokio::test]
async fn a_status_that_differs_from_active_only_by_case_or_blanks_is_warned_of_and_left_alone() {
    let world = World::new().await;
    world.integration().team("1").id("7").status("Active").expiring_in(hours(1)).insert().await;
    world.integration().team("1").id("8").status("paused").expiring_in(hours(1)).insert().await;
    let warnings = world.refresh(json!({"action": "status"})).await["warnings"].clone();
    assert_eq!(
        warnings,
        json!([
            "the function leaves rows alone whose status differs from \"active\" only by case or blanks; correct the status \
             if it is a typo: \"Active\" (integration 7 of team 1), 1 in all"
        ])
    );
    assert_eq!(world.refresh_all().await["counts"]["skipped_not_due"], 2);
    assert_eq!(world.tiktok.all_calls(), 0);
}

#[tokio::test]
async fn two_rows_with_one_authorization_are_warned_of() {
    let world = World::new().await;
    world.integration().id("1").text("open_id", "one-seller").insert().await;
    world.integration().id("2").text("open_id", "one-seller").insert().await;
    world.integration().id("3").text("open_id", "one-seller").text("app_key", "another-app").insert().await;
    let warnings = world.refresh(json!({"action": "status"})).await["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    assert!(warnings[0].as_str().unwrap().contains("share one authorization"));
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_named() {
    let world = World::new().await;
    world.aws.fault(Step::Scan, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    let error = world.invoke(&json!({"action": "status"})).await.unwrap_err();
    assert_eq!(error.error_type(), "TableUnavailable");
    assert!(error.to_string().contains("allow dynamodb:Scan"), "{error}");
}

fn outcomes(answer: &Value) -> Value {
    let rows = answer["integrations"].as_array().unwrap();
    let mut rows: Vec<_> = rows.iter().map(|row| json!([row["integration_id"], row["outcome"]])).collect();
    rows.sort_by_key(ToString::to_string);
    json!(rows)
}

#[tokio::test]
async fn a_clean_up_marks_what_has_expired_and_nothing_else() {
    let world = World::new().await;
    let old = world.integration().id("old").refreshable_for(days(-1)).insert().await;
    let failed = world.integration().id("failed").refreshable_for(days(-1)).status("error").insert().await;
    let users = world.integration().id("users").refreshable_for(days(-1)).status("paused").insert().await;
    let held = world.integration().id("held").refreshable_for(days(-1)).leased_for(minutes(5)).insert().await;
    let alive = world.integration().id("alive").expiring_in(hours(-9)).insert().await;

    let before = world.everything().await;
    let dry = world.refresh(json!({"action": "cleanup", "dry_run": true})).await;
    assert_eq!((world.everything().await == before, &dry["counts"]["would_mark"]), (true, &json!(2)));
    assert_eq!(outcomes(&dry), json!([["failed", "would_mark"], ["old", "would_mark"]]));

    let answer = world.refresh(json!({"action": "cleanup"})).await;
    assert_eq!(
        answer["counts"],
        json!({"examined": 5, "marked": 2, "would_mark": 0, "skipped": 3, "failed": 0, "deferred": 0})
    );
    for (shop, status) in
        [(&old, "expired"), (&failed, "expired"), (&users, "paused"), (&held, "active"), (&alive, "active")]
    {
        assert_eq!(world.text(shop, "status").await.as_deref(), Some(status), "{}", shop.integration_id);
    }
    assert_eq!(world.refresh(json!({"action": "cleanup"})).await["counts"]["marked"], 0);
    assert_eq!(world.text(&old, "note").await.as_deref(), Some("the user's own"));
}

#[tokio::test]
async fn a_clean_up_leaves_a_seller_alone_who_connects_meanwhile() {
    let world = World::new().await;
    let shop = world.integration().refreshable_for(days(-1)).insert().await;
    let gate = world.aws.hold(Step::Settle);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let event = json!({"action": "cleanup"});
    let run =
        tokio::spawn(
            async move { super::support::world::invoke(&function, &event, deadline).await.unwrap() },
        );
    gate.reached().await;
    let renewed = AttributeValue::N((world.now() + days(300)).timestamp().to_string());
    world.write(&shop, &[("refresh_token_expires_at", renewed)]).await;
    gate.open();
    assert_eq!(run.await.unwrap()["counts"]["skipped"], 1);
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
}
