//! Changes of state, as the user's platform hears of them: each once.

use super::support::{Behaviour, Fault, Step, World, aws::Gate, days, hours, logs, minutes, world};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

const BUS: (&str, &str) = ("EVENT_BUS_NAME", "platform");
const CANNOT: &str = "TikTok Shop Integration Cannot Refresh";
const RECOVERED: &str = "TikTok Shop Integration Recovered";
const EXPIRING: &str = "TikTok Shop Refresh Token Expiring";

fn published(world: &World, kind: &str) -> Vec<Value> {
    world.aws.published().into_iter().filter(|(told, _)| told == kind).map(|(_, detail)| detail).collect()
}

#[tokio::test]
async fn a_seller_who_must_connect_again_is_announced_once_and_so_is_the_recovery() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().expiring_in(hours(1)).text("seller_name", "Bánh Mì").insert().await;
    world.tiktok.end_access(&shop.open_id);
    world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_005, "gone")]);
    world.refresh_all().await;
    world.refresh_all().await;
    assert_eq!(
        published(&world, CANNOT),
        [json!({"team_id": shop.team_id, "integration_id": shop.integration_id, "seller_name": "Bánh Mì",
                "reason": "reauthorize", "at": "2026-11-23T02:00:00Z"})]
    );
    let event = json!({"team_id": shop.team_id, "force": true});
    // An operator tries, and the seller is still gone: that is no news.
    world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_005, "gone")]);
    world.refresh(event.clone()).await;
    assert_eq!(world.aws.published().len(), 1);
    world.refresh(event.clone()).await;
    world.refresh(event).await;
    assert_eq!(published(&world, RECOVERED).len(), 1);
    assert_eq!(world.aws.published().len(), 2);
}

#[tokio::test]
async fn an_expired_authorization_and_another_sellers_answer_are_announced() {
    let world = World::with(&[BUS]).await;
    let expired = world.integration().expiring_in(hours(1)).refreshable_for(days(-1)).insert().await;
    world.tiktok.revoke(&expired.open_id);
    let mixed_up = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&mixed_up.open_id, [Behaviour::With(json!({"open_id": "another"}))]);
    world.refresh_all().await;
    world.refresh_all().await;
    let mut reasons: Vec<_> =
        published(&world, CANNOT).iter().map(|detail| detail["reason"].clone()).collect();
    reasons.sort_by_key(ToString::to_string);
    assert_eq!(reasons, ["identity_mismatch", "reauthorize"]);
}

#[tokio::test]
async fn a_panic_in_a_warning_does_not_give_the_integration_a_second_outcome() {
    let world = World::with(&[BUS]).await;
    world.integration().expiring_in(days(7)).refreshable_for(days(20)).insert().await;
    world.panic_in_the_next_task();
    let answer = world.refresh_all().await;
    let counts = &answer["counts"];
    assert_eq!(
        (&counts["examined"], &counts["skipped_not_due"], &counts["failed"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert!(published(&world, EXPIRING).is_empty(), "the task panicked");
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let said =
        |line: &&Value| line["message"].as_str().unwrap().starts_with("could not publish a state change");
    assert_eq!(lines.iter().find(said).unwrap()["level"], "ERROR");
    assert_eq!(lines.last().unwrap()["unpublished"], 1);
}

#[tokio::test]
async fn overlapping_runs_announce_a_change_once() {
    let world = World::with(&[BUS]).await;
    for _ in 0..20 {
        // Expired, so that it is no witness: the other half proves the app's credentials.
        let gone = world.integration().expiring_in(hours(-1)).insert().await;
        world.tiktok.revoke(&gone.open_id);
        world.integration().refreshable_for(days(6)).insert().await;
    }
    let (other, event) = (world.another_function().await, json!({}));
    let runs = tokio::join!(
        world::invoke(&world.function, &event, world.deadline()),
        world::invoke(&other, &event, world.deadline())
    );
    assert!(runs.0.is_ok() && runs.1.is_ok());
    assert_eq!((published(&world, CANNOT).len(), published(&world, EXPIRING).len()), (20, 20));
}

#[tokio::test]
async fn a_refresh_token_is_warned_of_at_thirty_fourteen_seven_and_one_days() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().refreshable_for(days(32)).insert().await;
    for _ in 0..34 {
        // A fresh access token, so that TikTok is not asked and the expiry stays.
        let fresh = AttributeValue::N((world.now() + days(20)).timestamp().to_string());
        world.write(&shop, &[("access_token_expires_at", fresh)]).await;
        world.refresh(json!({"team_id": shop.team_id})).await;
        world.refresh(json!({"team_id": shop.team_id})).await;
        world.pass(days(1));
    }
    let told: Vec<_> = published(&world, EXPIRING).iter().map(|detail| detail["reason"].clone()).collect();
    assert_eq!(
        told,
        [
            "expires_within_30_days",
            "expires_within_14_days",
            "expires_within_7_days",
            "expires_within_1_days"
        ]
    );
}

#[tokio::test]
async fn a_refresh_token_whose_expiry_cannot_be_true_is_warned_of_by_nobody() {
    let world = World::with(&[BUS]).await;
    for impossible in [0, -1] {
        world
            .integration()
            .expiring_in(days(20))
            .number("refresh_token_expires_at", impossible)
            .insert()
            .await;
    }
    let answer = world.refresh_all().await;
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    assert_eq!(answer["counts"]["skipped_not_due"], 2);
    assert!(published(&world, EXPIRING).is_empty());
    assert!(lines.iter().all(|line| line["level"] != "WARN"), "{lines:?}");
}

#[tokio::test]
async fn a_refresh_that_prolongs_the_authorization_warns_of_nothing() {
    let world = World::with(&[BUS]).await;
    world.integration().expiring_in(hours(1)).refreshable_for(days(5)).insert().await;
    world.refresh_all().await;
    assert!(published(&world, EXPIRING).is_empty());
}

#[tokio::test]
async fn a_mark_by_the_run_that_overtook_a_slower_one_is_announced_once() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    let slow = world.refresh_until(Step::Settle).await;
    world.pass(minutes(17));
    assert_eq!(world.refresh_all().await["counts"]["newly_marked"], 1);
    world.pass(minutes(1));
    let counts = slow.go_on().await["counts"].clone();
    assert_eq!((&counts["failed"], &counts["newly_marked"]), (&json!(1), &json!(0)), "it could note nothing");
    assert_eq!(published(&world, CANNOT).len(), 1);
}

#[tokio::test]
async fn a_mark_that_another_run_made_before_a_slower_one_could_is_announced_once() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    let gate = Gate::new();
    // The first is the note, the second the mark.
    world.aws.fault_at(Step::Settle, 2, Fault::Hold(gate.clone()));
    let (function, deadline) = (world.function.clone(), world.deadline());
    let slow = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await.unwrap() });
    gate.reached().await;
    world.pass(minutes(1));
    assert_eq!(world.refresh_all().await["counts"]["newly_marked"], 1);
    gate.open();
    assert_eq!(slow.await.unwrap()["counts"]["cannot_refresh"], 1);
    assert_eq!(published(&world, CANNOT).len(), 1);
}

#[tokio::test]
async fn a_mark_whose_answer_is_lost_is_announced_all_the_same() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    world.aws.fault(Step::Settle, 1, Fault::LoseAnswer);
    world.refresh_all().await;
    assert_eq!(published(&world, CANNOT).len(), 1);
}

#[tokio::test]
async fn an_entry_that_cannot_be_published_is_logged_and_counted_and_undoes_nothing() {
    // Refused as a request, and as an entry of a request that was taken.
    for fault in [Fault::Refuse(400, "AccessDeniedException"), Fault::RefuseEntries(1)] {
        let world = World::with(&[BUS]).await;
        let shop = world.integration().expiring_in(hours(1)).status("error").insert().await;
        world.aws.fault(Step::Publish, usize::MAX, fault);
        let answer = world.refresh(json!({"team_id": shop.team_id, "force": true})).await;
        assert_eq!(answer["counts"]["refreshed"], 1);
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
        let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
        assert!(lines.iter().any(|line| line["unpublished"] == 1), "{lines:?}");
        assert!(
            lines.iter().any(|line| line["message"].as_str().unwrap().contains("allow events:PutEvents"))
        );
    }
}

#[tokio::test]
async fn a_dry_run_and_a_platform_without_a_bus_hear_nothing() {
    let world = World::with(&[BUS]).await;
    world.integration().refreshable_for(days(-1)).insert().await;
    world.integration().refreshable_for(days(3)).insert().await;
    world.refresh(json!({"dry_run": true})).await;
    let silent = World::new().await;
    silent.integration().refreshable_for(days(3)).insert().await;
    silent.refresh_all().await;
    assert_eq!((world.aws.count(Step::Publish), silent.aws.count(Step::Publish)), (0, 0));
    assert_eq!((world.aws.writes(), silent.aws.writes()), (0, 0));
}
