//! What goes by way of the queue: pairs that the table would not take, and work for others.

use super::support::{Behaviour, Fault, Step, World, days, hours, logs, world};
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::time::Duration;

const QUEUE: (&str, &str) = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");

async fn with_queue() -> World {
    let world = World::with(&[QUEUE]).await;
    world.tiktok.single_use();
    world
}

/// A world in whose queue the only copy of a pair waits, and whose table takes writes again.
async fn rescued() -> (World, world::Shop) {
    let world = with_queue().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "ProvisionedThroughputExceededException"));
    let answer = world.refresh_all().await;
    let ended = &answer["integrations"][0];
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("queued"), &json!("rescued")));
    assert_eq!(world.aws.queued().len(), 1);
    world.aws.heal();
    (world, shop)
}

fn none_failed() -> Value {
    json!({"batchItemFailures": []})
}

#[tokio::test]
async fn a_pair_that_the_table_refuses_waits_in_the_queue_and_is_saved_from_there() {
    let (world, shop) = rescued().await;
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
    let in_a_week = (world.now() + days(7)).timestamp();
    assert_eq!(world.number(&shop, "access_token_expires_at").await, Some(in_a_week));
    assert_eq!(world.tiktok.calls(&shop.open_id), 1);
}

#[tokio::test]
async fn a_table_that_hangs_costs_no_more_than_one_that_refuses() {
    let world = with_queue().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let table = world.aws.hold(Step::Save);
    let queue = world.aws.hold_answer(Step::Queue);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    table.reached().await;
    queue.reached().await;
    assert_eq!(world.aws.queued().len(), 1, "the queue has the pair while the table still hangs");
    queue.open();
    assert_eq!(run.await.unwrap().unwrap()["integrations"][0]["reason"], "rescued");
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_pair_that_comes_in_the_last_second_is_sent_to_the_queue_at_once() {
    let world = with_queue().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "ThrottlingException"));
    world.tiktok.next(&shop.open_id, [Behaviour::Slow(Duration::from_millis(500))]);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    while world.tiktok.calls(&shop.open_id) == 0 {
        tokio::task::yield_now().await;
    }
    world.pass(TimeDelta::minutes(15));
    assert_eq!(run.await.unwrap().unwrap()["integrations"][0]["reason"], "rescued");
    assert_eq!(world.aws.queued().len(), 1);
    world.aws.heal();
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn what_there_is_no_time_for_goes_to_the_queue_before_anything_in_flight_ends() {
    let world = World::with(&[QUEUE, ("MAX_CONCURRENCY", "1"), world::IMPATIENT]).await;
    let first = world.integration().expiring_in(hours(1)).insert().await;
    let second = world.integration().expiring_in(hours(2)).insert().await;
    let acquire = world.aws.hold(Step::Acquire);
    let queue = world.aws.hold_answer(Step::Queue);
    // A second is left to begin a call that takes up to one second, and five are reserved for its save.
    let (function, deadline) = (world.function.clone(), world.now() + TimeDelta::seconds(7));
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    acquire.reached().await;
    world.pass(TimeDelta::seconds(2));
    queue.reached().await;
    assert!(world.aws.queued()[0].contains(&second.integration_id), "the first row is still in flight");
    queue.open();
    acquire.open();
    let answer = run.await.unwrap().unwrap();
    assert_eq!((&answer["counts"]["queued"], &answer["complete"]), (&json!(2), &json!(true)));
    assert!(world.aws.queued()[1].contains(&first.integration_id));
}

#[tokio::test]
async fn expiry_warnings_use_no_time_that_the_due_rows_need() {
    let world = World::with(&[QUEUE, ("EVENT_BUS_NAME", "bus"), world::IMPATIENT]).await;
    for _ in 0..40 {
        let row = world.integration().expiring_in(days(6));
        row.number("refresh_token_expires_at", (world.now() + days(3)).timestamp()).insert().await;
    }
    world.integration().expiring_in(hours(1)).insert().await;
    let deadline = world.now() + TimeDelta::seconds(5);
    let answer = world::invoke(&world.function, &json!({}), deadline).await.unwrap();
    assert_eq!((&answer["counts"]["queued"], world.aws.published().len()), (&json!(1), 0));
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    assert!(lines.iter().any(|line| line["left"] == 40), "the log says so");
    world.refresh_all().await;
    assert_eq!(world.aws.published().len(), 40, "the next run finds them");
}

#[tokio::test]
async fn a_table_that_recovers_soon_needs_no_rescue() {
    let world = with_queue().await;
    world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, 1, Fault::Refuse(400, "ProvisionedThroughputExceededException"));
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 1);
    assert!(world.aws.queued().is_empty());
}

#[tokio::test]
async fn a_rescue_that_is_delivered_twice_or_late_does_no_harm() {
    let (world, shop) = rescued().await;
    let message = world.aws.queued().remove(0);
    world.aws.enqueue(&message);
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));

    // A week later the row has moved on.
    world.pass(days(6));
    world.refresh_all().await;
    let newest = world.stored_pair(&shop).await;
    assert_eq!(newest, world.granted_pair(&shop));
    world.aws.enqueue(&message);
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, newest);
}

#[tokio::test]
async fn a_rescue_gives_way_to_the_users_new_authorization() {
    let (world, shop) = rescued().await;
    let users = world.tiktok.authorize(&shop.open_id, "Bánh Mì 25");
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let expiry = (world.now() + days(7) + TimeDelta::seconds(1)).timestamp();
    let written = [
        ("access_token", text(&users.access_token)),
        ("refresh_token", text(&users.refresh_token)),
        ("access_token_expires_at", AttributeValue::N(expiry.to_string())),
    ];
    world.write(&shop, &written).await;
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, Some(users));
}

#[tokio::test]
async fn a_rescue_of_a_deleted_row_is_done_and_creates_nothing() {
    let (world, shop) = rescued().await;
    world.delete(&shop).await;
    assert_eq!(world.deliver().await, none_failed());
    assert!(world.find(&shop).await.is_none());
}

#[tokio::test]
async fn a_rescue_heals_a_row_that_was_marked_meanwhile() {
    let (world, shop) = rescued().await;
    world.pass(TimeDelta::minutes(20));
    let marked = world.refresh_all().await; // The lease has run out, and the token was used.
    assert_eq!(marked["integrations"][0]["reason"], "probably_lost_answer");
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_rescue_stays_in_the_queue_until_the_table_takes_it() {
    let (world, shop) = rescued().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(500, "InternalServerError"));
    let answer = world.deliver().await;
    assert_eq!(answer["batchItemFailures"].as_array().unwrap().len(), 1);
    world.aws.heal();
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_message_that_cannot_be_read_ends_in_the_dead_letter_queue_and_names_the_integration() {
    let (world, shop) = rescued().await;
    let poison = world.aws.queued().remove(0).replace("\"sent\"", "\"sant\"");
    world.deliver().await;
    world.aws.enqueue(&poison);
    world.aws.enqueue("TTR_not-json");
    for _ in 0..3 {
        assert_eq!(world.deliver().await["batchItemFailures"].as_array().unwrap().len(), 2);
    }
    assert_eq!((world.aws.dead(), world.aws.queued().len()), (2, 0));
    let told = logs::lines_with("integration_id", &shop.integration_id);
    let told = told
        .iter()
        .find(|line| line["message"].as_str().unwrap().contains("could not read a message of the queue"));
    assert_eq!(told.unwrap()["level"], "ERROR");
}

#[tokio::test]
async fn a_large_run_is_spread_over_the_queue_in_messages_of_fifty() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "100")]).await;
    world.tiktok.single_use();
    let mut shops = Vec::new();
    for _ in 0..230 {
        shops.push(world.integration().expiring_in(hours(1)).insert().await);
    }
    world.integration().insert().await;
    let answer = world.refresh_all().await;
    let counts = &answer["counts"];
    assert_eq!(
        (&counts["examined"], &counts["due"], &counts["queued"]),
        (&json!(231), &json!(230), &json!(230))
    );
    assert_eq!((&answer["complete"], world.tiktok.all_calls(), world.aws.writes()), (&json!(true), 0, 0));
    let messages = world.aws.queued();
    assert_eq!(messages.len(), 5);
    assert!(messages.iter().all(|message| !message.contains("TT")), "keys only");
    // Delivered twice each, as SQS may.
    for message in &messages {
        world.aws.enqueue(message);
    }
    assert_eq!(world.deliver().await, none_failed());
    for shop in &shops {
        assert_eq!(world.tiktok.calls(&shop.open_id), 1);
        assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop));
    }
    let refreshed = world.metrics().iter().map(|line| line["Refreshed"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(refreshed, 230);
}

#[tokio::test]
async fn a_run_at_the_limit_is_not_spread() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "3")]).await;
    for _ in 0..3 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 3);
}

#[tokio::test]
async fn what_sqs_refuses_of_a_batch_is_sent_again() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1")]).await;
    for _ in 0..120 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.aws.fault(Step::Queue, 1, Fault::RefuseEntries(2));
    assert_eq!(world.refresh_all().await["counts"]["queued"], 120);
    let mut queued = Vec::new();
    for message in world.aws.queued() {
        let message: Value = serde_json::from_str(&message).unwrap();
        queued.extend(message["work"]["integrations"].as_array().unwrap().iter().map(ToString::to_string));
    }
    queued.sort();
    queued.dedup();
    assert_eq!(queued.len(), 120);
}

#[tokio::test]
async fn what_sqs_will_not_take_is_deferred_to_the_next_run() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1")]).await;
    for _ in 0..3 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.aws.fault(Step::Queue, usize::MAX, Fault::Refuse(403, "AccessDenied"));
    let answer = world.refresh_all().await;
    assert_eq!((&answer["counts"]["deferred"], &answer["complete"]), (&json!(3), &json!(false)));
    assert_eq!(answer["integrations"][0]["reason"], "queue_refused");
}

#[tokio::test]
async fn when_time_runs_short_the_rest_goes_to_the_queue() {
    let world = with_queue().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let soon = world.now() + TimeDelta::seconds(5);
    let answer = world::invoke(&world.function, &json!({}), soon).await.unwrap();
    assert_eq!((&answer["counts"]["queued"], &answer["complete"]), (&json!(1), &json!(true)));
    // A worker near its deadline gives its rest back, too.
    assert_eq!(world.deliver_by(soon).await, none_failed());
    assert_eq!((world.aws.queued().len(), world.tiktok.calls(&shop.open_id)), (1, 0));
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn what_the_lease_took_too_long_for_goes_to_the_queue_too() {
    let world = with_queue().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Acquire).await;
    world.pass(TimeDelta::seconds(15 * 60 - 5));
    assert_eq!(run.go_on().await["counts"]["queued"], 1);
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn one_integration_that_is_refused_does_not_fail_its_message() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1")]).await;
    let odd = world.integration().expiring_in(hours(1)).insert().await;
    let fine = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&odd.open_id, [Behaviour::Code(36_009_999, "odd")]);
    world.refresh_all().await;
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&fine).await, world.granted_pair(&fine));
    assert_eq!(world.number(&odd, "consecutive_failures").await, Some(1));
}

#[tokio::test]
async fn a_message_whose_app_is_refused_is_done_and_the_next_run_finds_its_rows() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1"), ("MAX_CONCURRENCY", "1")]).await;
    for _ in 0..5 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.refresh_all().await;
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-rotated")]);
    assert_eq!(world.deliver().await, none_failed());
    assert!(world.aws.queued().is_empty());
    let metrics = world.metrics().last().unwrap().clone();
    assert_eq!((&metrics["Failed"], &metrics["Deferred"]), (&json!(5), &json!(0)));
    assert_eq!(world.tiktok.all_calls(), 3, "the app is stopped");
    let reasons = logs::lines_with("run_id", metrics["run_id"].as_str().unwrap());
    assert_eq!(reasons.iter().filter(|line| line["reason"] == "misconfigured").count(), 5, "{reasons:?}");
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, world::APP_SECRET)]);
    world.refresh_all().await;
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.metrics().last().unwrap()["Refreshed"], 5);
}

#[tokio::test]
async fn a_message_that_was_not_done_because_tiktok_is_down_is_delivered_again() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1"), ("MAX_CONCURRENCY", "1")]).await;
    for _ in 0..25 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.refresh_all().await;
    world.tiktok.always(Some(Behaviour::Status(500, "", None)));
    assert_eq!(world.deliver().await["batchItemFailures"].as_array().unwrap().len(), 1);
    assert_eq!(world.metrics().last().unwrap()["Deferred"], 5);
    world.tiktok.always(None);
    // SQS delivers the message again when the leases have run out.
    world.pass(TimeDelta::minutes(17));
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.metrics().last().unwrap()["Refreshed"], 25);
}

#[tokio::test]
async fn a_forced_run_by_way_of_the_queue_refreshes_each_integration_once() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1")]).await;
    let mut shops = Vec::new();
    for _ in 0..3 {
        shops.push(world.integration().expiring_in(days(6)).insert().await);
    }
    world.refresh(json!({"force": true})).await;
    let message = world.aws.queued().remove(0);
    world.aws.enqueue(&message);
    world.pass(TimeDelta::seconds(30));
    world.deliver().await;
    for shop in &shops {
        assert_eq!(world.tiktok.calls(&shop.open_id), 1);
    }
}

#[tokio::test]
async fn app_and_state_are_told_from_the_row_when_only_the_key_was_sent() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "1")]).await;
    let apps = json!({"apps": [
        {"app_key": world::APP_KEY, "app_secret": world::APP_SECRET},
        {"app_key": "second", "app_secret": "app-secret-2"},
    ]});
    world.aws.set_secret(Some(&apps.to_string()));
    world.tiktok.set_apps(vec![world::app("second", "app-secret-2")]);
    let second = world.integration().expiring_in(hours(1)).text("app_key", "second").insert().await;
    let dying = world.integration().expiring_in(hours(1)).text("app_key", "second").insert().await;
    let paused = world.integration().expiring_in(hours(1)).text("app_key", "second").insert().await;
    world.refresh_all().await;
    // By the time the message is read, one authorization has ended, and the user has paused another.
    let past = AttributeValue::N((world.now() - days(1)).timestamp().to_string());
    world.write(&dying, &[("refresh_token_expires_at", past)]).await;
    world.tiktok.revoke(&dying.open_id);
    world.write(&paused, &[("status", AttributeValue::S("paused".into()))]).await;
    assert_eq!(world.deliver().await, none_failed());
    assert_eq!(world.stored_pair(&second).await, world.granted_pair(&second));
    assert_eq!(world.text(&dying, "status").await.as_deref(), Some("error"));
    assert_eq!(world.text(&dying, "error_code").await.as_deref(), Some("36004005"));
    let fingerprint = world::app("second", "app-secret-2").fingerprint().0;
    assert_eq!(world.text(&dying, "rejected_by").await, Some(fingerprint));
    assert_eq!(world.tiktok.calls(&paused.open_id), 0);
}
