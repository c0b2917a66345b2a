//! No token and no secret shows in anything that the function says. Every other test searches its logs and answers
//! too; these make sure that the search would find something.

use super::support::{
    Behaviour, Fault, Step, World, hours, logs,
    world::{APP_SECRET, IMPATIENT, SECRETS},
};
use serde_json::json;
use tiktok_token_refresh::aws::dynamodb::{Conflict, Table, updates};

#[tokio::test]
async fn the_log_that_is_searched_is_the_one_that_is_written() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.refresh_all().await;
    assert!(logs::text().contains(&shop.integration_id));
    // And finer levels of the crates below, which print requests, are not in it.
    assert!(!logs::text().contains("aws_smithy") && !logs::text().contains("\"target\":\"hyper"));
}

#[tokio::test]
async fn secrets_that_tiktok_repeats_are_taken_out_of_its_words() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let token = world.text(&shop, "refresh_token").await.unwrap();
    let echo: &'static str = Box::leak(format!("no such token {token}").into_boxed_str());
    world.tiktok.next(&shop.open_id, [Behaviour::Code(36_009_999, echo)]);
    let ended = world.outcome().await;
    assert!(ended["message"].as_str().unwrap().contains("no such token (hidden)"), "{ended}");
    let stored = world.text(&shop, "error_message").await.unwrap();
    assert!(SECRETS.iter().all(|secret| !stored.contains(secret)), "{stored}");
}

#[tokio::test]
async fn a_failed_condition_does_not_print_the_row_that_comes_with_it() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let store = Table::new(world.table.clone(), super::support::world::TABLE);
    let key = tiktok_token_refresh::domain::integration::IntegrationKey {
        team_id: shop.team_id.as_str().into(),
        integration_id: shop.integration_id.as_str().into(),
    };
    let conflict = store.update(&key, updates::release("never-the-owner")).await.unwrap().unwrap_err();
    assert!(matches!(conflict, Conflict::Changed(_)));
    let shown = format!("{conflict:?} {conflict:#?}");
    assert!(shown.contains("RefreshToken(hidden)"), "the row is there");
    assert!(SECRETS.iter().all(|secret| !shown.contains(secret)), "{shown}");
}

#[tokio::test]
async fn no_failure_of_tiktok_or_dynamodb_prints_a_url_or_a_token() {
    let behaviours = [
        Behaviour::Hang,
        Behaviour::CutAfterRedeeming,
        Behaviour::Garbled("TTP"),
        Behaviour::Status(404, "404 page not found", None),
        Behaviour::Redirect("http://127.0.0.1:1/?refresh_token=x".into()),
    ];
    for behaviour in behaviours {
        let world = World::with(&[IMPATIENT]).await;
        world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.always(Some(behaviour));
        world.aws.fault(Step::Settle, 3, Fault::Refuse(400, "ValidationException"));
        let answer = world.refresh_all().await.to_string();
        assert!(!answer.contains("http") && !answer.contains("grant_type"), "{answer}");
    }
    assert!(!logs::text().contains("grant_type"));
}

#[tokio::test]
async fn the_functions_own_debug_output_holds_no_secret() {
    let world = World::with(&[
        ("APP_CREDENTIALS_SECRET_ID", ""),
        ("TIKTOK_SHOP_APP_KEY", "29a39d"),
        ("TIKTOK_SHOP_APP_SECRET", "app-secret-e59af819cc"),
    ])
    .await;
    world.integration().expiring_in(hours(1)).insert().await;
    world.refresh(json!({})).await;
    let shown = format!("{:?} {:#?}", world.function, world.function);
    assert!(SECRETS.iter().all(|secret| !shown.contains(secret)));
}

#[tokio::test]
async fn no_error_repeats_a_secret_that_was_put_in_the_wrong_place() {
    let world = World::new().await;
    let secret = APP_SECRET;
    let row = world.integration().text("app_key", secret).expiring_in(hours(1)).insert().await;
    let ids = json!({"team_id": row.team_id, "integration_id": row.integration_id});
    let known = world.integration().text("app_key", "29a39d").insert().await;
    let with = |ids: &serde_json::Value, more: serde_json::Value| {
        let mut event = ids.clone();
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let new = json!({"team_id": "new", "integration_id": "new"});
    let known = json!({"team_id": known.team_id, "integration_id": known.integration_id});
    for event in [
        json!({ secret: 1 }),
        json!({ "action": secret }),
        json!({ "action": "status", "format": secret }),
        json!({ "force": secret }),
        with(&new, json!({"action": "ensure", "valid_for": secret})),
        with(&new, json!({"action": "connect", "auth_code": "c", "app_key": secret})),
        with(&new, json!({"action": "connect", "auth_code": "c", "state": secret})),
        with(&new, json!({"action": "connect_link", "app_key": secret})),
        with(&new, json!({"action": "connect_link", "market": secret})),
        with(&known, json!({"action": "connect_link", "app_key": secret})),
    ] {
        let error = world.invoke(&event).await.unwrap_err().to_string();
        assert!(!error.contains(secret), "{error}");
    }
    let answer = world.refresh(ids).await;
    assert_eq!(answer["integrations"][0]["reason"], "unknown_app_key");
    assert!(!answer.to_string().contains(secret), "{answer}");
}
