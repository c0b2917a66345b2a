//! A seller authorizes the app: the way in, and the way back.

use super::support::{Fault, NIGHT, Step, World, days, hours, world};
use serde_json::{Value, json};

fn event(shop: &world::Shop, code: &str) -> Value {
    json!({"action": "connect", "team_id": shop.team_id, "integration_id": shop.integration_id, "auth_code": code})
}

#[tokio::test]
async fn a_new_integration_is_created_from_an_auth_code() {
    let world = World::new().await;
    let shop = world::shop("1", "7", "o-1");
    let code = world.tiktok.auth_code("o-1", "Bánh Mì 25");
    let answer = world.refresh(event(&shop, &code)).await;
    assert_eq!(
        answer,
        json!({"action": "connect", "team_id": "1", "integration_id": "7", "outcome": "connected", "open_id": "o-1",
               "seller_name": "Bánh Mì 25", "granted_scopes": ["seller.authorization.info", "seller.order.info"],
               "access_token_expires_at": NIGHT + 7 * 24 * 3600, "refresh_token_expires_at": NIGHT + 365 * 24 * 3600})
    );
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    assert_eq!(world.refresh_all().await["counts"]["skipped_not_due"], 1, "it is whole");
}

#[tokio::test]
async fn a_marked_integration_comes_back_when_its_seller_connects_again() {
    for status in ["error", "expired"] {
        let world = World::with(&[("EVENT_BUS_NAME", "platform")]).await;
        let marked =
            world.integration().status(status).refreshable_for(days(-1)).text("error_code", "36004005");
        let shop = marked.text("error_message", "gone").insert().await;
        let code = world.tiktok.auth_code(&shop.open_id, "Bánh Mì 25");
        assert_eq!(world.refresh(event(&shop, &code)).await["outcome"], "reconnected");
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
        let row = world.row(&shop).await;
        assert!(!row.contains_key("error_code") && !row.contains_key("error_message"));
        assert_eq!(world.text(&shop, "note").await.as_deref(), Some("the user's own"));
        assert_eq!(world.aws.published()[0].0, "TikTok Shop Integration Recovered");
    }
}

#[tokio::test]
async fn another_sellers_row_is_refused_unless_the_request_says_replace() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let before = world.everything().await;
    let error = world.invoke(&event(&shop, &world.tiktok.auth_code("a-stranger", "S"))).await.unwrap_err();
    assert_eq!(error.error_type(), "ConnectRefused");
    assert!(
        error.to_string().contains("belongs to another seller") && error.to_string().contains("a-stranger")
    );
    assert_eq!(world.everything().await, before);

    let mut replace = event(&shop, &world.tiktok.auth_code("a-stranger", "S"));
    replace["replace"] = json!(true);
    assert_eq!(world.refresh(replace).await["outcome"], "replaced");
    assert_eq!(world.text(&shop, "open_id").await.as_deref(), Some("a-stranger"));
}

#[tokio::test]
async fn the_users_own_status_stays() {
    let world = World::new().await;
    let shop = world.integration().status("paused").insert().await;
    let code = world.tiktok.auth_code(&shop.open_id, "S");
    assert_eq!(world.refresh(event(&shop, &code)).await["outcome"], "reconnected");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("paused"));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_code_that_tiktok_does_not_take_is_told_with_what_to_do_and_changes_nothing() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let before = world.everything().await;
    let error = world.invoke(&event(&shop, "TTC_unknown")).await.unwrap_err();
    assert_eq!(error.error_type(), "CodeRefused");
    assert!(
        error.to_string().contains("36004004") && error.to_string().contains("authorize the app again"),
        "{error}"
    );
    assert_eq!(world.everything().await, before);
}

#[tokio::test]
async fn an_app_that_the_secret_does_not_hold_is_named_before_the_code_is_used() {
    let world = World::new().await;
    let code = world.tiktok.auth_code("o-1", "S");
    let shop = world::shop("1", "7", "o-1");
    let mut unknown = event(&shop, &code);
    unknown["app_key"] = json!("nobody");
    let error = world.invoke(&unknown).await.unwrap_err();
    assert!(error.to_string().contains("the secret has no app \"nobody\""), "{error}");
    assert_eq!(world.refresh(event(&shop, &code)).await["outcome"], "connected", "the code is still good");
}

#[tokio::test]
async fn a_table_that_refuses_for_a_while_gets_the_pair_in_the_end() {
    for exists in [false, true] {
        let world = World::new().await;
        let shop = if exists { world.integration().insert().await } else { world::shop("1", "7", "o-1") };
        world.aws.fault(Step::Save, 7, Fault::Refuse(400, "ThrottlingException"));
        world.aws.fault(Step::Save, 1, Fault::LoseAnswer);
        let code = world.tiktok.auth_code(&shop.open_id, "S");
        let expected = if exists { "reconnected" } else { "connected" };
        assert_eq!(world.refresh(event(&shop, &code)).await["outcome"], expected);
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    }
}

#[tokio::test]
async fn a_refresh_in_flight_gives_way_to_the_new_authorization() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Save).await;
    world.pass(chrono::TimeDelta::seconds(1));
    let code = world.tiktok.auth_code(&shop.open_id, "S");
    world.refresh(event(&shop, &code)).await;
    assert_eq!(run.go_on().await["integrations"][0]["reason"], "superseded");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn two_sellers_who_connect_one_new_row_at_once_do_not_share_it() {
    let world = World::new().await;
    let shop = world::shop("1", "7", "first");
    let gate = world.aws.hold(Step::Save);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let slow = event(&shop, &world.tiktok.auth_code("second", "S"));
    let slow = tokio::spawn(async move { world::invoke(&function, &slow, deadline).await });
    gate.reached().await;
    world.refresh(event(&shop, &world.tiktok.auth_code("first", "F"))).await;
    gate.open();
    assert_eq!(slow.await.unwrap().unwrap_err().error_type(), "ConnectRefused");
    assert_eq!(world.text(&shop, "open_id").await.as_deref(), Some("first"));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_row_that_is_given_away_meanwhile_is_not_acquired_back() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let gate = world.aws.hold(Step::Save);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let slow = event(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    let slow = tokio::spawn(async move { world::invoke(&function, &slow, deadline).await });
    gate.reached().await;
    let mut replace = event(&shop, &world.tiktok.auth_code("another", "A"));
    replace["replace"] = json!(true);
    world.refresh(replace).await;
    gate.open();
    assert_eq!(slow.await.unwrap().unwrap_err().error_type(), "ConnectRefused");
    let another = world::shop(&shop.team_id, &shop.integration_id, "another");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&another));
}
