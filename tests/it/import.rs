//! `import`: rows for existing tokens, none of them overwritten, and none lost in silence.

use super::support::{Fault, Step, World, logs, world::Shop};
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::TimeDelta;
use serde_json::{Value, json};

/// A team of this test's own, so that its log lines can be told from others'.
fn team() -> String {
    format!("import-{}", uuid::Uuid::new_v4().simple())
}

fn row(team: &str, id: &str) -> Value {
    json!({"team_id": team, "integration_id": id, "refresh_token": format!("TTR_{id}")})
}

fn import(rows: &[Value]) -> Value {
    json!({"action": "import", "integrations": rows})
}

fn shop(team: &str, id: &str) -> Shop {
    super::support::world::shop(team, id, "")
}

/// The outcome and reason of each row, in the order of the response.
fn outcomes(answer: &Value) -> Vec<String> {
    let rows = answer["integrations"].as_array().unwrap().iter();
    let told = rows.map(|row| match row["reason"].as_str() {
        None => row["outcome"].as_str().unwrap().to_owned(),
        Some(reason) => format!("{}: {reason}", row["outcome"].as_str().unwrap()),
    });
    told.collect()
}

#[tokio::test]
async fn rows_are_created_and_refreshed_in_the_next_run() {
    let (world, team) = (World::new().await, team());
    let pair = world.tiktok.authorize("seller-1", "Imported Ink");
    let full = json!({
        "team_id": team, "integration_id": 1, "status": null, "app_key": super::support::world::APP_KEY,
        "access_token": pair.access_token, "access_token_expires_at": world.now().timestamp() + 600,
        "refresh_token": pair.refresh_token, "refresh_token_expires_at": 4_841_467_787_i64,
        "open_id": "seller-1", "seller_name": "Imported Ink", "seller_base_region": "VN",
        "granted_scopes": ["seller.order.info"],
    });
    let mut paused = row(&team, "2");
    paused["status"] = json!("paused");
    let answer = world.refresh(import(&[full, paused])).await;
    assert_eq!(
        answer,
        json!({
            "action": "import", "dry_run": false,
            "counts": {"created": 2, "would_create": 0, "exists": 0, "invalid": 0, "not_written": 0},
            "integrations": [
                {"team_id": team, "integration_id": "1", "outcome": "created", "reason": null, "message": null},
                {"team_id": team, "integration_id": "2", "outcome": "created", "reason": null, "message": null},
            ],
        })
    );
    let mut stored = world.row(&shop(&team, "1")).await;
    assert!(stored.remove("authorization_id").is_some(), "an import begins a generation");
    let text = |value: &str| AttributeValue::S(value.into());
    let number = |value: i64| AttributeValue::N(value.to_string());
    let expected = [
        ("access_token", text(&pair.access_token)),
        ("access_token_expires_at", number(world.now().timestamp() + 600)),
        ("app_key", text(super::support::world::APP_KEY)),
        ("granted_scopes", AttributeValue::L(vec![text("seller.order.info")])),
        ("integration_id", text("1")),
        ("open_id", text("seller-1")),
        ("refresh_token", text(&pair.refresh_token)),
        ("refresh_token_expires_at", number(4_841_467_787)),
        ("seller_base_region", text("VN")),
        ("seller_name", text("Imported Ink")),
        ("status", text("active")),
        ("team_id", text(&team)),
    ];
    assert_eq!(stored, expected.map(|(name, value)| (name.to_owned(), value)).into());
    let names: Vec<_> = world.row(&shop(&team, "2")).await.into_keys().collect();
    assert_eq!(names, ["authorization_id", "integration_id", "refresh_token", "status", "team_id"]);

    let run = world.refresh_all().await;
    assert_eq!((&run["counts"]["refreshed"], &run["counts"]["skipped_not_due"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn an_existing_row_stays_as_it_is_and_an_import_can_be_repeated() {
    let (world, team) = (World::new().await, team());
    let known = world.integration().team(&team).id("1").insert().await;
    let before = world.row(&known).await;
    let rows = [row(&team, "1"), row(&team, "2")];
    assert_eq!(outcomes(&world.refresh(import(&rows)).await), ["exists", "created"]);
    assert_eq!(outcomes(&world.refresh(import(&rows)).await), ["exists", "exists"], "the same row again");
    assert_eq!(world.row(&known).await, before);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_created_and_writes_nothing() {
    let (world, team) = (World::new().await, team());
    world.integration().team(&team).id("1").insert().await;
    let mut event = import(&[row(&team, "1"), row(&team, "2")]);
    event["dry_run"] = json!(true);
    let answer = world.refresh(event.clone()).await;
    assert_eq!(
        (outcomes(&answer), &answer["dry_run"]),
        (vec!["exists".into(), "would_create".into()], &json!(true))
    );
    assert_eq!((world.aws.writes(), world.tiktok.all_calls()), (0, 0));
    world.aws.fault(Step::Read, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(world.invoke(&event).await.unwrap_err().error_type(), "TableUnavailable");
}

#[tokio::test]
async fn nothing_is_written_when_any_row_is_invalid() {
    let (world, team) = (World::new().await, team());
    let mut milliseconds = row(&team, "2");
    milliseconds["access_token_expires_at"] = json!(1_764_100_000_000_i64);
    let rows = [row(&team, "1"), milliseconds, row(&team, "3"), row(&team, "1")];
    for dry_run in [false, true] {
        let mut event = import(&rows);
        event["dry_run"] = json!(dry_run);
        let answer = world.refresh(event).await;
        assert_eq!(
            outcomes(&answer),
            [
                "not_written: other_rows_invalid",
                "invalid: expiry_in_milliseconds",
                "not_written: other_rows_invalid",
                "invalid: duplicate_key"
            ]
        );
        assert_eq!((&answer["counts"]["invalid"], &answer["counts"]["not_written"]), (&json!(2), &json!(2)));
    }
    assert_eq!((world.aws.requests(), world.everything().await.len()), (0, 0));
}

#[tokio::test]
async fn ids_are_kept_digit_for_digit() {
    let (world, team) = (World::new().await, team());
    // As doubles these two are the same.
    let ids = ["9007199254740992", "9007199254740993", "123456789012345678901234567890"];
    let rows =
        ids.map(|id| format!(r#"{{"team_id":"{team}","integration_id":{id},"refresh_token":"TTR_{id}"}}"#));
    let event = format!(r#"{{"action":"import","integrations":[{}]}}"#, rows.join(","));
    world.function.handle(&event, world.deadline()).await.unwrap();
    for id in ids {
        assert_eq!(world.text(&shop(&team, id), "refresh_token").await, Some(format!("TTR_{id}")));
    }
}

#[tokio::test]
async fn an_own_create_whose_answer_was_lost_counts_as_created() {
    for fault in [Fault::LoseAnswer, Fault::Cut, Fault::Duplicate] {
        let (world, team) = (World::new().await, team());
        world.aws.fault(Step::Settle, 1, fault.clone());
        let answer = world.refresh(import(&[row(&team, "1")])).await;
        assert_eq!(outcomes(&answer), ["created"], "{fault:?}");
        assert_eq!(world.text(&shop(&team, "1"), "refresh_token").await.as_deref(), Some("TTR_1"));
    }
}

#[tokio::test]
async fn a_write_that_fails_is_not_written_and_the_others_are() {
    let (world, team) = (World::with(&[("MAX_CONCURRENCY", "1")]).await, team());
    world.aws.fault(Step::Settle, 1, Fault::Refuse(400, "ValidationException"));
    let answer = world.refresh(import(&[row(&team, "1"), row(&team, "2")])).await;
    assert_eq!(outcomes(&answer), ["not_written: store_error", "created"]);
    let message = answer["integrations"][0]["message"].as_str().unwrap();
    assert!(message.contains("ValidationException"), "{message}");
    let lines = logs::lines_with("team_id", &team);
    let said: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert!(
        said[0].starts_with("could not import the TikTok Shop integration: DynamoDB refused"),
        "{said:?}"
    );
    assert_eq!(said[1], "TikTok Shop integration imported");
}

#[tokio::test]
async fn what_the_time_does_not_suffice_for_is_not_written() {
    let (world, team) = (World::new().await, team());
    let event = import(&[row(&team, "1")]).to_string();
    let answer = world.function.handle(&event, world.now() + TimeDelta::seconds(1)).await.unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(outcomes(&answer), ["not_written: out_of_time"]);
}

#[tokio::test]
async fn no_value_of_a_refused_event_is_repeated() {
    let (world, team) = (World::new().await, team());
    // `refresh` and `invoke` see to it that no answer, error or log line has a token.
    for integrations in [json!("TTR_x"), json!({"refresh_token": "TTR_x"}), json!(vec![json!({}); 101])] {
        let event = json!({"action": "import", "integrations": integrations});
        assert_eq!(world.invoke(&event).await.unwrap_err().error_type(), "BadEvent");
    }
    let mut odd = row(&team, "1");
    odd["status"] = json!(["TTR_x"]);
    let answer = world.refresh(import(&[json!("TTR_x"), json!(["TTR_x"]), odd])).await;
    assert_eq!(answer["counts"]["invalid"], 3);
}
