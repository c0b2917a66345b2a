//! Attacks on a run under pressure: busy answers, gateways, queues and tables that hang, and deadlines in the middle of it all.

use super::{
    break_it::{by_the_real_clock, within},
    support::{Behaviour, Fault, Step, World, aws::Gate, days, hours, logs, minutes, world},
};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const QUEUE: (&str, &str) = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");
const BUS: (&str, &str) = ("EVENT_BUS_NAME", "platform");
const BUSY: Behaviour = Behaviour::Status(429, "too many requests", Some(0));
const GONE: Behaviour = Behaviour::Code(36_004_005, "can not find related auth record");
const GATEWAY: Behaviour = Behaviour::Status(502, "<html>", None);

/// A world with the apps `29a39d`, `second` and `third`, which both TikTok and the secret know, in this order.
async fn three_apps(settings: &[(&'static str, &str)]) -> World {
    let world = World::with(settings).await;
    let apps = [(world::APP_KEY, world::APP_SECRET), ("second", "app-secret-2"), ("third", "app-secret-3")];
    world.tiktok.set_apps(apps.map(|(key, secret)| world::app(key, secret)).to_vec());
    let apps = apps.map(|(key, secret)| json!({"app_key": key, "app_secret": secret}));
    world.aws.set_secret(Some(&json!({ "apps": apps }).to_string()));
    world
}

fn secret(secret: &str) -> String {
    json!({"app_key": world::APP_KEY, "app_secret": secret}).to_string()
}

/// Every examined row has one outcome.
fn assert_adds_up(answer: &Value, rows: u64) {
    let counts = &answer["counts"];
    let outcomes = [
        "refreshed",
        "would_refresh",
        "skipped_not_due",
        "skipped_locked",
        "cannot_refresh",
        "failed",
        "outcome_unknown",
        "deferred",
        "queued",
    ];
    let sum: u64 = outcomes.iter().map(|outcome| counts[outcome].as_u64().unwrap()).sum();
    assert_eq!((&counts["examined"], sum), (&json!(rows), rows), "{counts}");
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    for row in answer["integrations"].as_array().unwrap() {
        *listed.entry(row["integration_id"].as_str().unwrap()).or_default() += 1;
    }
    assert!(listed.values().all(|times| *times == 1), "{listed:?}");
}

// --- Answers that tell nothing of the row --------------------------------------------------------------------------------

#[tokio::test]
async fn a_gateways_error_among_several_apps_does_not_end_the_search_for_the_rows_app() {
    for (bound, script) in [
        // The default app's answer is lost, and then it rejects the token of another app's seller.
        ("second", vec![GATEWAY]),
        // So does the second app.
        ("third", vec![Behaviour::Normal, GATEWAY]),
    ] {
        let world = three_apps(&[]).await;
        let shop = world.integration().expiring_in(hours(-1)).insert().await;
        world.tiktok.bind(&shop.open_id, bound);
        world.tiktok.next(&shop.open_id, script);
        // Proof of each app's credentials: a rejection would mark the row.
        for app_key in [world::APP_KEY, "second", "third"] {
            world.integration().text("app_key", app_key).insert().await;
        }
        let answer = world.refresh_all().await;
        assert_eq!(answer["counts"]["refreshed"], 1, "{bound}: {answer}");
        assert_eq!(world.text(&shop, "app_key").await.as_deref(), Some(bound));
    }
}

#[tokio::test]
async fn an_app_that_gives_no_word_does_not_hide_the_rows_app() {
    for answer in [BUSY, Behaviour::Code(36_009_003, "internal error"), Behaviour::Code(1, "odd")] {
        let world = three_apps(&[]).await;
        let shop = world.integration().expiring_in(hours(-1)).insert().await;
        world.tiktok.bind(&shop.open_id, "third");
        // The default app rejects the row. The second gives this answer: a busy one in each of three tries.
        let times = if answer == BUSY { 3 } else { 1 };
        let script = std::iter::once(Behaviour::Normal).chain(vec![answer.clone(); times]);
        world.tiktok.next(&shop.open_id, script);
        assert_eq!(world.outcome().await["outcome"], "refreshed", "{answer:?}");
        assert_eq!(world.text(&shop, "app_key").await.as_deref(), Some("third"));
    }
}

#[tokio::test]
async fn a_busy_answer_does_not_prove_another_version_of_the_secret() {
    for no_word in [vec![BUSY; 3], vec![GATEWAY; 2]] {
        let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
        world.aws.set_secret(Some(&secret("app-secret-mistyped")));
        world.aws.set_version("AWSPENDING", Some(&secret("app-secret-not-yet")));
        world.aws.set_version("AWSPREVIOUS", Some(&secret(world::APP_SECRET)));
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, std::iter::once(Behaviour::Normal).chain(no_word.clone()));
        for _ in 0..4 {
            world.integration().expiring_in(hours(2)).insert().await;
        }
        let answer = world.refresh_all().await;
        let refreshed = if no_word.len() == 3 { 5 } else { 4 };
        assert_eq!(answer["counts"]["refreshed"], refreshed, "{answer}");
        assert_adds_up(&answer, 5);
    }
}

#[tokio::test]
async fn a_gateways_error_before_any_other_answer_never_releases_the_lease_unless_tiktok_rejects() {
    let cases = [
        (Behaviour::Normal, "refreshed", None),
        (BUSY, "outcome_unknown", Some("no_readable_answer")),
        (Behaviour::Code(36_009_003, "internal error"), "outcome_unknown", Some("no_readable_answer")),
        (Behaviour::Code(36_004_002, "Invalid app_secret"), "outcome_unknown", Some("no_readable_answer")),
        (Behaviour::Code(1, "odd"), "outcome_unknown", Some("no_readable_answer")),
        (Behaviour::CutAfterRedeeming, "outcome_unknown", Some("no_readable_answer")),
        (GONE, "failed", Some("refresh_token_lost")),
    ];
    for (then, outcome, reason) in cases {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [GATEWAY, then.clone()]);
        let ended = world.outcome().await;
        assert_eq!((&ended["outcome"], &ended["reason"]), (&json!(outcome), &json!(reason)), "{then:?}");
        assert_eq!(world.tiktok.calls(&shop.open_id), 2, "{then:?}");
        let is_leased = world.text(&shop, "lock_owner").await.is_some();
        assert_eq!(is_leased, outcome == "outcome_unknown", "{then:?}");
    }
}

#[tokio::test]
async fn a_limit_that_names_the_app_key_stops_no_app() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    for _ in 0..5 {
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        let limit = Behaviour::Code(36_009_002, "app_key 29a39d exceeds its limit of requests");
        world.tiktok.next(&shop.open_id, [limit]);
    }
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 5, "{answer}");
}

// --- Rounds --------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_interrupted_attempt_is_counted_once_however_many_rounds_its_row_takes() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).leased_for(minutes(-5)).insert().await;
    world.tiktok.next(&shop.open_id, vec![BUSY; 7]);
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 1, "{answer}");
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let end = lines.iter().find(|line| line["interrupted_attempts"].is_number()).unwrap();
    assert_eq!(end["interrupted_attempts"], 1);
}

#[tokio::test]
async fn a_row_whose_lease_stays_behind_after_a_busy_round_is_not_called_locked_by_another() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, vec![BUSY; 3]);
    // Releasing the lease fails in all of the SDK's attempts.
    world.aws.fault(Step::Settle, 3, Fault::Refuse(500, "InternalServerError"));
    let ended = world.outcome().await;
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("failed"), &json!("provider_busy")), "{ended}");
    assert_eq!(world.text(&shop, "error_reason").await.as_deref(), Some("provider_busy"));
    assert_eq!(world.text(&shop, "lock_owner").await, None);
}

#[tokio::test]
async fn a_row_that_another_program_takes_between_two_rounds_is_theirs() {
    for (theirs, outcome, reason) in [
        (vec![("status", json!("paused"))], "not_due", "status"),
        (
            vec![("lock_owner", json!("another")), ("lock_expires_at", json!(4_000_000_000_i64))],
            "locked",
            "leased",
        ),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, vec![BUSY; 3]);
        let gate = Gate::new();
        world.aws.fault(Step::Settle, 1, Fault::HoldAnswer(gate.clone()));
        let (function, deadline) = (world.function.clone(), world.deadline());
        let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
        gate.reached().await;
        let attribute = |value: &Value| match value {
            Value::Number(number) => aws_sdk_dynamodb::types::AttributeValue::N(number.to_string()),
            text => aws_sdk_dynamodb::types::AttributeValue::S(text.as_str().unwrap().into()),
        };
        let theirs: Vec<_> = theirs.iter().map(|(name, value)| (*name, attribute(value))).collect();
        world.write(&shop, &theirs).await;
        gate.open();
        let answer = run.await.unwrap().unwrap();
        let ended = &answer["integrations"][0];
        assert_eq!((&ended["outcome"], &ended["reason"]), (&json!(outcome), &json!(reason)), "{ended}");
        assert_eq!(world.tiktok.calls(&shop.open_id), 3);
        assert_adds_up(&answer, 1);
    }
}

#[tokio::test]
async fn busy_rows_of_several_apps_and_marked_ones_end_once_each() {
    let world = three_apps(&[("MAX_CONCURRENCY", "3")]).await;
    let (mut rows, mut refreshed) = (0, 0);
    for app_key in [world::APP_KEY, "second", "third"] {
        for (n, busy) in [0, 1, 3, 7, 14, 15, 40].into_iter().enumerate() {
            let row = world.integration().id(&format!("{app_key}-{n}")).text("app_key", app_key);
            let row = if n % 2 == 0 {
                row
            } else {
                row.status("error").text("error_reason", "reauthorize").text("rejected_by", "0123456789ab")
            };
            let shop = row.expiring_in(hours(1)).insert().await;
            world.tiktok.next(&shop.open_id, vec![BUSY; busy]);
            rows += 1;
            refreshed += u64::from(busy < 15);
        }
    }
    let answer = world.refresh_all().await;
    assert_adds_up(&answer, rows);
    assert_eq!(
        (&answer["counts"]["refreshed"], &answer["counts"]["due"]),
        (&json!(refreshed), &json!(rows)),
        "{answer}"
    );
}

#[tokio::test]
async fn a_busy_tiktok_does_not_keep_a_fan_out_from_its_end() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "5")]).await;
    for _ in 0..20 {
        // No access token of theirs can prove the app's credentials.
        world.integration().expiring_in(hours(-1)).insert().await;
    }
    world.tiktok.always(Some(Behaviour::Status(429, "too many requests", Some(120))));
    let answer = tokio::time::timeout(Duration::from_secs(20), world.refresh_all()).await.expect("it waits");
    assert_adds_up(&answer, 20);
    assert_eq!((&answer["counts"]["queued"], &answer["complete"]), (&json!(20), &json!(true)), "{answer}");
    world.tiktok.always(None);
    world.deliver().await;
    let refreshed: u64 = world.metrics().iter().map(|metrics| metrics["Refreshed"].as_u64().unwrap()).sum();
    assert_eq!(refreshed, 20);
}

// --- The end of the time ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_row_that_waits_for_its_turn_until_the_time_is_over_goes_to_the_queue_without_a_note() {
    let world = World::with(&[QUEUE, ("MAX_REQUESTS_PER_SECOND", "1")]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [BUSY]);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    while world.tiktok.calls(&shop.open_id) == 0 {
        tokio::task::yield_now().await;
    }
    // The second try waits for a second, as the app's rate is 1 per second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.pass(minutes(15) - TimeDelta::seconds(6));
    let answer = run.await.unwrap().unwrap();
    assert_eq!(answer["counts"]["queued"], 1, "{answer}");
    let row = world.row(&shop).await;
    assert!(!row.contains_key("error_reason") && !row.contains_key("lock_owner"), "{row:?}");
    world.deliver().await;
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_queue_that_hangs_does_not_keep_a_run_beyond_its_deadline() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[QUEUE]).await;
    for _ in 0..3 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.aws.fault(Step::Queue, usize::MAX, Fault::Hold(Gate::new()));
    let left = Duration::from_secs(5);
    let (answer, took) = within(&function, &json!({}), left).await;
    let answer = answer.unwrap();
    assert!(took < left, "{took:?} of {left:?}");
    assert_adds_up(&answer, 3);
    assert_eq!((&answer["counts"]["deferred"], &answer["complete"]), (&json!(3), &json!(false)), "{answer}");
    assert_eq!(answer["integrations"][0]["reason"], "queue_refused");
}

#[tokio::test]
async fn a_table_that_hangs_at_the_end_does_not_keep_a_run_beyond_its_deadline() {
    async fn hangs(step: Step, behaviour: Behaviour, reason: &str) {
        let world = World::new().await;
        let function = by_the_real_clock(&world, "1s", &[]).await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [behaviour]);
        world.aws.fault(step, usize::MAX, Fault::Hold(Gate::new()));
        let left = Duration::from_secs(8);
        let (answer, took) = within(&function, &json!({}), left).await;
        assert!(took < left, "{step:?} {reason}: {took:?} of {left:?}");
        assert_eq!(answer.unwrap()["integrations"][0]["reason"], reason);
    }
    tokio::join!(
        hangs(Step::Acquire, Behaviour::Normal, "store_error"),
        hangs(Step::Save, Behaviour::Normal, "not_saved"),
        hangs(Step::Settle, Behaviour::Code(1, "odd"), "refused"),
        hangs(Step::Settle, GONE, "reauthorize"),
    );
}

#[tokio::test]
async fn a_queue_that_hangs_in_the_last_second_leaves_time_to_say_that_the_pair_is_not_saved() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[QUEUE]).await;
    world.integration().expiring_in(hours(1)).insert().await;
    for step in [Step::Save, Step::Queue] {
        world.aws.fault(step, usize::MAX, Fault::Hold(Gate::new()));
    }
    let left = Duration::from_secs(8);
    let (answer, took) = within(&function, &json!({}), left).await;
    assert!(took < left, "{took:?} of {left:?}");
    assert_eq!(answer.unwrap()["integrations"][0]["reason"], "not_saved");
}

#[tokio::test]
async fn an_event_bus_that_hangs_does_not_keep_a_run_beyond_its_deadline() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[BUS]).await;
    let recovers = world.integration().expiring_in(hours(1)).status("error").insert().await;
    let warned = world.integration().refreshable_for(days(3));
    warned.expiring_in(days(6)).insert().await;
    world.aws.fault(Step::Publish, usize::MAX, Fault::Hold(Gate::new()));
    let left = Duration::from_secs(8);
    let (answer, took) = within(&function, &json!({"force": true}), left).await;
    assert!(took < left, "{took:?} of {left:?}");
    assert_eq!(answer.unwrap()["counts"]["refreshed"], 2);
    assert_eq!(world.text(&recovers, "status").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn no_row_is_both_queued_and_refreshed_when_the_time_ends_among_busy_rows() {
    let world = World::with(&[QUEUE, ("MAX_CONCURRENCY", "2"), world::IMPATIENT]).await;
    let mut shops = Vec::new();
    for n in 0..12 {
        let shop = world.integration().id(&n.to_string()).expiring_in(hours(n + 1)).insert().await;
        if n % 3 == 0 {
            world.tiktok.next(&shop.open_id, [Behaviour::Status(429, "", Some(60)); 1]);
        }
        shops.push(shop);
    }
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    while world.tiktok.all_calls() < 8 {
        tokio::task::yield_now().await;
    }
    // Held, so that the run is still under way when the time ends.
    let gate = world.aws.hold(Step::Acquire);
    gate.reached().await;
    world.pass(minutes(15) - TimeDelta::seconds(5));
    gate.open();
    let answer = run.await.unwrap().unwrap();
    assert_adds_up(&answer, 12);
    let queued = world.aws.queued().concat();
    for row in answer["integrations"].as_array().unwrap() {
        let id = format!("\"{}\"", row["integration_id"].as_str().unwrap());
        assert_eq!(queued.matches(&id).count(), usize::from(row["outcome"] == "queued"), "{row} {queued}");
    }
    world.deliver().await;
    for shop in &shops {
        assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop), "{}", shop.integration_id);
    }
}
