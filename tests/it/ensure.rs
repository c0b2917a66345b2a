//! `ensure`: an application is about to use a token. However many ask at once, TikTok is asked once, and everybody learns what
//! became of it.

use super::support::{
    Behaviour, Fault, NIGHT, Step, World, days, hours, logs, minutes,
    world::{self, IMPATIENT, Shop},
};
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use tiktok_token_refresh::{
    actions::ensure::TokenError, domain::integration::IntegrationKey, handler::Function,
};
use tokio::{task::JoinSet, time::Instant};

fn event(shop: &Shop) -> Value {
    json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id})
}

/// The answer about an integration, without what names it.
async fn ensure(world: &World, shop: &Shop) -> Value {
    ensure_with(world, shop, json!({})).await
}

async fn ensure_with(world: &World, shop: &Shop, fields: Value) -> Value {
    let mut event = event(shop);
    event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    told(world.refresh(event).await)
}

/// In another environment, by a deadline.
async fn ensure_in(function: &Function, world: &World, shop: &Shop, time_left: TimeDelta) -> Value {
    told(world::invoke(function, &event(shop), world.now() + time_left).await.unwrap())
}

/// Checks what holds for every answer.
fn told(answer: Value) -> Value {
    let outcome = answer["outcome"].as_str().unwrap();
    let is_valid = ["valid", "refreshed", "refreshed_by_another"].contains(&outcome);
    assert_eq!(answer["valid"], is_valid, "{answer}");
    let waits_for_a_person = outcome == "cannot_refresh"
        || ["status", "not_found"].contains(&answer["reason"].as_str().unwrap_or_default());
    let is_retried = answer["retry_after_seconds"].as_i64().is_some_and(|seconds| seconds > 0);
    assert_eq!(is_retried, !is_valid && !waits_for_a_person, "{answer}");
    answer
}

fn sha256(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

async fn stored_sha256(world: &World, shop: &Shop) -> String {
    sha256(&world.stored_pair(shop).await.unwrap().access_token)
}

fn brief(answer: &Value) -> Value {
    json!([answer["outcome"], answer["reason"], answer["retry_after_seconds"]])
}

#[tokio::test]
async fn a_token_that_lives_long_enough_costs_one_consistent_read_and_nothing_else() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let before = world.everything().await;
    let answer = ensure(&world, &shop).await;
    assert_eq!(
        answer,
        json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id, "valid": true,
               "outcome": "valid", "reason": null, "tiktok_code": null, "message": null,
               "access_token_expires_at": NIGHT + 3600, "retry_after_seconds": null})
    );
    assert_eq!((world.aws.requests(), world.aws.count(Step::Read)), (1, 1));
    assert_eq!((world.tiktok.all_calls(), world.tiktok.open_api_calls()), (0, 0));
    assert_eq!(world.everything().await, before);
}

#[tokio::test]
async fn a_dead_token_costs_a_refresh_and_the_read_that_confirms_it() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(5)).insert().await;
    let answer = ensure(&world, &shop).await;
    assert_eq!((&answer["outcome"], &answer["valid"]), (&json!("refreshed"), &json!(true)));
    assert_eq!(answer["access_token_expires_at"], NIGHT + days(7).num_seconds());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    let counts = [Step::Read, Step::Secret, Step::Acquire, Step::Save].map(|step| world.aws.count(step));
    assert_eq!((counts, world.aws.requests(), world.tiktok.all_calls()), ([2, 1, 1, 1], 5, 1));
    let line = logs::lines_with("integration_id", &shop.integration_id)
        .into_iter()
        .find(|line| line["message"] == "TikTok token refresh completed successfully")
        .expect("it is logged as any refresh");
    assert!(
        line["run_id"].is_string() && line["new_expires_at"] == answer["access_token_expires_at"],
        "{line}"
    );
}

#[tokio::test]
async fn a_token_must_live_longer_than_valid_for() {
    for (valid_for, expected) in [
        (json!("0s"), "valid"),
        (json!(null), "valid"),
        (json!("3599s"), "valid"),
        (json!("1h"), "refreshed"),
        (json!("24h"), "refreshed"),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        let answer = ensure_with(&world, &shop, json!({"valid_for": valid_for})).await;
        assert_eq!(answer["outcome"], expected, "{valid_for}");
    }
}

#[tokio::test]
async fn an_expiry_that_cannot_be_believed_is_that_of_a_dead_token() {
    for at in [4_841_467_787, 0, -1, 604_800] {
        let world = World::new().await;
        let shop = world.integration().number("access_token_expires_at", at).insert().await;
        assert_eq!(ensure(&world, &shop).await["outcome"], "refreshed", "{at}");
    }
    let world = World::new().await;
    let shop = world.integration().without("access_token").insert().await;
    assert_eq!(ensure(&world, &shop).await["outcome"], "refreshed");
}

#[tokio::test]
async fn a_token_refreshed_less_than_five_minutes_ago_is_not_refreshed_again() {
    for (ago, expected) in [(299, "valid"), (300, "refreshed"), (-3_600, "refreshed")] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(1));
        let shop = shop.number("last_refreshed_at", NIGHT - ago).insert().await;
        assert_eq!(ensure(&world, &shop).await["outcome"], expected, "{ago}");
    }
}

#[tokio::test]
async fn a_token_that_tiktok_rejected_is_refreshed_unless_somebody_else_has_replaced_it() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let rejected = stored_sha256(&world, &shop).await;
    let with = |hash: String| json!({"rejected_token_sha256": hash});
    assert_eq!(ensure_with(&world, &shop, with(sha256("another"))).await["outcome"], "valid");
    assert_eq!(ensure_with(&world, &shop, with(rejected.to_uppercase())).await["outcome"], "refreshed");
    assert_eq!(ensure_with(&world, &shop, with(rejected)).await["outcome"], "valid", "it is gone already");
    // The new one is rejected too: another refresh would not help, and would be made by every worker.
    let rejected = stored_sha256(&world, &shop).await;
    world.pass(TimeDelta::seconds(60));
    let answer = ensure_with(&world, &shop, with(rejected.clone())).await;
    assert_eq!(brief(&answer), json!(["failed", "just_refreshed", 240]));
    assert_eq!(world.tiktok.all_calls(), 1);
    world.pass(TimeDelta::seconds(240));
    assert_eq!(ensure_with(&world, &shop, with(rejected)).await["outcome"], "refreshed");
}

#[tokio::test]
async fn rows_that_need_a_person_say_so_and_cost_one_read() {
    let world = World::new().await;
    let marked = world.integration().status("error").text("error_code", "36004005");
    let marked = marked.text("error_message", "the seller has left").insert().await;
    let answer = ensure(&world, &marked).await;
    assert_eq!(brief(&answer), json!(["cannot_refresh", "marked", null]), "although its token is fresh");
    assert_eq!(
        (&answer["message"], &answer["tiktok_code"]),
        (&json!("the seller has left"), &json!(36_004_005))
    );
    let expired = world.integration().status("expired").insert().await;
    assert_eq!(brief(&ensure(&world, &expired).await), json!(["cannot_refresh", "marked", null]));
    let paused = world.integration().status("paused").insert().await;
    let answer = ensure(&world, &paused).await;
    assert_eq!(brief(&answer), json!(["failed", "status", null]));
    assert_eq!(answer["message"], "its status is \"paused\"");
    let garbled = [
        world.integration().without("status").insert().await,
        world.integration().number("status", 5).insert().await,
    ];
    for shop in &garbled {
        let answer = ensure(&world, shop).await;
        assert_eq!(brief(&answer), json!(["failed", "malformed_row", 60]));
        assert!(answer["message"].as_str().unwrap().starts_with("status is missing or has the wrong type"));
    }
    let nobody = world::shop("0", "0", "o");
    let answer = ensure(&world, &nobody).await;
    assert_eq!(brief(&answer), json!(["failed", "not_found", null]));
    assert_eq!(answer["access_token_expires_at"], json!(null));
    assert_eq!((world.aws.requests(), world.aws.count(Step::Read)), (6, 6));
    let lost = world.integration().expiring_in(minutes(1)).without("refresh_token").insert().await;
    assert_eq!(brief(&ensure(&world, &lost).await), json!(["cannot_refresh", "refresh_token_missing", null]));
    assert_eq!((world.aws.writes(), world.tiktok.all_calls()), (0, 0));
}

#[tokio::test]
async fn a_rejection_is_noted_repeated_for_a_minute_and_never_marks() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    for (pass, calls) in [(0, 1), (0, 1), (59, 1), (1, 2), (0, 2)] {
        world.pass(TimeDelta::seconds(pass));
        let answer = ensure(&world, &shop).await;
        assert_eq!(brief(&answer), json!(["cannot_refresh", "reauthorize", null]), "{pass}");
        assert_eq!(answer["tiktok_code"], 36_004_005);
        assert_eq!(world.tiktok.all_calls(), calls, "{pass}");
    }
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    assert_eq!(world.text(&shop, "error_reason").await.as_deref(), Some("reauthorize"));
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
}

#[tokio::test]
async fn a_rejection_under_other_credentials_says_nothing() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    // The secret of another app, which TikTok answers as it answers a seller who has left.
    let wrong = world::app("wrong", "app-secret-wrong");
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, world::APP_SECRET), wrong]);
    world.tiktok.bind(&shop.open_id, world::APP_KEY);
    world.aws.set_secret(Some(&json!({"app_key": "wrong", "app_secret": "app-secret-wrong"}).to_string()));
    assert_eq!(ensure(&world, &shop).await["reason"], "reauthorize");
    let right = json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET});
    world.aws.set_secret(Some(&right.to_string()));
    let repaired = world.another_function().await;
    assert_eq!(ensure_in(&repaired, &world, &shop, minutes(15)).await["outcome"], "refreshed");
}

#[tokio::test]
async fn a_token_that_was_replaced_during_the_call_counts_whatever_tiktok_says_of_the_old_one() {
    for answer in [Behaviour::Normal, Behaviour::Code(36_009_999, "odd"), Behaviour::Status(500, "", None)] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(-1)).insert().await;
        if answer == Behaviour::Normal {
            world.tiktok.revoke(&shop.open_id);
        }
        world.tiktok.always(Some(answer.clone()));
        let acquired = world.aws.hold_answer(Step::Acquire);
        let (function, event, deadline) = (world.function.clone(), event(&shop), world.deadline());
        let caller = tokio::spawn(async move { world::invoke(&function, &event, deadline).await.unwrap() });
        acquired.reached().await;
        // Another program stores a new authorization.
        let pair = world.tiktok.authorize(&shop.open_id, "Bánh Mì 25");
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let expiry = AttributeValue::N((world.now() + days(7)).timestamp().to_string());
        let written = [
            ("access_token", text(&pair.access_token)),
            ("refresh_token", text(&pair.refresh_token)),
            ("access_token_expires_at", expiry),
        ];
        world.write(&shop, &written).await;
        acquired.open();
        let answered = caller.await.unwrap();
        assert_eq!(brief(&answered), json!(["refreshed_by_another", null, null]), "{answer:?}");
    }
}

#[tokio::test]
async fn an_unknown_outcome_of_last_night_does_not_hide_that_a_run_is_at_the_row_again() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(-1)).text("error_reason", "no_readable_answer");
    let shop =
        shop.text("error_code", "no_readable_answer").number("error_at", NIGHT - 86_400).insert().await;
    let run = world.refresh_until(Step::Save).await;
    let (function, event, deadline) = (world.function.clone(), event(&shop), world.deadline());
    let caller = tokio::spawn(async move { world::invoke(&function, &event, deadline).await.unwrap() });
    while world.aws.count(Step::Read) < 2 {
        tokio::task::yield_now().await;
    }
    run.go_on().await;
    assert_eq!(brief(&caller.await.unwrap()), json!(["refreshed_by_another", null, null]));
}

#[tokio::test]
async fn another_failure_is_repeated_for_five_seconds() {
    for (behaviour, reason) in [
        (Behaviour::Code(36_009_999, "odd"), "refused"),
        (Behaviour::Code(36_009_003, "internal error"), "provider_error"),
        (Behaviour::Status(503, "", None), "provider_busy"),
        (Behaviour::Status(429, "", Some(0)), "provider_busy"),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(1)).insert().await;
        world.tiktok.always(Some(behaviour));
        let answer = ensure(&world, &shop).await;
        assert_eq!(brief(&answer), json!(["failed", reason, 5]), "{answer}");
        let calls = world.tiktok.all_calls();
        world.tiktok.always(None);
        world.pass(TimeDelta::seconds(4));
        let repeated = ensure(&world, &shop).await;
        assert_eq!(brief(&repeated), json!(["failed", reason, 1]));
        assert_eq!((&repeated["message"], world.tiktok.all_calls()), (&answer["message"], calls));
        world.pass(TimeDelta::seconds(1));
        assert_eq!(ensure(&world, &shop).await["outcome"], "refreshed");
    }
}

#[tokio::test]
async fn refused_credentials_are_remembered_for_half_a_minute_in_each_environment() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    let other = world.integration().expiring_in(minutes(1)).insert().await;
    let before = world.everything().await;
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-rotated")]);
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["failed", "misconfigured", 30]));
    world.pass(TimeDelta::seconds(29));
    let answer = ensure(&world, &other).await;
    assert_eq!(brief(&answer), json!(["failed", "misconfigured", 1]));
    assert_eq!(answer["access_token_expires_at"], NIGHT + 60);
    assert_eq!(world.tiktok.all_calls(), 1);
    assert_eq!(world.everything().await, before, "no row is touched");
    let elsewhere = world.another_function().await;
    assert_eq!(ensure_in(&elsewhere, &world, &shop, minutes(15)).await["reason"], "misconfigured");
    assert_eq!(world.tiktok.all_calls(), 2);
    // Half a minute later the environment asks again, and reads the secret again when TikTok refuses it.
    let repaired = json!({"app_key": world::APP_KEY, "app_secret": "app-secret-rotated"});
    world.aws.set_secret(Some(&repaired.to_string()));
    world.pass(TimeDelta::seconds(1));
    assert_eq!(ensure(&world, &shop).await["outcome"], "refreshed");
}

#[tokio::test]
async fn an_unknown_outcome_is_told_to_everybody_at_once_until_the_lease_ends() {
    let world = World::with(&[IMPATIENT]).await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::Hang, Behaviour::Hang]);
    assert_eq!(
        brief(&ensure(&world, &shop).await),
        json!(["outcome_unknown", "no_readable_answer", 100]),
        "40 s of the attempt, and 60 s of clock skew"
    );
    world.pass(TimeDelta::seconds(30));
    let began = Instant::now();
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["outcome_unknown", "no_readable_answer", 70]));
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waits for a lease that runs out by itself");
    assert_eq!(world.tiktok.all_calls(), 2);
    world.pass(TimeDelta::seconds(70));
    assert_eq!(ensure(&world, &shop).await["outcome"], "refreshed");
}

#[tokio::test]
async fn an_unknown_outcome_of_an_earlier_attempt_does_not_hide_the_one_under_way() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).leased_for(minutes(-1));
    let shop = shop.text("error_reason", "no_readable_answer").text("error_code", "no_readable_answer");
    let shop = shop.number("error_at", NIGHT - 160).insert().await;
    let gate = world.aws.hold(Step::Save);
    let winner = spawn(&world.function, &world, &shop);
    gate.reached().await;
    let waiting = spawn(&world.another_function().await, &world, &shop);
    while world.aws.count(Step::Read) < 3 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(winner.await.unwrap()["outcome"], "refreshed");
    assert_eq!(waiting.await.unwrap()["outcome"], "refreshed_by_another");
}

fn spawn(function: &Arc<Function>, world: &World, shop: &Shop) -> tokio::task::JoinHandle<Value> {
    let (function, event, deadline) = (function.clone(), event(shop), world.deadline());
    tokio::spawn(async move { told(world::invoke(&function, &event, deadline).await.unwrap()) })
}

#[tokio::test]
async fn who_loses_the_race_uses_the_winners_token() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    // Somebody replaces the token between this caller's read and its lease.
    let gate = world.aws.hold(Step::Acquire);
    let late = spawn(&world.function, &world, &shop);
    gate.reached().await;
    let winner = world.another_function().await;
    assert_eq!(ensure_in(&winner, &world, &shop, minutes(15)).await["outcome"], "refreshed");
    gate.open();
    let answer = late.await.unwrap();
    assert_eq!(brief(&answer), json!(["refreshed_by_another", null, null]));
    assert_eq!(answer["access_token_expires_at"], NIGHT + days(7).num_seconds());
    assert_eq!(world.tiktok.all_calls(), 1, "the new token was not redeemed once more");
}

#[tokio::test]
async fn who_loses_the_race_gets_the_winners_note() {
    for (behaviour, expected) in [
        (Behaviour::Code(36_004_001, "rt has expired"), json!(["cannot_refresh", "reauthorize", null])),
        (Behaviour::Code(36_009_999, "odd"), json!(["failed", "refused", 5])),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(1)).insert().await;
        world.tiktok.next(&shop.open_id, [behaviour]);
        let gate = world.aws.hold(Step::Settle);
        let winner = spawn(&world.function, &world, &shop);
        gate.reached().await;
        let waiting = spawn(&world.another_function().await, &world, &shop);
        while world.aws.count(Step::Read) < 3 {
            tokio::task::yield_now().await;
        }
        gate.open();
        assert_eq!(brief(&winner.await.unwrap()), expected);
        assert_eq!(brief(&waiting.await.unwrap()), expected);
        assert_eq!(world.tiktok.all_calls(), 1);
    }
}

#[tokio::test]
async fn a_note_between_the_read_and_the_lease_stops_the_attempt() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    let gate = world.aws.hold(Step::Acquire);
    let late = spawn(&world.function, &world, &shop);
    gate.reached().await;
    let note = [("error_reason", "refused"), ("error_code", "36009999"), ("error_message", "odd")];
    let mut note: Vec<_> =
        note.iter().map(|(name, text)| (*name, AttributeValue::S((*text).into()))).collect();
    note.push(("error_at", AttributeValue::N(NIGHT.to_string())));
    world.write(&shop, &note).await;
    gate.open();
    let answer = late.await.unwrap();
    assert_eq!(
        (brief(&answer), &answer["tiktok_code"]),
        (json!(["failed", "refused", 5]), &json!(36_009_999))
    );
    assert_eq!(world.tiktok.all_calls(), 0);
}

#[tokio::test]
async fn a_lease_that_outlasts_the_wait_is_told_as_such() {
    let world = World::new().await;
    let long = world.integration().expiring_in(minutes(1)).leased_for(minutes(14)).insert().await;
    let short = world.integration().expiring_in(minutes(1)).leased_for(TimeDelta::seconds(12)).insert().await;
    for (shop, retry_after) in [(&long, 30), (&short, 12)] {
        let answer = ensure_in(&world.function, &world, shop, TimeDelta::seconds(2)).await;
        assert_eq!(brief(&answer), json!(["locked", "leased", retry_after]));
    }
    assert_eq!((world.tiktok.all_calls(), world.aws.writes()), (0, 0));
    let reads = world.aws.count(Step::Read);
    assert!((4..=20).contains(&reads), "it looks again and again, but not without a pause: {reads}");
}

#[tokio::test]
async fn too_little_time_for_a_call_leaves_the_row_alone() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    let before = world.everything().await;
    // A call may take 20 s here, and 5 s are reserved for the save.
    let answer = ensure_in(&world.function, &world, &shop, TimeDelta::seconds(25)).await;
    assert_eq!(brief(&answer), json!(["failed", "out_of_time", 1]));
    assert_eq!((world.tiktok.all_calls(), world.everything().await), (0, before));
}

#[tokio::test]
async fn another_sellers_pair_must_not_be_used() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"open_id": "somebody-else"}))]);
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["cannot_refresh", "identity_mismatch", null]));
}

#[tokio::test]
async fn a_pair_that_could_not_be_saved_is_not_called_usable() {
    let world = World::with(&[("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work")]).await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["failed", "rescued", 100]));
    world.aws.heal();
    world.deliver().await;
    assert_eq!(ensure(&world, &shop).await["outcome"], "valid", "the queue has saved it");
}

#[tokio::test]
async fn a_garbled_row_and_an_unknown_app_are_named() {
    let world = World::new().await;
    let shop = world.integration().text("access_token_expires_at", "tomorrow").insert().await;
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["failed", "malformed_row", 60]));
    let shop = world.integration().expiring_in(minutes(1)).text("app_key", "unknown").insert().await;
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["failed", "unknown_app_key", 60]));
    assert_eq!(world.tiktok.all_calls(), 0);
}

#[tokio::test]
async fn a_refresh_that_panics_is_told_and_harms_nobody_else() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.panic_in_the_next_task();
    let answer = world.invoke(&event(&shop)).await.unwrap();
    assert_eq!((&answer["outcome"], &answer["reason"]), (&json!("failed"), &json!("internal_error")));
    world.pass(TimeDelta::seconds(100));
    assert_eq!(ensure(&world, &shop).await["valid"], true);
}

#[tokio::test]
async fn the_invocation_fails_only_when_the_table_or_the_secret_cannot_be_read() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.aws.fault(Step::Read, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(world.invoke(&event(&shop)).await.unwrap_err().error_type(), "TableUnavailable");
    world.aws.heal();
    world.aws.set_secret(None);
    assert_eq!(world.invoke(&event(&shop)).await.unwrap_err().error_type(), "CredentialsUnavailable");
    let fresh = world.integration().insert().await;
    assert_eq!(ensure(&world, &fresh).await["outcome"], "valid", "a good token needs no secret");
    let right = json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET});
    world.aws.set_secret(Some(&right.to_string()));
    world.aws.fault(Step::Acquire, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    assert_eq!(brief(&ensure(&world, &shop).await), json!(["failed", "store_error", 5]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_in_eight_environments_redeem_a_dead_token_once() {
    let world = World::new().await;
    world.tiktok.single_use();
    let latency = Duration::from_millis(300);
    world.tiktok.latency(latency);
    let shop = world.integration().expiring_in(minutes(-1)).insert().await;
    let mut environments = Vec::new();
    for _ in 0..8 {
        environments.push(world.another_function().await);
    }
    let mut callers = JoinSet::new();
    for n in 0..50 {
        let caller = spawn(&environments[n % 8], &world, &shop);
        callers.spawn(async { caller.await.unwrap() });
    }
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|answer| answer["valid"] == true), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer["outcome"] == "refreshed").count(), 1);
    assert_eq!((world.tiktok.all_calls(), world.aws.count(Step::Save)), (1, 1));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_whose_seller_has_left_ask_tiktok_once() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(-1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let function = world.another_function().await;
        for _ in 0..6 {
            let caller = spawn(&function, &world, &shop);
            callers.spawn(async { caller.await.unwrap() });
        }
    }
    for answer in callers.join_all().await {
        assert_eq!(brief(&answer), json!(["cannot_refresh", "reauthorize", null]));
    }
    assert_eq!(world.tiktok.all_calls(), 1);
}

#[tokio::test]
async fn a_caller_waits_for_the_nightly_run_too() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    let run = world.refresh_until(Step::Save).await;
    let waiting = spawn(&world.another_function().await, &world, &shop);
    while world.aws.count(Step::Read) < 2 {
        tokio::task::yield_now().await;
    }
    run.go_on().await;
    assert_eq!(waiting.await.unwrap()["outcome"], "refreshed_by_another");
    assert_eq!(world.tiktok.all_calls(), 1);
}

#[tokio::test]
async fn an_attempts_lease_ends_100_seconds_after_its_start_or_with_the_invocations_deadline() {
    for (time_left, lease) in [(minutes(15), 100), (TimeDelta::seconds(30), 90)] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(1)).insert().await;
        let gate = world.aws.hold_answer(Step::Acquire);
        let (function, event, deadline) = (world.function.clone(), event(&shop), world.now() + time_left);
        let caller = tokio::spawn(async move { world::invoke(&function, &event, deadline).await.unwrap() });
        gate.reached().await;
        assert_eq!(world.number(&shop, "lock_expires_at").await, Some(NIGHT + lease));
        gate.open();
        assert_eq!(caller.await.unwrap()["outcome"], "refreshed");
    }
}

#[tokio::test]
async fn bad_input_gets_one_clear_error_which_quotes_no_hash() {
    let world = World::new().await;
    let error = async |fields: Value| {
        let mut event = json!({"action": "ensure", "team_id": 1, "integration_id": 7});
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        world.invoke(&event).await.unwrap_err().to_string()
    };
    assert_eq!(
        error(json!({"team_id": null})).await,
        "bad event: team_id: missing, expected a string or an integer"
    );
    assert_eq!(
        error(json!({"integration_id": null})).await,
        "bad event: integration_id: missing, expected a string or an integer"
    );
    assert_eq!(
        error(json!({"force": true})).await,
        "bad event: force: unknown field `force`, expected one of `action`, `team_id`, `integration_id`, `valid_for`, \
         `rejected_token_sha256`"
    );
    for valid_for in ["25h", "86401s", "soon", "-5m", "", "5"] {
        let expected = "expected a duration from 0s to 24h, such as 5m";
        assert_eq!(
            error(json!({"valid_for": valid_for})).await,
            format!("bad event: valid_for: got {valid_for:?}, {expected}")
        );
    }
    assert_eq!(
        error(json!({"valid_for": 300})).await,
        "bad event: valid_for: invalid type: integer `300`, expected a string"
    );
    let expected = "expected the access token's SHA-256 as 64 hex digits";
    for (hash, got) in [
        (json!("TTP_a-token-by-mistake"), "got 22 characters, "),
        (json!("x".repeat(64)), "got 64 characters, "),
        (json!(""), "got 0 characters, "),
        (json!("0".repeat(63)), "got 63 characters, "),
        (json!(7), ""),
    ] {
        assert_eq!(
            error(json!({"rejected_token_sha256": hash})).await,
            format!("bad event: rejected_token_sha256: {got}{expected}")
        );
    }
    assert_eq!(world.aws.requests(), 0);
}

#[tokio::test]
async fn through_the_alias_ensure_nothing_else_is_accepted() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let arn = "arn:aws:lambda:us-east-1:123456789012:function:tiktok-token-refresh";
    let invoke = async |event: Value, arn: &str| {
        world.function.handle_invoked(&event.to_string(), arn, world.deadline()).await
    };
    let applications = format!("{arn}:ensure");
    let scheduled = serde_json::from_str(include_str!("../../events/scheduled.json")).unwrap();
    let queued = json!({"Records": [{"messageId": "m", "body": "{}", "eventSource": "aws:sqs"}]});
    let mut refused = vec![scheduled, queued, json!({}), json!({"describe": true})];
    refused.extend(["refresh", "status", "verify", "cleanup"].map(|action| json!({"action": action})));
    let connect = json!({"action": "connect", "team_id": 1, "integration_id": 7, "auth_code": "code"});
    for event in refused.into_iter().chain([connect]) {
        let error = invoke(event.clone(), &applications).await.unwrap_err();
        assert_eq!(error.error_type(), "BadEvent", "{event}");
        assert!(error.to_string().contains("the alias \"ensure\" accepts only \"ensure\""), "{error}");
    }
    assert_eq!((world.aws.requests(), world.tiktok.all_calls()), (0, 0));
    invoke(event(&shop), &applications).await.unwrap();
    let named_ensure = "arn:aws:lambda:us-east-1:123456789012:function:ensure".to_owned();
    for arn in [arn.to_owned(), format!("{arn}:live"), format!("{arn}:$LATEST"), named_ensure] {
        invoke(event(&shop), &arn).await.unwrap();
        invoke(json!({"action": "status"}), &arn).await.unwrap();
    }
}

fn key(shop: &Shop) -> IntegrationKey {
    IntegrationKey { team_id: shop.team_id.clone(), integration_id: shop.integration_id.clone() }
}

#[tokio::test]
async fn callers_in_rust_follow_the_same_rules() {
    let world = World::new().await;
    let fresh = world.integration().insert().await;
    let token =
        async |shop: &Shop| world.function.ensure_valid_access_token(&key(shop), world.deadline()).await;
    assert!(token(&fresh).await.is_ok());
    assert_eq!(world.aws.requests(), 1, "not even the secret");

    let gone = world.integration().expiring_in(minutes(1)).insert().await;
    world.tiktok.revoke(&gone.open_id);
    for _ in 0..2 {
        let Err(TokenError::NoToken { reason, code, retry_after_seconds, .. }) = token(&gone).await else {
            panic!("expected no token")
        };
        assert_eq!((reason.as_str(), code, retry_after_seconds), ("reauthorize", Some(36_004_005), None));
    }
    assert_eq!(world.tiktok.all_calls(), 1, "the note is repeated");

    let dead = world.integration().expiring_in(minutes(1)).insert().await;
    let run = world.refresh_until(Step::Save).await;
    let (function, dead_key, deadline) = (world.another_function().await, key(&dead), world.deadline());
    let waiting = tokio::spawn(async move { function.ensure_valid_access_token(&dead_key, deadline).await });
    tokio::task::yield_now().await;
    run.go_on().await;
    let token = waiting.await.unwrap().unwrap();
    assert_eq!(Some(token.expose().to_owned()), world.granted_pair(&dead).map(|pair| pair.access_token));
}

#[tokio::test]
async fn verify_stores_the_shops_once() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let verify = json!({"action": "verify"});
    world.refresh(verify.clone()).await;
    let AttributeValue::L(shops) = world.row(&shop).await["authorized_shops"].clone() else {
        panic!("a list")
    };
    let text = |name: &str| shops[0].as_m().unwrap()[name].as_s().unwrap().clone();
    assert_eq!(["id", "name", "region", "cipher"].map(text), ["7495", "Bánh Mì 25", "VN", "ROW_local"]);
    assert_eq!((shops.len(), world.aws.writes()), (1, 1));
    world.refresh(verify).await;
    assert_eq!(world.aws.writes(), 1, "nothing has changed");
    assert_eq!(world.text(&shop, "note").await.as_deref(), Some("the user's own"));
    // Ids and names are shown, and never a cipher.
    let status = world.refresh(json!({"action": "status"})).await;
    assert_eq!(status["integrations"][0]["shops"], json!([{"id": "7495", "name": "Bánh Mì 25"}]));
}

#[tokio::test]
async fn shops_of_one_authorization_are_not_stored_beside_the_token_of_another() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let gate = world.aws.hold(Step::Settle);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let verify =
        tokio::spawn(async move { world::invoke(&function, &json!({"action": "verify"}), deadline).await });
    gate.reached().await;
    world.write(&shop, &[("access_token", AttributeValue::S("TTP_another".into()))]).await;
    gate.open();
    assert_eq!(verify.await.unwrap().unwrap()["counts"]["valid"], 1, "TikTok has accepted the token");
    assert!(!world.row(&shop).await.contains_key("authorized_shops"));
}

#[tokio::test]
async fn a_connect_removes_the_old_shops_and_stores_the_new_ones() {
    let world = World::new().await;
    let old =
        AttributeValue::L(vec![AttributeValue::M([("id".into(), AttributeValue::S("1".into()))].into())]);
    let shop = world.integration().attribute("authorized_shops", old).insert().await;
    let connect = |code: String| {
        json!({"action": "connect", "team_id": shop.team_id, "integration_id": shop.integration_id,
               "auth_code": code})
    };
    // TikTok does not list them: the integration is connected all the same, and shows no shop of the old authorization.
    world.tiktok.open_api_answers(Some((500, 36_009_003, "internal error")));
    let code = world.tiktok.auth_code(&shop.open_id, "Phở 24");
    assert_eq!(world.refresh(connect(code)).await["outcome"], "reconnected");
    assert!(!world.row(&shop).await.contains_key("authorized_shops"));
    // The table does not take them.
    world.tiktok.open_api_answers(None);
    world.aws.fault(Step::Settle, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    let code = world.tiktok.auth_code(&shop.open_id, "Phở 24");
    assert_eq!(world.refresh(connect(code)).await["outcome"], "reconnected");
    assert!(!world.row(&shop).await.contains_key("authorized_shops"));
    world.aws.heal();
    let code = world.tiktok.auth_code(&shop.open_id, "Phở 24");
    assert_eq!(world.refresh(connect(code)).await["outcome"], "reconnected");
    let AttributeValue::L(shops) = world.row(&shop).await["authorized_shops"].clone() else {
        panic!("a list")
    };
    assert_eq!(shops[0].as_m().unwrap()["name"].as_s().unwrap(), "Phở 24");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}
