//! Attacks on marking: wrong secrets, cut messages, overlapping runs, lost responses, and time that runs out.

use super::support::{
    Behaviour, Fault, NIGHT, Step, World, days, hours, logs, minutes,
    world::{self, Shop},
};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const QUEUE: (&str, &str) = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");
const BUS: (&str, &str) = ("EVENT_BUS_NAME", "platform");
const SECOND: &str = "second-app";
const SECOND_SECRET: &str = "app-secret-second";
const GONE: Behaviour = Behaviour::Code(36_004_005, "can not find related auth record");
const FIRST: (&str, &str) = (world::APP_KEY, world::APP_SECRET);
const OTHER: (&str, &str) = (SECOND, SECOND_SECRET);

fn secret(apps: &[(&str, &str)]) -> String {
    let apps: Vec<Value> =
        apps.iter().map(|(key, secret)| json!({"app_key": key, "app_secret": secret})).collect();
    json!({ "apps": apps }).to_string()
}

/// A world in which both apps exist at TikTok, and the secret holds these.
async fn two_apps(settings: &[(&'static str, &str)], in_secret: &[(&str, &str)]) -> World {
    let world = World::with(settings).await;
    world.tiktok.set_apps(vec![world::app(FIRST.0, FIRST.1), world::app(SECOND, SECOND_SECRET)]);
    world.aws.set_secret(Some(&secret(in_secret)));
    world
}

async fn marked(world: &World) -> usize {
    let is_marked =
        |row: &&BTreeMap<String, AttributeValue>| row["status"] == AttributeValue::S("error".into());
    world.everything().await.iter().filter(is_marked).count()
}

async fn deliver_all(world: &World) {
    for _ in 0..50 {
        if world.aws.queued().is_empty() {
            return;
        }
        world.deliver().await;
    }
    panic!("the queue never empties");
}

/// The outcomes in the log, of each integration of the world's own team.
fn logged(world: &World) -> BTreeMap<String, Vec<String>> {
    let mut logged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in logs::lines_with("team_id", &world.team) {
        if let Some(outcome) = line["outcome"].as_str() {
            let reason = line["reason"].as_str().unwrap_or("-");
            let of = logged.entry(line["integration_id"].as_str().unwrap().to_owned()).or_default();
            of.push(format!("{outcome} {reason}"));
        }
    }
    logged
}

fn assert_once_each(world: &World, rows: usize) {
    let logged = logged(world);
    let several: Vec<_> = logged.iter().filter(|(_, outcomes)| outcomes.len() != 1).collect();
    assert_eq!((logged.len(), several.len()), (rows, 0), "{several:?}");
    let metrics = world.metrics().last().unwrap().clone();
    assert_eq!(metrics["Examined"], rows, "{metrics}");
}

fn named(world: &World, kind: &str) -> usize {
    world.aws.published().iter().filter(|(published, _)| published.contains(kind)).count()
}

async fn revoked(world: &World, id: &str, expiring: chrono::TimeDelta) -> Shop {
    let shop = world.integration().id(id).expiring_in(expiring).insert().await;
    world.tiktok.revoke(&shop.open_id);
    shop
}

async fn old_mark(world: &World, id: &str, expiring: chrono::TimeDelta) -> Shop {
    let row = world.integration().id(id).status("error").text("error_reason", "reauthorize");
    row.text("rejected_by", "0123456789ab").expiring_in(expiring).insert().await
}

#[tokio::test]
async fn an_app_of_which_one_row_was_read_so_far_is_not_its_apps_only_one() {
    for round in 0..6 {
        let world =
            two_apps(&[QUEUE, ("FAN_OUT_ABOVE", "5")], &[FIRST, ("swapped", "app-secret-swapped")]).await;
        world.tiktok.set_apps(vec![
            world::app(FIRST.0, FIRST.1),
            world::app(SECOND, SECOND_SECRET),
            world::app("swapped", "app-secret-swapped"),
        ]);
        for n in 0..60 {
            world.integration().team(&format!("a-{round}-{n}")).expiring_in(hours(2)).insert().await;
        }
        for n in 0..4 {
            let row = world.integration().team(&format!("b-{round}-{n}")).text("app_key", "swapped");
            let shop = row.expiring_in(hours(1)).insert().await;
            world.tiktok.bind(&shop.open_id, SECOND);
        }
        let result = world.invoke(&json!({})).await;
        deliver_all(&world).await;
        // Whether the run fails depends on how many of the four the scan has met before it hands the app over.
        assert_eq!(marked(&world).await, 0, "round {round}: {result:?}");
    }
}

#[tokio::test]
async fn a_default_app_that_is_replaced_during_the_run_loses_no_outcome() {
    let world = two_apps(&[("MAX_CONCURRENCY", "1")], &[FIRST]).await;
    // The environment is warm: it knows the first app.
    world.refresh_all().await;
    revoked(&world, "a", hours(-2)).await;
    let b = world.integration().id("b").expiring_in(hours(-1)).insert().await;
    world.tiktok.next(&b.open_id, [Behaviour::Code(36_004_002, "Invalid app_secret")]);
    world.aws.set_secret(Some(&secret(&[OTHER])));
    let answer = world.invoke(&json!({})).await;
    assert!(logged(&world).contains_key("a"), "{:?} {answer:?}", logged(&world));
    assert_once_each(&world, 2);
}

#[tokio::test]
async fn a_teams_only_active_row_is_not_its_apps_only_one_in_a_worker() {
    let world = two_apps(&[QUEUE, ("FAN_OUT_ABOVE", "10")], &[FIRST, OTHER]).await;
    let third = ("third", "app-secret-third");
    world.tiktok.set_apps([FIRST, OTHER, third].map(|app| world::app(app.0, app.1)).to_vec());
    for n in 0..6 {
        let row = world.integration().id(&format!("m{n}")).status("error").expiring_in(days(-9));
        let row = row.text("error_reason", "reauthorize").text("rejected_by", "0123456789ab");
        let shop = row.text("app_key", FIRST.0).insert().await;
        world.tiktok.bind(&shop.open_id, third.0);
    }
    let active = world.integration().id("z").expiring_in(hours(-1)).text("app_key", FIRST.0).insert().await;
    world.tiktok.bind(&active.open_id, third.0);
    for n in 0..6 {
        let row = world.integration().id(&format!("o{n}")).expiring_in(hours(1));
        row.text("app_key", SECOND).insert().await;
        let row = world.integration().team(&format!("elsewhere-{n}")).text("app_key", FIRST.0);
        let shop = row.insert().await;
        world.tiktok.bind(&shop.open_id, third.0);
    }
    let result = world.invoke(&json!({"team_id": world.team})).await;
    let queued = world.aws.queued();
    deliver_all(&world).await;
    assert_eq!(world.text(&active, "status").await.as_deref(), Some("active"), "{queued:?} {result:?}");
}

#[tokio::test]
async fn marked_rows_are_no_canaries() {
    let world = two_apps(&[QUEUE, ("FAN_OUT_ABOVE", "20")], &[FIRST]).await;
    for n in 0..6 {
        let shop = old_mark(&world, &format!("m{n}"), days(-9)).await;
        world.tiktok.bind(&shop.open_id, SECOND);
    }
    for n in 0..100 {
        let shop = world.integration().id(&format!("z{n}")).expiring_in(hours(-1)).insert().await;
        world.tiktok.bind(&shop.open_id, SECOND);
    }
    let result = world.invoke(&json!({})).await;
    assert_eq!(world.aws.queued().len(), 0, "a wrong secret stops the app before the fan-out: {result:?}");
    result.unwrap_err();
    assert_eq!(marked(&world).await, 6);
}

#[tokio::test]
async fn marked_rows_come_last_in_messages_too() {
    let world = World::with(&[QUEUE, ("FAN_OUT_ABOVE", "20")]).await;
    for n in 0..10 {
        old_mark(&world, &format!("m{n}"), days(-9)).await;
    }
    for n in 0..70 {
        world.integration().id(&format!("z{n}")).expiring_in(hours(1)).insert().await;
    }
    world.refresh_all().await;
    let queued = world.aws.queued();
    let has_marked = |message: &String| message.contains("\"m0\"") || message.contains("\"m9\"");
    assert_eq!(queued.iter().position(has_marked), Some(1), "{queued:?}");
    deliver_all(&world).await;
    assert_eq!(marked(&world).await, 0);
}

#[tokio::test]
async fn sellers_rejected_without_any_proof_fail_the_run_though_their_own_tokens_could_not_be_tried() {
    for answer in [(429, 36_009_002, "too many requests"), (500, 36_009_003, "internal error")] {
        let world = two_apps(&[], &[FIRST]).await;
        for n in 0..6 {
            let shop = world.integration().id(&n.to_string()).expiring_in(hours(1)).insert().await;
            world.tiktok.bind(&shop.open_id, SECOND);
        }
        world.tiktok.open_api_answers(Some(answer));
        let result = world.invoke(&json!({})).await;
        assert_eq!(marked(&world).await, 0);
        assert_once_each(&world, 6);
        assert!(result.is_err(), "two or more sellers of one app, no proof: {result:?}");
    }
}

#[tokio::test]
async fn a_workers_breaker_knows_other_credentials_from_those_that_are_proved() {
    let world = World::with(&[QUEUE, ("MAX_CONCURRENCY", "1")]).await;
    let mut keys = Vec::new();
    for n in 0..30 {
        let shop = revoked(&world, &format!("{n:02}"), hours(-1)).await;
        keys.push(json!({"team_id": shop.team_id, "integration_id": shop.integration_id}));
    }
    let work = json!({"force": false, "run_started_at": NIGHT - 60, "integrations": keys,
                      "proved": "0123456789ab"});
    world.aws.enqueue(&json!({"kind": "work", "work": work}).to_string());
    world.deliver().await;
    assert_eq!(marked(&world).await, 0);
    assert_once_each(&world, 30);
    assert_eq!(world.tiktok.all_calls(), 5, "the mass-rejection breaker: five rejections and no proof");
}

#[tokio::test]
async fn marks_stop_at_the_reserve_and_what_remains_is_handed_over_first() {
    let world = World::with(&[QUEUE, BUS, ("MAX_CONCURRENCY", "1")]).await;
    let gone = revoked(&world, "a", hours(-3)).await;
    world.integration().id("b").expiring_in(hours(1)).insert().await;
    world.integration().id("c").expiring_in(hours(2)).insert().await;
    let gate = world.aws.hold(Step::Save);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    gate.reached().await;
    world.pass(minutes(14) + chrono::TimeDelta::seconds(50));
    gate.open();
    let answer = run.await.unwrap().unwrap();
    assert_eq!(answer["counts"]["queued"], 1, "{answer}");
    assert_eq!(world.text(&gone, "status").await.as_deref(), Some("active"), "marks stop at the reserve");
}

#[tokio::test]
async fn what_remains_is_handed_over_before_the_marks() {
    let world = World::with(&[QUEUE, ("MAX_CONCURRENCY", "1")]).await;
    revoked(&world, "a", hours(-3)).await;
    world.integration().id("b").expiring_in(hours(1)).insert().await;
    world.integration().id("c").expiring_in(hours(2)).insert().await;
    let save = world.aws.hold(Step::Save);
    let mark = super::support::aws::Gate::new();
    world.aws.fault_at(Step::Settle, 2, Fault::Hold(mark.clone()));
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    save.reached().await;
    world.pass(minutes(14) + chrono::TimeDelta::seconds(50));
    save.open();
    let held = tokio::time::timeout(Duration::from_secs(2), mark.reached()).await.is_ok();
    let queued = world.aws.queued().len();
    mark.open();
    run.await.unwrap().unwrap();
    assert!(!held || queued == 1, "the mark is written while the remaining row is not handed over yet");
}

#[tokio::test]
async fn an_apps_only_row_that_is_handed_over_is_marked_by_the_worker() {
    let world = World::with(&[QUEUE]).await;
    let shop = revoked(&world, "a", hours(-1)).await;
    let end = world.now() + chrono::TimeDelta::seconds(10);
    let answer = world::invoke(&world.function, &json!({}), end).await.unwrap();
    assert_eq!(answer["counts"]["queued"], 1);
    deliver_all(&world).await;
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"), "{:?}", logged(&world));
}

#[tokio::test]
async fn credentials_that_change_to_and_fro_cost_one_call_for_each_row_and_change() {
    for names_app in [true, false] {
        let world = World::new().await;
        let mut shops = Vec::new();
        for n in 0..7 {
            let row = world.integration().id(&n.to_string()).status("error").text("error_code", "36004005");
            let row = if names_app { row.text("app_key", FIRST.0) } else { row };
            let shop = row.insert().await;
            world.tiktok.revoke(&shop.open_id);
            shops.push(shop);
        }
        for change in 0_u64..6 {
            let now = if change % 2 == 0 { FIRST } else { (FIRST.0, "app-secret-rotated") };
            world.tiktok.set_apps(vec![world::app(now.0, now.1)]);
            world.aws.set_secret(Some(&secret(&[now])));
            world.pass(minutes(6));
            for _ in 0..3 {
                let answer = world.refresh_all().await;
                assert_eq!(
                    (&answer["counts"]["cannot_refresh"], &answer["counts"]["newly_marked"]),
                    (&json!(7), &json!(0)),
                    "{answer}"
                );
            }
            assert_eq!(world.tiktok.all_calls(), 7 * (change + 1), "{names_app} {change}");
        }
    }
}

#[tokio::test]
async fn a_mark_whose_response_is_lost_is_counted_and_published_once() {
    for lost in [1, 3] {
        let world = World::with(&[BUS]).await;
        let shop = revoked(&world, "a", hours(-1)).await;
        for nth in 0..lost {
            world.aws.fault_at(Step::Settle, 2 + nth, Fault::LoseAnswer);
        }
        let newly_marked = world.refresh_all().await["counts"]["newly_marked"].as_u64().unwrap();
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
        let later = world.refresh_all().await["counts"]["newly_marked"].as_u64().unwrap();
        assert_eq!((newly_marked + later, named(&world, "Cannot")), (1, 1), "{lost} responses lost");
    }
}

#[tokio::test]
async fn an_identity_mismatch_is_newly_marked_once_and_healed_by_no_change() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().id("a").expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"open_id": "another"}))]);
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["newly_marked"], 1, "{answer}");
    assert_eq!(world.metrics().last().unwrap()["NewlyCannotRefresh"], 1);
    let calls = world.tiktok.all_calls();
    world.tiktok.set_apps(vec![world::app(OTHER.0, OTHER.1)]);
    world.aws.set_secret(Some(&secret(&[OTHER])));
    world.pass(days(8));
    let answer = world.refresh_all().await;
    assert_eq!((&answer["integrations"][0]["reason"], world.tiktok.all_calls()), (&json!("marked"), calls));
    assert_eq!((named(&world, "Cannot"), named(&world, "Recovered")), (1, 0));
}

/// Thirty sellers rejected at once, and four possible witnesses, of which the first is read in time or too late.
async fn rows_held(case: &str, works: bool) {
    let world = two_apps(&[("MAX_CONCURRENCY", "3")], &[FIRST]).await;
    for n in 0..30 {
        let shop = world.integration().id(&format!("{n:02}")).expiring_in(hours(-1)).insert().await;
        world.tiktok.bind(&shop.open_id, SECOND);
    }
    for n in 0..4 {
        let shop = world.integration().id(&format!("w{n}")).insert().await;
        if !works {
            world.tiktok.end_access(&shop.open_id);
        }
    }
    let gate = world.aws.hold(Step::Read);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    gate.reached().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    if case == "late" {
        world.pass(minutes(14) + chrono::TimeDelta::seconds(50));
    }
    gate.open();
    let result = run.await.unwrap();
    assert_once_each(&world, 34);
    assert_eq!(
        world.tiktok.open_api_calls(),
        if case == "late" {
            0
        } else if works {
            1
        } else {
            3
        }
    );
    if let Ok(answer) = &result {
        assert_eq!(answer["counts"]["examined"], 34);
    }
    match (case, works) {
        ("in time", true) => assert_eq!(marked(&world).await, 30, "{:?}", logged(&world)),
        ("in time", false) => assert!(result.is_err() && marked(&world).await == 0),
        _ => assert!(result.is_ok() && marked(&world).await == 0, "no time: {result:?}"),
    }
}

#[tokio::test]
async fn a_witness_that_proves_the_credentials_lets_the_rows_that_waited_go_on() {
    rows_held("in time", true).await;
}

#[tokio::test]
async fn a_witness_that_proves_nothing_ends_every_row_once() {
    rows_held("in time", false).await;
}

#[tokio::test]
async fn a_good_witness_that_is_too_late_ends_every_row_once() {
    rows_held("late", true).await;
}

#[tokio::test]
async fn a_dead_witness_that_is_too_late_ends_every_row_once() {
    rows_held("late", false).await;
}

#[tokio::test]
async fn retries_of_marked_rows_count_for_no_breaker_though_their_rejection_cannot_be_noted() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    for n in 0..9 {
        let shop = old_mark(&world, &n.to_string(), days(1)).await;
        world.tiktok.revoke(&shop.open_id);
    }
    world.aws.fault(Step::Settle, 1000, Fault::Refuse(400, "ValidationException"));
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["deferred"], 0, "{answer}");
    assert_eq!(answer["counts"]["cannot_refresh"], 9, "a row that an earlier run marked is cannot_refresh");
}

#[tokio::test]
async fn retries_of_marked_rows_that_time_out_change_nothing() {
    let world = World::with(&[("TIKTOK_TIMEOUT", "1s"), BUS]).await;
    let shop = old_mark(&world, "a", days(1)).await;
    world.tiktok.next(&shop.open_id, [Behaviour::Hang, Behaviour::Hang]);
    let before = world.row(&shop).await;
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["outcome_unknown"], 1, "{answer}");
    let mut after = world.row(&shop).await;
    for lease in ["lock_owner", "lock_expires_at"] {
        after.remove(lease);
    }
    assert_eq!(before, after);
    assert_eq!(world.aws.published().len(), 0);
}

#[tokio::test]
async fn overlapping_runs_mark_count_and_publish_each_row_once() {
    for _ in 0..3 {
        let world = World::with(&[BUS]).await;
        for n in 0..20 {
            revoked(&world, &format!("g{n:02}"), hours(-1)).await;
        }
        for n in 0..5 {
            world.integration().id(&format!("ok{n}")).expiring_in(hours(1)).insert().await;
        }
        let functions =
            [world.function.clone(), world.another_function().await, world.another_function().await];
        let event = json!({});
        let runs = functions.iter().map(|function| world::invoke(function, &event, world.deadline()));
        let answers = futures_util::future::join_all(runs).await;
        let newly = answers.iter().flatten().map(|answer| answer["counts"]["newly_marked"].as_u64().unwrap());
        let mut newly: u64 = newly.sum();
        if let Ok(answer) = world.invoke(&event).await {
            newly += answer["counts"]["newly_marked"].as_u64().unwrap();
        }
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!((marked(&world).await, newly, named(&world, "Cannot")), (20, 20, 20));
    }
}

#[tokio::test]
async fn a_kill_between_note_and_mark_marks_and_publishes_once_the_next_night() {
    let world = World::with(&[BUS, ("MAX_CONCURRENCY", "1")]).await;
    let gone = revoked(&world, "a", hours(-1)).await;
    world.integration().id("b").expiring_in(hours(1)).insert().await;
    let gate = super::support::aws::Gate::new();
    world.aws.fault_at(Step::Settle, 2, Fault::Hold(gate.clone()));
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    gate.reached().await;
    run.abort();
    run.await.unwrap_err();
    world.aws.heal();
    assert_eq!(world.text(&gone, "status").await.as_deref(), Some("active"));
    world.integration().id("w").insert().await;
    for expected in [1, 0, 0] {
        let answer = world.refresh_all().await;
        assert_eq!(answer["counts"]["newly_marked"], expected, "{answer}");
    }
    assert_eq!(named(&world, "Cannot"), 1);
}

#[tokio::test]
async fn a_lying_witness_and_a_forced_run_mark_nobody_and_end_every_row_once() {
    for event in [json!({}), json!({"force": true})] {
        let world = two_apps(&[BUS], &[FIRST]).await;
        for n in 0..4 {
            let shop = world.integration().id(&n.to_string()).expiring_in(hours(-1)).insert().await;
            world.tiktok.bind(&shop.open_id, SECOND);
        }
        for n in 0..3 {
            let shop = old_mark(&world, &format!("m{n}"), days(1)).await;
            world.tiktok.bind(&shop.open_id, SECOND);
        }
        let witness = world.integration().id("w").insert().await;
        world.tiktok.bind(&witness.open_id, SECOND);
        world.invoke(&event).await.unwrap_err();
        assert_once_each(&world, 8);
        assert_eq!((marked(&world).await, world.aws.published().len()), (3, 0));
        let metrics = world.metrics().last().unwrap().clone();
        assert_eq!((&metrics["NewlyCannotRefresh"], &metrics["AppsUnderSuspicion"]), (&json!(0), &json!(1)));
    }
}

#[tokio::test]
async fn a_dry_run_calls_and_writes_nothing_for_marks() {
    let world = World::new().await;
    old_mark(&world, "a", days(1)).await;
    revoked(&world, "b", hours(-1)).await;
    let answer = world.refresh(json!({"dry_run": true})).await;
    assert_eq!(answer["counts"]["would_refresh"], 2, "{answer}");
    assert_eq!((world.tiktok.all_calls(), world.tiktok.open_api_calls(), world.aws.writes()), (0, 0, 0));
}

#[tokio::test]
async fn a_busy_night_of_rejections_and_faults_counts_every_row_once() {
    let world = World::with(&[BUS, ("MAX_CONCURRENCY", "4")]).await;
    for n in 0..40 {
        let shop =
            world.integration().id(&format!("{n:02}")).expiring_in(hours(i64::from(n) - 20)).insert().await;
        match n % 5 {
            0 => world.tiktok.revoke(&shop.open_id),
            1 => world.tiktok.next(&shop.open_id, [GONE]),
            2 => world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_002, "Invalid app_secret")]),
            3 => world.tiktok.next(&shop.open_id, [Behaviour::Garbled("<html>"), GONE]),
            _ => {}
        }
    }
    world.aws.fault_at(Step::Settle, 3, Fault::LoseAnswer);
    world.aws.fault_at(Step::Settle, 6, Fault::Drop);
    let result = world.invoke(&json!({})).await;
    assert_once_each(&world, 40);
    let metrics = world.metrics().last().unwrap().clone();
    assert_eq!(metrics["NewlyCannotRefresh"], marked(&world).await, "{result:?}");
    assert_eq!(named(&world, "Cannot"), marked(&world).await);
}

#[tokio::test]
async fn a_witness_that_was_deleted_or_has_expired_was_not_asked() {
    // Of eight possible witnesses three are gone before they are asked: three that work remain.
    for _ in 0..4 {
        let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
        let gone = revoked(&world, "a", hours(-1)).await;
        let mut witnesses = Vec::new();
        for n in 0..8 {
            witnesses.push(world.integration().id(&format!("w{n}")).insert().await);
        }
        let gate = world.aws.hold(Step::Acquire);
        let (function, deadline) = (world.function.clone(), world.deadline());
        let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
        gate.reached().await;
        for witness in &witnesses[..5] {
            world.delete(witness).await;
        }
        gate.open();
        let answer = run.await.unwrap();
        assert_eq!(world.text(&gone, "status").await.as_deref(), Some("error"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_healed_row_is_published_once_through_the_queue_and_by_team() {
    for queue in [true, false] {
        let settings: &[(&'static str, &str)] =
            if queue { &[QUEUE, BUS, ("FAN_OUT_ABOVE", "2")] } else { &[BUS] };
        let world = World::with(settings).await;
        for n in 0..5 {
            old_mark(&world, &n.to_string(), days(1)).await;
        }
        let event = if queue { json!({}) } else { json!({"team_id": world.team}) };
        for _ in 0..2 {
            world.invoke(&event).await.unwrap();
            deliver_all(&world).await;
        }
        assert_eq!((marked(&world).await, named(&world, "Recovered")), (0, 5), "{queue}");
        assert_eq!(world.tiktok.all_calls(), 5);
    }
}

#[tokio::test]
async fn sellers_who_left_first_do_not_defer_the_healthy_ones_if_a_witness_works() {
    for concurrency in ["1", "32"] {
        let world = World::with(&[("MAX_CONCURRENCY", concurrency)]).await;
        for n in 0..40 {
            revoked(&world, &format!("g{n}"), hours(-2)).await;
        }
        for n in 0..60 {
            world.integration().id(&format!("ok{n}")).expiring_in(hours(40)).insert().await;
        }
        let counts = world.refresh_all().await["counts"].clone();
        let summary =
            (counts["refreshed"].as_u64(), counts["newly_marked"].as_u64(), counts["deferred"].as_u64());
        assert_eq!(summary, (Some(60), Some(40), Some(0)), "concurrency {concurrency}");
    }
}

#[tokio::test]
async fn a_wrong_secret_found_during_the_scan_ends_every_row_of_every_page_once() {
    let world = two_apps(&[QUEUE, BUS, ("FAN_OUT_ABOVE", "5")], &[FIRST]).await;
    for n in 0..80 {
        let row = world.integration().team(&format!("t{n}")).id(&world.team);
        let shop = row.expiring_in(hours(-1)).insert().await;
        world.tiktok.bind(&shop.open_id, SECOND);
    }
    let result = world.invoke(&json!({})).await;
    let lines = logs::lines_with("integration_id", &world.team);
    let ended = lines.iter().filter(|line| line["outcome"].is_string()).count();
    assert_eq!((ended, &world.metrics().last().unwrap()["Examined"]), (80, &json!(80)));
    deliver_all(&world).await;
    assert_eq!((marked(&world).await, world.aws.published().len()), (0, 0));
    assert!(result.is_err(), "{result:?}");
    assert!(world.tiktok.all_calls() <= 10, "{} calls", world.tiktok.all_calls());
}

#[tokio::test]
async fn a_marked_row_of_an_app_that_left_the_secret_stays_marked_and_costs_no_call() {
    let world = two_apps(&[], &[OTHER]).await;
    let row = world.integration().id("a").status("error").text("error_reason", "reauthorize");
    row.text("app_key", FIRST.0).text("rejected_by", "0123456789ab").insert().await;
    for event in [json!({}), json!({"team_id": world.team})] {
        let answer = world.refresh(event).await;
        assert_eq!(answer["integrations"][0]["reason"], "marked", "{answer}");
    }
    assert_eq!(world.tiktok.all_calls(), 0);
}

#[tokio::test]
async fn rows_that_were_spared_are_named_with_their_commands_however_many() {
    let world = two_apps(&[("MAX_CONCURRENCY", "80")], &[FIRST]).await;
    for n in 0..70 {
        let shop = world.integration().id(&format!("s{n:03}")).expiring_in(hours(-1)).insert().await;
        world.tiktok.bind(&shop.open_id, SECOND);
    }
    let error = world.invoke(&json!({})).await.unwrap_err().to_string();
    let spared = logged(&world).into_iter().filter(|(_, outcomes)| outcomes[0].contains("suspicion"));
    let unnamed: Vec<String> = spared.map(|(id, _)| id).filter(|id| !error.contains(id)).collect();
    assert!(unnamed.is_empty(), "the error names each row: {unnamed:?}");
}

#[tokio::test]
async fn witnesses_are_picked_at_random_and_not_the_same_three_every_night() {
    let world = World::new().await;
    let gone = revoked(&world, "zz", hours(-1)).await;
    for n in 0..8 {
        let shop = world.integration().id(&format!("w{n}")).insert().await;
        if n < 3 {
            world.tiktok.end_access(&shop.open_id);
        }
    }
    for _ in 0..6 {
        world.refresh_all().await;
    }
    assert_eq!(world.text(&gone, "status").await.as_deref(), Some("error"), "{:?}", logged(&world));
}
