//! Does a token work? TikTok is asked, and a refresh is made only for a token that it does not take.

use super::support::{Behaviour, Step, World, days, hours, logs, minutes, world};
use serde_json::{Value, json};

async fn verify(world: &World) -> Value {
    world.refresh(json!({"action": "verify"})).await
}

#[tokio::test]
async fn a_valid_token_is_used_as_it_is() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let answer = verify(&world).await;
    assert_eq!(
        answer["counts"],
        json!({"examined": 1, "valid": 1, "valid_after_refresh": 0, "skipped": 0, "failed": 0, "deferred": 0})
    );
    assert_eq!(answer["integrations"][0]["shops"], json!(["7495"]));
    assert_eq!(world.tiktok.calls(&shop.open_id), 0, "not even though it is due");
}

#[tokio::test]
async fn a_token_that_tiktok_does_not_take_is_refreshed_once_and_tried_again() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(days(6)).insert().await;
    // TikTok has replaced the access token, and the row does not know.
    let newer = world.tiktok.authorize(&shop.open_id, "S");
    assert_ne!(world.stored_pair(&shop).await, Some(newer));
    let answer = verify(&world).await;
    assert_eq!(answer["integrations"][0]["outcome"], "valid_after_refresh");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_eq!((world.tiktok.calls(&shop.open_id), world.tiktok.open_api_calls()), (1, 2));
}

#[tokio::test]
async fn a_token_that_has_expired_is_refreshed_before_it_is_tried() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(-5)).insert().await;
    assert_eq!(verify(&world).await["integrations"][0]["outcome"], "valid_after_refresh");
    assert_eq!((world.tiktok.calls(&shop.open_id), world.tiktok.open_api_calls()), (1, 1));
}

#[tokio::test]
async fn a_missing_token_is_refreshed_whatever_expiry_stands_beside_it() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(days(6)).without("access_token").insert().await;
    assert_eq!(world.refresh_all().await["counts"]["skipped_not_due"], 1, "the scan reads no token");
    assert_eq!(verify(&world).await["integrations"][0]["outcome"], "valid_after_refresh");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_eq!((world.tiktok.calls(&shop.open_id), world.tiktok.open_api_calls()), (1, 1));
}

#[tokio::test]
async fn a_token_that_tiktok_never_takes_is_refreshed_only_once() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    world.tiktok.open_api_answers(Some((401, 105_002, "access token is expired")));
    let answer = verify(&world).await;
    assert_eq!(answer["integrations"][0]["reason"], "token_rejected");
    assert_eq!((world.tiktok.calls(&shop.open_id), world.tiktok.open_api_calls()), (1, 2));
}

#[tokio::test]
async fn any_other_error_is_named_as_what_it_is_and_refreshes_nothing() {
    for (status, code, message, reason) in [
        (401, 105_005, "access scope is missing", "scope_missing"),
        (401, 106_001, "sign is invalid", "signature_rejected"),
        (400, 36_009_004, "timestamp is invalid", "signature_rejected"),
        (403, 101_000, "token not for this shop", "shop_rejected"),
        (403, 36_009_043, "shop is inactive", "shop_rejected"),
        (400, 36_009_004, "app_key is invalid", "misconfigured"),
        (403, 36_009_033, "IP address is not in the IP allow list", "misconfigured"),
        (429, 36_009_002, "rate limit", "provider_busy"),
        (500, 36_009_003, "internal error", "provider_error"),
        (401, 0, "", "refused"),
    ] {
        let world = World::new().await;
        let shop = world.integration().insert().await;
        world.tiktok.open_api_answers(Some((status, code, message)));
        let ended = verify(&world).await["integrations"][0].clone();
        assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("failed"), &json!(reason)), "{ended}");
        assert_eq!((world.tiktok.calls(&shop.open_id), world.aws.writes()), (0, 0), "{reason}");
    }
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again() {
    for (failure, wait_ms) in [
        (Behaviour::Status(429, "slow down", Some(1)), Some(1_000)),
        (Behaviour::Status(502, "bad gateway", None), None),
        (Behaviour::Code(36_009_003, "internal error"), None),
        (Behaviour::CutAfterRedeeming, None),
    ] {
        let world = World::new().await;
        let shop = world.integration().insert().await;
        world.tiktok.next_open_api([failure.clone()]);
        let answer = verify(&world).await;
        assert_eq!(answer["integrations"][0]["outcome"], "valid", "{failure:?}: {answer}");
        assert_eq!((world.tiktok.calls(&shop.open_id), world.tiktok.open_api_calls()), (0, 2));
        let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
        let retry = |line: &&Value| line["message"].as_str().unwrap().starts_with("retrying the call");
        let retry = lines.iter().find(retry).unwrap();
        assert!(wait_ms.is_none_or(|wait_ms| retry["wait_ms"] == wait_ms), "{retry}");
    }
}

#[tokio::test]
async fn a_failure_that_stays_is_tried_three_times_and_within_the_retry_budget() {
    let world = World::new().await;
    world.integration().insert().await;
    world.tiktok.open_api_answers(Some((429, 36_009_002, "rate limit")));
    assert_eq!(verify(&world).await["integrations"][0]["reason"], "provider_busy");
    assert_eq!(world.tiktok.open_api_calls(), 3);
    for _ in 1..20 {
        world.integration().insert().await;
    }
    assert_eq!(verify(&world).await["counts"]["failed"], 20);
    // Ten retries, and one for each five calls that were made by then.
    let retries = world.tiktok.open_api_calls() - 3 - 20;
    assert!((14..=17).contains(&retries), "{retries}");
}

#[tokio::test]
async fn a_seller_who_is_gone_is_noted_and_never_marked_wherever_an_operator_looks() {
    for event in [
        json!({"action": "verify", "team_id": "t"}),
        json!({"action": "verify", "team_id": "t", "integration_id": 1}),
        json!({"action": "verify"}),
    ] {
        let world = World::new().await;
        let shop = world.integration().team("t").id("1").expiring_in(minutes(-1)).insert().await;
        world.tiktok.revoke(&shop.open_id);
        let answer = world.refresh(event).await;
        assert_eq!(
            (&answer["counts"]["failed"], &answer["integrations"][0]["tiktok_code"]),
            (&json!(1), &json!(36_004_005))
        );
        assert_eq!(answer["integrations"][0]["reason"], "reauthorize");
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
        assert_eq!(world.text(&shop, "error_reason").await.as_deref(), Some("reauthorize"));
        assert!(!world.row(&shop).await.contains_key("lock_owner"));
    }
}

#[tokio::test]
async fn rows_that_are_not_active_are_skipped_and_garbled_ones_named() {
    let world = World::new().await;
    world.integration().status("paused").insert().await;
    world.integration().status("error").insert().await;
    world.integration().without("status").insert().await;
    let held = world.integration().expiring_in(minutes(-1)).leased_for(minutes(5)).insert().await;
    // Nobody waits long for the lease, as the time is short.
    let deadline = world.now() + chrono::TimeDelta::seconds(7);
    let answer = world::invoke(&world.function, &json!({"action": "verify"}), deadline).await.unwrap();
    assert_eq!(
        answer["counts"],
        json!({"examined": 4, "valid": 0, "valid_after_refresh": 0, "skipped": 2, "failed": 2, "deferred": 0})
    );
    let reasons: Vec<_> =
        answer["integrations"].as_array().unwrap().iter().map(|row| row["reason"].clone()).collect();
    assert!(
        reasons[..2].contains(&json!("malformed_row")) && reasons[..2].contains(&json!("leased")),
        "{reasons:?}"
    );
    assert_eq!(world.tiktok.calls(&held.open_id), 0);
}

#[tokio::test]
async fn each_integration_is_verified_with_its_own_apps_signature() {
    let world = World::new().await;
    let apps = json!({"apps": [
        {"app_key": world::APP_KEY, "app_secret": world::APP_SECRET},
        {"app_key": "second", "app_secret": "app-secret-2"},
    ]});
    world.aws.set_secret(Some(&apps.to_string()));
    world
        .tiktok
        .set_apps(vec![world::app(world::APP_KEY, world::APP_SECRET), world::app("second", "app-secret-2")]);
    world.integration().insert().await;
    world.integration().text("app_key", "second").insert().await;
    world.integration().text("app_key", "third").insert().await;
    let answer = verify(&world).await;
    assert_eq!((&answer["counts"]["valid"], &answer["counts"]["failed"]), (&json!(2), &json!(1)));
    assert_eq!(answer["integrations"][0]["reason"], "unknown_app_key");
    assert_eq!(world.aws.count(Step::Secret), 1);
}

#[tokio::test]
async fn a_caller_in_rust_gets_a_valid_token_and_a_call_with_one() {
    let world = World::new().await;
    let fresh = world.integration().expiring_in(hours(1)).insert().await;
    let dead = world.integration().expiring_in(minutes(5)).insert().await;
    let paused = world.integration().status("paused").insert().await;
    let token = async |shop: &world::Shop| {
        let token = world.function.ensure_valid_access_token(&key(shop), world.deadline()).await;
        token.map(|token| token.expose().to_owned()).map_err(|error| error.to_string())
    };
    let stored = world.stored_pair(&fresh).await.unwrap().access_token;
    assert_eq!((token(&fresh).await, world.tiktok.calls(&fresh.open_id)), (Ok(stored), 0));
    let granted = token(&dead).await.unwrap();
    assert_eq!(Some(granted), world.granted_pair(&dead).map(|pair| pair.access_token));
    assert_eq!(token(&paused).await, Err("its status is \"paused\"".into()));
    assert!(
        token(&world::shop("0", "0", "o")).await.unwrap_err().contains("there is no integration 0 of team 0")
    );

    // TikTok has replaced the access token, and the row does not know.
    world.tiktok.authorize(&fresh.open_id, "S");
    let tiktok = tiktok_token_refresh::tiktok::TikTok::new(
        &world.setting("TIKTOK_AUTH_URL").parse().unwrap(),
        &world.setting("TIKTOK_API_URL").parse().unwrap(),
        std::time::Duration::from_secs(20),
    );
    let key = key(&fresh);
    let shops = world.function.call_with_valid_token(&key, world.deadline(), async |app, token| {
        tiktok.get_authorized_shops(&app, &token, world.now()).await
    });
    let shops = shops.await.unwrap();
    assert_eq!((shops.was_refreshed, shops.value[0].id.as_str()), (true, "7495"));
}

fn key(shop: &world::Shop) -> tiktok_token_refresh::domain::integration::IntegrationKey {
    let (team_id, integration_id) = (shop.team_id.as_str().into(), shop.integration_id.as_str().into());
    tiktok_token_refresh::domain::integration::IntegrationKey { team_id, integration_id }
}

#[tokio::test]
async fn a_caller_who_gives_up_does_not_take_the_refresh_with_it() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    let gate = world.aws.hold(Step::Save);
    let key = key(&shop);
    tokio::select! {
        token = world.function.ensure_valid_access_token(&key, world.deadline()) => panic!("{token:?}"),
        () = gate.reached() => {} // TikTok has answered, nothing is saved yet, and the caller leaves.
    }
    gate.open();
    while world.stored_pair(&shop).await != world.granted_pair(&shop) {
        tokio::task::yield_now().await;
    }
}
