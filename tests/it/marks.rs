//! Nobody is marked by mistake: no mark without TikTok's own word and proof that the question was put with the right credentials;
//! and a mark is lifted when the credentials that earned it are replaced.

use super::support::{
    Behaviour, Fault, NIGHT, Step, World, days, hours, logs, minutes,
    world::{self, Shop},
};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use std::sync::Arc;
use tiktok_token_refresh::domain::secret::Apps;

const QUEUE: (&str, &str) = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");
const SECOND: &str = "second-app";
const SECOND_SECRET: &str = "app-secret-second";

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn secret(apps: &[(&str, &str)]) -> String {
    let apps: Vec<Value> =
        apps.iter().map(|(key, secret)| json!({"app_key": key, "app_secret": secret})).collect();
    json!({ "apps": apps }).to_string()
}

/// A world in which both apps exist at TikTok, and the secret holds these.
async fn two_apps(settings: &[(&'static str, &str)], in_secret: &[(&str, &str)]) -> World {
    let world = World::with(settings).await;
    world
        .tiktok
        .set_apps(vec![world::app(world::APP_KEY, world::APP_SECRET), world::app(SECOND, SECOND_SECRET)]);
    world.aws.set_secret(Some(&secret(in_secret)));
    world
}

/// Sellers of one app that another app's credentials are used for: TikTok rejects them as if they had gone.
async fn sellers_of_another_app(world: &World, count: usize) -> Vec<Shop> {
    let mut shops = Vec::new();
    for n in 0..count {
        let shop = world.integration().id(&format!("s{n:03}")).expiring_in(hours(1)).insert().await;
        world.tiktok.bind(&shop.open_id, SECOND);
        shops.push(shop);
    }
    shops
}

async fn marked(world: &World) -> usize {
    world.everything().await.iter().filter(|row| row["status"] == text("error")).count()
}

fn reasons(answer: &Value) -> Vec<String> {
    let mut reasons: Vec<String> = answer["integrations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {}", row["outcome"].as_str().unwrap(), row["reason"].as_str().unwrap_or("-")))
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

fn fingerprint(key: &str, secret: &str) -> String {
    world::app(key, secret).fingerprint().0
}

#[tokio::test]
async fn a_revoked_seller_is_marked_by_proof_of_a_grant() {
    let world = World::new().await;
    let gone = world.integration().expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(hours(2)).insert().await;
    world.tiktok.revoke(&gone.open_id);
    let answer = world.refresh_all().await;
    let ended = &answer["integrations"][0];
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("cannot_refresh"), &json!("reauthorize")));
    assert_eq!(
        (&answer["counts"]["cannot_refresh"], &answer["counts"]["newly_marked"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(world.text(&gone, "status").await.as_deref(), Some("error"));
    assert_eq!(world.text(&gone, "error_reason").await.as_deref(), Some("reauthorize"));
    assert_eq!(world.text(&gone, "rejected_by").await, Some(fingerprint(world::APP_KEY, world::APP_SECRET)));
    assert_eq!(world.tiktok.open_api_calls(), 1, "its own access token was tried, and no witness was needed");
}

#[tokio::test]
async fn a_revoked_seller_is_marked_by_proof_of_a_witness_that_is_not_due() {
    let world = World::new().await;
    let gone = world.integration().expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(days(6)).insert().await;
    world.tiktok.revoke(&gone.open_id);
    assert_eq!(reasons(&world.refresh_all().await), ["cannot_refresh reauthorize", "not_due -"]);
    assert_eq!(world.text(&gone, "status").await.as_deref(), Some("error"));
    assert_eq!(world.tiktok.open_api_calls(), 2);
}

#[tokio::test]
async fn a_wrong_app_in_the_secret_marks_nobody_and_fails_the_run_naming_each_row() {
    for sellers in [2, 3, 4, 40] {
        let world = two_apps(&[], &[(world::APP_KEY, world::APP_SECRET)]).await;
        let shops = sellers_of_another_app(&world, sellers).await;
        let error = world.invoke(&json!({})).await.unwrap_err();
        assert_eq!(error.error_type(), "AppRefused");
        assert_eq!(marked(&world).await, 0, "{sellers}");
        let named = shops.iter().filter(|shop| error.to_string().contains(&shop.integration_id)).count();
        assert!(named >= sellers.min(5), "{named} of {sellers}: {error}");
        assert!(error.to_string().contains(r#""force":true"#), "{error}");
        // The repair heals all of them.
        world.aws.set_secret(Some(&secret(&[(SECOND, SECOND_SECRET)])));
        world.pass(minutes(6));
        assert_eq!(world.refresh_all().await["counts"]["refreshed"], sellers);
    }
}

#[tokio::test]
async fn an_apps_only_seller_is_marked_and_healed_by_the_repair_of_the_secret() {
    let world = two_apps(&[("EVENT_BUS_NAME", "platform")], &[(world::APP_KEY, world::APP_SECRET)]).await;
    let shop = sellers_of_another_app(&world, 1).await.remove(0);
    assert_eq!(world.outcome().await["reason"], "reauthorize");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
    // Under the same credentials it stays marked and is not asked for.
    let calls = world.tiktok.all_calls();
    assert_eq!(world.outcome().await["reason"], "marked");
    assert_eq!(world.tiktok.all_calls(), calls);
    world.aws.set_secret(Some(&secret(&[(SECOND, SECOND_SECRET)])));
    world.pass(minutes(6));
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    let row = world.row(&shop).await;
    for name in ["error_reason", "error_code", "error_message", "error_at", "rejected_by", "lock_owner"] {
        assert!(!row.contains_key(name), "{name}");
    }
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    let published: Vec<String> = world.aws.published().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(published, ["TikTok Shop Integration Cannot Refresh", "TikTok Shop Integration Recovered"]);
}

#[tokio::test]
async fn marks_of_the_version_before_heal_once_and_are_not_tried_again_under_the_same_credentials() {
    for (code, heals) in [
        ("36004005", true),
        ("36004001", true),
        ("refresh_token_expired", true),
        ("identity_mismatch", false),
    ] {
        for works in [true, false] {
            let world = World::new().await;
            let shop = world.integration().status("error").text("error_code", code).insert().await;
            if !works {
                world.tiktok.revoke(&shop.open_id);
            }
            let first = world.outcome().await;
            let expected = if heals && works { "refreshed" } else { "cannot_refresh" };
            assert_eq!(first["outcome"], expected, "{code} {works} {first}");
            assert_eq!(world.tiktok.calls(&shop.open_id) + world.tiktok.calls(""), u64::from(heals));
            let second = world.outcome().await;
            assert_eq!(second["outcome"], if heals && works { "not_due" } else { "cannot_refresh" });
            assert_eq!(world.tiktok.all_calls(), u64::from(heals), "{code} {works}: no loop");
        }
    }
}

#[tokio::test]
async fn a_retry_of_a_marked_row_comes_last_counts_for_no_breaker_and_is_not_newly_marked() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    for n in 0..8 {
        let old =
            world.integration().id(&format!("m{n}")).status("error").text("error_reason", "reauthorize");
        let shop = old.text("rejected_by", "0123456789ab").text("error_message", "of old").insert().await;
        world.tiktok.revoke(&shop.open_id);
    }
    let active = world.integration().id("z-active").expiring_in(hours(40)).insert().await;
    let answer = world.refresh_all().await;
    assert_eq!(
        (
            &answer["counts"]["refreshed"],
            &answer["counts"]["cannot_refresh"],
            &answer["counts"]["newly_marked"]
        ),
        (&json!(1), &json!(8), &json!(0))
    );
    let first = logs::lines_with("run_id", answer["run_id"].as_str().unwrap())
        .into_iter()
        .find(|line| line["outcome"].is_string());
    assert_eq!(first.unwrap()["integration_id"], active.integration_id, "active rows come first");
    for row in world.everything().await.iter().filter(|row| row["status"] == text("error")) {
        assert_eq!(row["rejected_by"], text(&fingerprint(world::APP_KEY, world::APP_SECRET)));
    }
}

#[tokio::test]
async fn only_a_rejection_changes_a_marked_row() {
    for behaviour in
        [Behaviour::Code(1, "odd"), Behaviour::Status(429, "busy", None), Behaviour::Garbled("<html>")]
    {
        let world = World::new().await;
        let marked = world.integration().status("error").text("error_reason", "reauthorize");
        let shop = marked.text("error_message", "of old").text("rejected_by", "0123456789ab").insert().await;
        world.tiktok.always(Some(behaviour.clone()));
        world.refresh_all().await;
        assert_eq!(world.text(&shop, "error_message").await.as_deref(), Some("of old"), "{behaviour:?}");
        assert_eq!(world.text(&shop, "rejected_by").await.as_deref(), Some("0123456789ab"));
        assert_eq!(world.number(&shop, "consecutive_failures").await, None);
    }
}

#[tokio::test]
async fn a_refresh_expiry_that_is_a_duration_or_has_passed_is_for_tiktok_to_judge() {
    for at in [31_536_000, NIGHT - 24 * 3600] {
        let world = World::new().await;
        for _ in 0..40 {
            world.integration().expiring_in(hours(1)).number("refresh_token_expires_at", at).insert().await;
        }
        let answer = world.refresh_all().await;
        assert_eq!(answer["counts"]["refreshed"], 40, "{at}");
        assert_eq!(marked(&world).await, 0);
    }
}

#[tokio::test]
async fn a_duration_in_tiktoks_answer_does_not_mark_the_row_the_next_night() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"refresh_token_expire_in": 31_536_000}))]);
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    world.pass(days(6));
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    assert_eq!(world.refresh(json!({"action": "cleanup"})).await["counts"]["marked"], 0);
}

#[tokio::test]
async fn verify_and_library_calls_note_a_rejection_and_never_mark() {
    let world = two_apps(&[], &[(world::APP_KEY, world::APP_SECRET)]).await;
    let shops = sellers_of_another_app(&world, 12).await;
    for event in [json!({"action": "verify"}), json!({"action": "verify", "team_id": world.team})] {
        let answer = world.refresh(event).await;
        assert_eq!(answer["counts"]["failed"], 12);
        assert_eq!(reasons(&answer), ["failed reauthorize"]);
    }
    for shop in &shops {
        let key = tiktok_token_refresh::domain::integration::IntegrationKey {
            team_id: shop.team_id.clone(),
            integration_id: shop.integration_id.clone(),
        };
        // Its access token looks valid, and TikTok does not accept it.
        let call = world.function.call_with_valid_token(&key, world.deadline(), async |_, _| {
            Err::<(), _>(tiktok_token_refresh::tiktok::ApiError::Token {
                code: 105_002,
                message: "expired".into(),
            })
        });
        call.await.unwrap_err();
        assert_eq!(world.text(shop, "error_reason").await.as_deref(), Some("reauthorize"));
        assert!(
            world.text(shop, "rejected_by").await.is_some()
                && !world.row(shop).await.contains_key("lock_owner")
        );
    }
    assert_eq!(marked(&world).await, 0);
}

#[tokio::test]
async fn rows_without_an_app_key_follow_the_app_that_grants_whatever_its_place_in_the_secret() {
    let both = [(world::APP_KEY, world::APP_SECRET), (SECOND, SECOND_SECRET)];
    let world = two_apps(&[], &both).await;
    let mut shops = Vec::new();
    for _ in 0..6 {
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.bind(&shop.open_id, world::APP_KEY);
        shops.push(shop);
    }
    world.aws.set_secret(Some(&secret(&[both[1], both[0]])));
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 6);
    for shop in &shops {
        assert_eq!(world.text(shop, "app_key").await.as_deref(), Some(world::APP_KEY));
    }
    // A seller who has really gone is rejected by both, which counts for the default app.
    let gone = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&gone.open_id);
    world.refresh_all().await;
    let apps = Apps([both[1], both[0]].map(|(key, secret)| Arc::new(world::app(key, secret))).to_vec());
    let rejected_by = apps.fingerprint(None).map(|all| all.0);
    assert_eq!(world.text(&gone, "rejected_by").await, rejected_by, "of all that it was tried with");
}

#[tokio::test]
async fn three_rows_with_one_single_use_authorization_lose_a_token_but_no_seller() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    world.tiktok.single_use();
    world.tiktok.keep_access_tokens();
    let first = world.integration().id("1").expiring_in(hours(1)).insert().await;
    let pair = world.stored_pair(&first).await.unwrap();
    for id in ["2", "3"] {
        let twin = world.integration().id(id).expiring_in(hours(1));
        let twin = twin
            .text("open_id", &first.open_id)
            .text("access_token", &pair.access_token)
            .text("refresh_token", &pair.refresh_token);
        twin.insert().await;
    }
    let answer = world.refresh_all().await;
    assert_eq!(reasons(&answer), ["failed refresh_token_lost", "refreshed -"]);
    assert_eq!((&answer["counts"]["failed"], marked(&world).await), (&json!(2), 0));
    let lost = world::shop(&first.team_id, "2", "");
    assert_eq!(world.text(&lost, "error_reason").await.as_deref(), Some("refresh_token_lost"));
    // Not before its access token has expired.
    world.pass(minutes(61));
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["newly_marked"], 2, "{answer}");
}

#[tokio::test]
async fn a_scope_error_proves_that_the_authorization_is_alive() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(days(6)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_005, "can not find related auth record")]);
    world.tiktok.open_api_answers(Some((401, 105_005, "access scope")));
    assert_eq!(reasons(&world.refresh_all().await), ["failed refresh_token_lost", "not_due -"]);
}

#[tokio::test]
async fn a_bad_signature_disproves_marks_nobody_and_fails_the_run() {
    for (status, code, message) in
        [(401, 106_001, "sign is invalid"), (400, 36_009_004, "app_key is invalid")]
    {
        for force in [false, true] {
            let world = World::new().await;
            for _ in 0..3 {
                let shop = world.integration().expiring_in(hours(1)).insert().await;
                world.tiktok.revoke(&shop.open_id);
            }
            world.tiktok.open_api_answers(Some((status, code, message)));
            let error = world.invoke(&json!({ "force": force })).await.unwrap_err();
            assert_eq!((error.error_type(), marked(&world).await), ("AppRefused", 0), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}

#[tokio::test]
async fn a_witness_that_answers_nothing_of_use_is_no_evidence() {
    for answer in [
        (401, 105_002, "access token is expired"),
        (429, 36_009_002, "too many requests"),
        (500, 36_009_003, "internal error"),
        (400, 36_009_043, "shop is inactive"),
    ] {
        let world = World::new().await;
        for _ in 0..2 {
            let shop = world.integration().expiring_in(hours(-1)).insert().await;
            world.tiktok.revoke(&shop.open_id);
        }
        for _ in 0..5 {
            world.integration().expiring_in(days(6)).insert().await;
        }
        world.tiktok.open_api_answers(Some(answer));
        let error = world.invoke(&json!({})).await.unwrap_err();
        assert_eq!((error.error_type(), marked(&world).await), ("AppRefused", 0), "{answer:?} {error}");
        assert_eq!(world.tiktok.open_api_calls(), 3, "three witnesses at most, once per app and run");
    }
}

#[tokio::test]
async fn an_own_token_that_could_not_be_tried_leaves_the_row_for_the_next_run() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(hours(2)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    world.tiktok.open_api_answers(Some((429, 36_009_002, "too many requests")));
    assert_eq!(reasons(&world.refresh_all().await), ["failed reauthorize", "refreshed -"]);
    assert_eq!(marked(&world).await, 0);
}

#[tokio::test]
async fn a_forced_run_of_everything_or_of_a_team_changes_nothing_about_proof() {
    for of_a_team in [false, true] {
        let world = two_apps(&[], &[(world::APP_KEY, world::APP_SECRET)]).await;
        sellers_of_another_app(&world, 6).await;
        let mut event = json!({"force": true});
        if of_a_team {
            event["team_id"] = json!(world.team);
        }
        world.invoke(&event).await.unwrap_err();
        assert_eq!(marked(&world).await, 0, "{of_a_team}");
    }
}

#[tokio::test]
async fn a_forced_run_of_one_integration_needs_no_proof_but_its_own_dead_token() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let other = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    world.tiktok.next(&other.open_id, [Behaviour::Code(36_004_005, "can not find related auth record")]);
    let force =
        |shop: &Shop| json!({"team_id": shop.team_id, "integration_id": shop.integration_id, "force": true});
    let reason = |answer: Value| answer["integrations"][0]["reason"].clone();
    assert_eq!(reason(world.refresh(force(&shop)).await), "reauthorize");
    assert_eq!(reason(world.refresh(force(&other)).await), "refresh_token_lost");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
    assert_eq!(world.text(&other, "status").await.as_deref(), Some("active"));
    // Without force one row is suspect, which fails no run.
    let third = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&third.open_id);
    let mut event = force(&third);
    event["force"] = json!(false);
    assert_eq!(reason(world.refresh(event).await), "app_under_suspicion");
    assert_eq!(world.text(&third, "status").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn a_second_app_whose_key_was_swapped_marks_nobody_through_the_queue() {
    for has_live_witnesses in [false, true] {
        let settings = [QUEUE, ("FAN_OUT_ABOVE", "50")];
        let world =
            two_apps(&settings, &[(world::APP_KEY, world::APP_SECRET), ("swapped", "app-secret-swapped")])
                .await;
        world.tiktok.set_apps(vec![
            world::app(world::APP_KEY, world::APP_SECRET),
            world::app(SECOND, SECOND_SECRET),
            world::app("swapped", "app-secret-swapped"),
        ]);
        for n in 0..187 {
            world.integration().id(&format!("a{n:03}")).expiring_in(hours(1)).insert().await;
        }
        for n in 0..13 {
            let hours = if has_live_witnesses { hours(1) } else { hours(-1) };
            let row =
                world.integration().id(&format!("b{n:03}")).expiring_in(hours).text("app_key", "swapped");
            let shop = row.insert().await;
            world.tiktok.bind(&shop.open_id, SECOND);
        }
        let error = world.invoke(&json!({})).await.unwrap_err();
        assert!(error.to_string().contains("app swapped"), "{error}");
        while !world.aws.queued().is_empty() {
            world.deliver().await;
        }
        assert_eq!(marked(&world).await, 0);
        let rows = world.everything().await;
        let refreshed = rows.iter().filter(|row| row.contains_key("last_refreshed_at")).count();
        assert_eq!(refreshed, 187, "the other app's rows do not wait for it");
    }
}

#[tokio::test]
async fn a_worker_marks_only_under_the_proof_that_its_message_carries_or_a_grant_of_its_own() {
    let in_use = fingerprint(world::APP_KEY, world::APP_SECRET);
    for (proved, is_only_one, rows, refreshable, expected) in [
        (Some(in_use.clone()), false, 4, 0, 4),
        (Some("0123456789ab".to_owned()), false, 4, 0, 0),
        (None, false, 4, 0, 0),
        (None, true, 1, 0, 1),
        (None, false, 1, 0, 0),
        (None, false, 3, 1, 3),
    ] {
        let world = World::with(&[QUEUE]).await;
        let mut keys = Vec::new();
        for n in 0..rows + refreshable {
            let shop = world.integration().id(&n.to_string()).expiring_in(hours(-1)).insert().await;
            if n < rows {
                world.tiktok.revoke(&shop.open_id);
            }
            keys.push(json!({"team_id": shop.team_id, "integration_id": shop.integration_id}));
        }
        let mut work = json!({"force": false, "run_started_at": NIGHT - 60, "integrations": keys});
        if let Some(proved) = &proved {
            work["proved"] = json!(proved);
        }
        if is_only_one {
            work["only_one_of"] = json!(world::APP_KEY);
        }
        world.aws.enqueue(&json!({"kind": "work", "work": work}).to_string());
        assert_eq!(world.deliver().await["batchItemFailures"], json!([]), "the next night finds its rows");
        assert_eq!(marked(&world).await, expected, "{proved:?} {is_only_one} {rows} {refreshable}");
        let suspicion = u64::from(expected == 0);
        assert_eq!(world.metrics().last().unwrap()["AppsUnderSuspicion"], suspicion);
    }
}

#[tokio::test]
async fn all_of_one_app_rejected_are_spared_however_the_messages_are_cut() {
    let world = two_apps(&[QUEUE, ("FAN_OUT_ABOVE", "20")], &[(world::APP_KEY, world::APP_SECRET)]).await;
    sellers_of_another_app(&world, 54).await;
    world.invoke(&json!({})).await.unwrap_err();
    while !world.aws.queued().is_empty() {
        world.deliver().await;
    }
    assert_eq!(marked(&world).await, 0);
}

#[tokio::test]
async fn proof_is_made_once_for_an_app_by_the_run_that_scans() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "100")]).await;
    for n in 0..400 {
        let shop = world.integration().id(&format!("{n:03}")).expiring_in(hours(-1)).insert().await;
        if n % 40 == 0 {
            world.tiktok.revoke(&shop.open_id);
        }
    }
    for n in 400..420 {
        world.integration().id(&format!("{n:03}")).expiring_in(days(6)).insert().await;
    }
    let answer = world.refresh_all().await;
    let counts = &answer["counts"];
    let canaries = counts["due"].as_u64().unwrap() - counts["queued"].as_u64().unwrap();
    assert!(canaries <= 5, "{counts}");
    assert!(world.tiktok.open_api_calls() <= 3, "{}", world.tiktok.open_api_calls());
    let in_use = fingerprint(world::APP_KEY, world::APP_SECRET);
    assert!(world.aws.queued().iter().all(|message| message.contains(&format!("\"proved\":\"{in_use}\""))));
    while !world.aws.queued().is_empty() {
        world.deliver().await;
    }
    assert_eq!(marked(&world).await, 10);
    assert!(world.tiktok.open_api_calls() <= 3, "dead tokens are not tried");
}

#[tokio::test]
async fn an_unforced_message_that_is_delivered_three_times_redeems_once() {
    let world = World::with(&[QUEUE]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let soon = (world.now() + hours(2)).timestamp();
    world.tiktok.always(Some(Behaviour::With(json!({"access_token_expire_in": soon}))));
    let work = json!({"force": false, "run_started_at": NIGHT,
                      "integrations": [{"team_id": shop.team_id, "integration_id": shop.integration_id}]});
    for _ in 0..3 {
        world.aws.enqueue(&json!({"kind": "work", "work": work}).to_string());
        world.deliver().await;
        world.pass(minutes(1));
    }
    assert_eq!(world.tiktok.calls(&shop.open_id), 1);
}

#[tokio::test]
async fn work_that_is_too_old_is_left_to_the_next_run() {
    let world = World::with(&[QUEUE]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let work = json!({"force": false, "run_started_at": NIGHT - 13 * 3600,
                      "integrations": [{"team_id": shop.team_id, "integration_id": shop.integration_id}]});
    world.aws.enqueue(&json!({"kind": "work", "work": work}).to_string());
    // No time to refresh it.
    world.deliver_by(world.now() + chrono::TimeDelta::seconds(5)).await;
    assert!(world.aws.queued().iter().all(|message| message.contains(&(NIGHT - 13 * 3600).to_string())));
    assert_eq!(world.aws.queued().len(), 0, "neither enqueued again nor delivered again");
}

#[tokio::test]
async fn a_rejection_survives_a_kill_before_the_mark() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    let gone = world.integration().id("a").expiring_in(hours(-1)).insert().await;
    world.tiktok.revoke(&gone.open_id);
    world.integration().id("b").expiring_in(hours(1)).insert().await;
    // Its lease is taken after the rejection was noted, and before anything proves the credentials.
    let gate = world.aws.hold(Step::Query);
    gate.open();
    let run = {
        world.aws.fault_at(Step::Acquire, 2, Fault::Hold(gate.clone()));
        let (function, deadline) = (world.function.clone(), world.deadline());
        tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await })
    };
    gate.reached().await;
    run.abort();
    run.await.unwrap_err();
    world.aws.heal();
    assert_eq!(world.text(&gone, "error_reason").await.as_deref(), Some("reauthorize"));
    assert_eq!(world.text(&gone, "status").await.as_deref(), Some("active"));
    assert!(!world.row(&gone).await.contains_key("lock_owner"), "the lease was released with the note");
    world.pass(minutes(17));
    let answer = world.refresh_all().await;
    let ended =
        answer["integrations"].as_array().unwrap().iter().find(|row| row["integration_id"] == "a").unwrap();
    assert_eq!(ended["reason"], "reauthorize", "and not a lost answer");
}

#[tokio::test]
async fn a_lost_answer_stays_told_as_one_when_the_same_token_is_rejected_again() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(-1)).leased_for(minutes(-1)).insert().await;
    world.integration().expiring_in(hours(-1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    let other = world.integration().expiring_in(hours(-1)).insert().await;
    world.tiktok.revoke(&other.open_id);
    // Nothing proves the credentials in this run.
    world.tiktok.always(Some(Behaviour::Code(36_004_005, "can not find related auth record")));
    world.invoke(&json!({})).await.unwrap_err();
    assert_eq!(world.text(&shop, "error_reason").await.as_deref(), Some("probably_lost_answer"));
    world.tiktok.always(None);
    let answer = world.refresh_all().await;
    let ended = answer["integrations"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["integration_id"] == shop.integration_id.as_str());
    assert_eq!(ended.unwrap()["reason"], "probably_lost_answer");
    assert_eq!(answer["counts"]["newly_marked"], 2);
}

#[tokio::test]
async fn the_morning_after_says_why_and_whose_and_alarms_no_more() {
    let world = World::new().await;
    let gone = world.integration().text("seller_name", "Phở 24").expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(hours(2)).insert().await;
    world.tiktok.revoke(&gone.open_id);
    world.refresh_all().await;
    assert_eq!(world.metrics().last().unwrap()["NewlyCannotRefresh"], 1);
    let answer = world.refresh_all().await;
    let ended = &answer["integrations"][0];
    assert_eq!((&ended["reason"], &ended["error_reason"]), (&json!("marked"), &json!("reauthorize")));
    assert_eq!(ended["seller_name"], "Phở 24");
    assert!(ended["message"].as_str().unwrap().contains("36004005"), "{ended}");
    assert_eq!(answer["counts"]["newly_marked"], 0);
    let last = world.metrics().last().unwrap().clone();
    assert_eq!((&last["CannotRefresh"], &last["NewlyCannotRefresh"]), (&json!(1), &json!(0)));
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let line = lines.iter().find(|line| line["integration_id"] == gone.integration_id.as_str()).unwrap();
    assert_eq!(line["level"], "INFO");
    let status = world.refresh(json!({"action": "status"})).await;
    assert_eq!(status["integrations"][0]["error_reason"], "reauthorize");
    for format in ["table", "html"] {
        let shown = world.refresh(json!({"action": "status", "format": format})).await;
        assert!(shown.as_str().unwrap().contains("reauthorize"), "{format} {shown}");
    }
}

#[tokio::test]
async fn a_mark_is_made_only_on_the_row_that_was_rejected() {
    for (name, value) in [
        ("refresh_token", text("TTR_pasted")),
        ("access_token", text("TTP_pasted")),
        ("authorization_id", text("another")),
        ("status", text("paused")),
        ("rejected_by", text("0123456789ab")),
    ] {
        let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
        let gone = world.integration().id("a").expiring_in(hours(1)).insert().await;
        world.integration().id("b").expiring_in(hours(2)).insert().await;
        world.tiktok.revoke(&gone.open_id);
        let gate = super::support::aws::Gate::new();
        // The first is the note, the second the mark.
        world.aws.fault_at(Step::Settle, 2, Fault::Hold(gate.clone()));
        let (function, deadline) = (world.function.clone(), world.deadline());
        let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
        gate.reached().await;
        world.write(&gone, &[(name, value)]).await;
        gate.open();
        let answer = run.await.unwrap().unwrap();
        let ended = answer["integrations"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["integration_id"] == "a")
            .unwrap();
        assert_eq!(
            (&ended["outcome"], &ended["reason"]),
            (&json!("not_due"), &json!("changed_meanwhile")),
            "{name}"
        );
        assert_ne!(world.text(&gone, "status").await.as_deref(), Some("error"), "{name}");
    }
}
