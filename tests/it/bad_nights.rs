//! Whatever happens between the lease and the save, no answer of TikTok's is dropped and nobody is marked by mistake.

use super::support::{Behaviour, Fault, NIGHT, Step, World, days, hours, logs, minutes, world};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A world whose refresh tokens die on use.
async fn rotating() -> World {
    let world = World::new().await;
    world.tiktok.single_use();
    world
}

#[tokio::test]
async fn a_rotated_token_is_saved_even_when_the_lease_was_lost() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Save).await; // TikTok has answered, nothing is saved yet.
    world.write(&shop, &[("lock_owner", text("a-thief")), ("lock_expires_at", number(NIGHT + 900))]).await;
    let answer = run.go_on().await;
    assert_eq!(answer["counts"]["refreshed"], 1);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_save_that_is_refused_for_a_while_is_made_in_the_end() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, 9, Fault::Refuse(400, "ProvisionedThroughputExceededException"));
    world.aws.fault(Step::Save, 9, Fault::Refuse(500, "InternalServerError"));
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 1);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    let said = logs::lines_with("integration_id", &shop.integration_id);
    assert!(
        said.iter()
            .any(|line| line["message"].as_str().unwrap().contains("could not save the new token pair yet")),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_save_is_tried_until_the_invocations_last_second_and_then_said_to_have_failed() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await.unwrap() });
    while world.aws.count(Step::Save) < 3 {
        tokio::task::yield_now().await;
    }
    world.pass(minutes(15));
    let answer = run.await.unwrap();
    assert_eq!(
        (&answer["integrations"][0]["outcome"], &answer["integrations"][0]["reason"]),
        (&json!("failed"), &json!("not_saved"))
    );
    assert!(
        world.row(&shop).await.contains_key("lock_owner"),
        "the lease tells the next run that something was cut off"
    );
}

#[tokio::test]
async fn a_save_whose_answer_is_lost_is_recognised_as_done() {
    for rotating in [true, false] {
        let world = World::new().await;
        if rotating {
            world.tiktok.single_use();
        }
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.aws.fault(Step::Save, 1, Fault::LoseAnswer);
        let answer = world.refresh_all().await;
        assert_eq!(
            (&answer["counts"]["refreshed"], &answer["integrations"][0]["reason"]),
            (&json!(1), &Value::Null)
        );
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
        assert_eq!(world.tiktok.calls(&shop.open_id), 1);
    }
}

#[tokio::test]
async fn a_save_whose_answer_stops_in_the_middle_is_asked_for_again_by_the_sdk() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, 1, Fault::Stall);
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 1);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_eq!(world.aws.count(Step::Save), 2);
    let said = logs::lines_with("integration_id", &shop.integration_id);
    assert!(
        !said
            .iter()
            .any(|line| line["message"].as_str().unwrap().contains("could not save the new token pair yet")),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_lease_whose_answer_is_lost_is_recognised_as_ours() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Acquire, 1, Fault::LoseAnswer);
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 1, "{answer}");
    assert_eq!(world.tiktok.calls(&shop.open_id), 1);
}

#[tokio::test]
async fn a_mark_whose_answer_is_lost_is_recognised_as_ours() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    world.aws.fault(Step::Settle, 1, Fault::LoseAnswer);
    assert_eq!(world.outcome().await["outcome"], "cannot_refresh");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
}

#[tokio::test]
async fn a_failure_whose_note_is_lost_is_counted_once() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.always(Some(Behaviour::Code(1, "odd")));
    world.aws.fault(Step::Settle, 1, Fault::LoseAnswer);
    world.refresh_all().await;
    assert_eq!(world.number(&shop, "consecutive_failures").await, Some(1));
}

#[tokio::test]
async fn the_users_new_authorization_wins_over_a_refresh_in_flight() {
    for rotating in [true, false] {
        let world = World::new().await;
        if rotating {
            world.tiktok.single_use();
        }
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        let run = world.refresh_until(Step::Save).await;
        world.pass(minutes(1));
        let users = world.tiktok.authorize(&shop.open_id, "Bánh Mì 25");
        let expiry = (world.now() + days(7)).timestamp();
        world
            .write(
                &shop,
                &[
                    ("access_token", text(&users.access_token)),
                    ("refresh_token", text(&users.refresh_token)),
                    ("access_token_expires_at", number(expiry)),
                ],
            )
            .await;
        let answer = run.go_on().await;
        assert_eq!(answer["integrations"][0]["reason"], "superseded");
        assert_eq!(answer["integrations"][0]["access_token_expires_at"], expiry);
        assert_eq!(world.stored_pair(&shop).await, Some(users));
    }
}

/// A zombie: its lease has run out while it was held up before its save, and another run has taken over.
async fn overtaken(world: &World) -> super::support::world::Underway {
    let zombie = world.refresh_until(Step::Save).await;
    world.pass(minutes(17));
    world.refresh_all().await;
    zombie
}

#[tokio::test]
async fn an_older_answer_does_not_overwrite_a_newer_one() {
    let world = World::new().await; // The old refresh token stays good, so both runs are granted a pair.
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let zombie = overtaken(&world).await;
    let newest = world.stored_pair(&shop).await;
    assert_eq!(newest, world.granted_pair(&shop));
    assert_eq!(zombie.go_on().await["integrations"][0]["reason"], "superseded");
    assert_eq!(world.stored_pair(&shop).await, newest);
}

#[tokio::test]
async fn a_row_that_was_marked_for_want_of_an_answer_in_flight_is_healed_by_it() {
    let world = rotating().await; // The second run is rejected, as the first has used the token.
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let zombie = overtaken(&world).await;
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
    assert_eq!(zombie.go_on().await["counts"]["refreshed"], 1);
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn an_empty_access_token_is_as_good_as_none() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).text("access_token", "").insert().await;
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn whatever_is_garbled_in_mid_flight_does_not_keep_the_new_pair_out() {
    let garbled = AttributeValue::Bool(true);
    for name in
        ["status", "refresh_token", "access_token", "access_token_expires_at", "lock_owner", "open_id"]
    {
        for rotates in [true, false] {
            let world = if rotates { rotating().await } else { World::new().await };
            let shop = world.integration().expiring_in(hours(1)).insert().await;
            let run = world.refresh_until(Step::Save).await;
            world.write(&shop, &[(name, garbled.clone())]).await;
            assert_eq!(run.go_on().await["counts"]["refreshed"], 1, "{name}");
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{name}");
        }
    }
}

#[tokio::test]
async fn a_stored_expiry_that_cannot_be_true_does_not_win() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Save).await;
    world
        .write(
            &shop,
            &[
                ("refresh_token", text("TTR_pasted-by-hand")),
                ("access_token_expires_at", number(4_841_467_787)),
            ],
        )
        .await;
    assert_eq!(run.go_on().await["counts"]["refreshed"], 1);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_row_that_was_paused_in_flight_gets_its_tokens_and_stays_paused() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).status("error").insert().await;
    let gate = world.aws.hold(Step::Save);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run =
        tokio::spawn(
            async move { world::invoke(&function, &json!({"force": true}), deadline).await.unwrap() },
        );
    gate.reached().await;
    world.write(&shop, &[("status", text("paused"))]).await;
    gate.open();
    assert_eq!(run.await.unwrap()["counts"]["refreshed"], 1);
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("paused"));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_row_that_was_deleted_in_flight_is_reported_and_not_created_anew() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Save).await;
    world.delete(&shop).await;
    let answer = run.go_on().await;
    assert_eq!(
        (&answer["integrations"][0]["outcome"], &answer["integrations"][0]["reason"]),
        (&json!("failed"), &json!("deleted"))
    );
    assert!(world.find(&shop).await.is_none());
}

#[tokio::test]
async fn a_row_that_was_deleted_before_its_lease_is_not_due_any_more() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Acquire).await;
    world.delete(&shop).await;
    assert_eq!(run.go_on().await["integrations"][0]["reason"], "deleted");
    assert!(world.find(&shop).await.is_none());
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
}

#[tokio::test]
async fn a_row_that_was_refreshed_since_the_scan_is_not_due_any_more() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Acquire).await;
    world.write(&shop, &[("access_token_expires_at", number(NIGHT + 6 * 24 * 3600))]).await;
    assert_eq!(run.go_on().await["integrations"][0]["outcome"], "not_due");
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
}

#[tokio::test]
async fn a_rejected_row_that_the_user_connected_meanwhile_is_not_marked() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    let run = world.refresh_until(Step::Settle).await;
    let users = world.tiktok.authorize(&shop.open_id, "Bánh Mì 25");
    world
        .write(
            &shop,
            &[
                ("access_token", text(&users.access_token)),
                ("refresh_token", text(&users.refresh_token)),
                ("access_token_expires_at", number(NIGHT + 7 * 24 * 3600)),
            ],
        )
        .await;
    let answer = run.go_on().await;
    assert_eq!(
        (&answer["integrations"][0]["outcome"], &answer["integrations"][0]["reason"]),
        (&json!("not_due"), &json!("changed_meanwhile"))
    );
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
}

#[tokio::test]
async fn an_abandoned_lease_is_taken_over_once_it_has_run_out_and_is_counted() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).leased_for(minutes(-1)).insert().await;
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 1);
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    assert!(lines.iter().any(|line| line["interrupted_attempts"] == 1), "{lines:?}");
}

#[tokio::test]
async fn a_lease_that_was_released_in_time_is_no_abandoned_one() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).leased_for(minutes(1)).insert().await;
    let run = world.refresh_until(Step::Acquire).await; // The scan has seen the lease.
    let released = world.integration().team(&shop.team_id).id(&shop.integration_id).expiring_in(hours(1));
    let shop = released.insert().await;
    world.tiktok.revoke(&shop.open_id);
    assert_eq!(run.go_on().await["integrations"][0]["reason"], "reauthorize");
}

#[tokio::test]
async fn a_call_is_not_begun_when_taking_the_lease_took_its_time() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let run = world.refresh_until(Step::Acquire).await;
    world.pass(chrono::TimeDelta::seconds(15 * 60 - 5));
    let answer = run.go_on().await;
    assert_eq!(
        (&answer["integrations"][0]["outcome"], &answer["integrations"][0]["reason"]),
        (&json!("deferred"), &json!("out_of_time"))
    );
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
    assert!(!world.row(&shop).await.contains_key("lock_owner"), "the next run need not wait");
}

#[tokio::test]
async fn a_panic_in_one_refresh_leaves_the_others_alone() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    world.integration().id("a").expiring_in(hours(1)).insert().await;
    let other = world.integration().id("b").expiring_in(hours(2)).insert().await;
    world.panic_in_the_next_task();
    let answer = world.refresh_all().await;
    assert_eq!(
        (&answer["integrations"][0]["integration_id"], &answer["integrations"][0]["reason"]),
        (&json!("a"), &json!("internal_error"))
    );
    assert_eq!(answer["counts"]["refreshed"], 1);
    assert_eq!(world.stored_pair(&other).await, world.granted_pair(&other));
}

#[tokio::test]
async fn a_rejection_after_an_abandoned_lease_is_told_as_a_lost_answer() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).leased_for(minutes(-1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    let ended = world.outcome().await;
    assert_eq!(
        (&ended["outcome"], &ended["reason"]),
        (&json!("cannot_refresh"), &json!("probably_lost_answer"))
    );
    assert!(ended["message"].as_str().unwrap().contains("probably a lost response"));
}

#[tokio::test]
async fn a_run_that_is_killed_before_its_save_locks_the_row_until_its_lease_runs_out() {
    let world = World::new().await; // The old refresh token stays good.
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.refresh_until(Step::Save).await.kill().await;
    world.aws.heal();
    assert_eq!(world.outcome().await["outcome"], "locked");
    world.pass(minutes(16));
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_table_that_cannot_be_written_is_found_out_before_tiktok_is_asked() {
    let world = rotating().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Acquire, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    let ended = world.outcome().await;
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("failed"), &json!("store_error")));
    assert!(ended["message"].as_str().unwrap().contains("allow dynamodb:"), "{ended}");
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
}
