//! One request, or one answer, goes astray: at every step of the protocol, in every way.

use super::support::{
    Behaviour, Fault, Step, World, days, hours, minutes,
    world::{self, IMPATIENT},
};
use serde_json::json;
use std::time::Duration;

fn faults() -> [Fault; 7] {
    [
        Fault::Refuse(500, "InternalServerError"),
        Fault::Refuse(400, "ProvisionedThroughputExceededException"),
        Fault::LoseAnswer,
        Fault::Drop,
        Fault::Cut,
        Fault::Delay(Duration::from_millis(50)),
        Fault::Duplicate,
    ]
}

#[tokio::test]
async fn whatever_happens_to_one_request_of_dynamodb_nothing_is_lost_and_tiktok_is_asked_once() {
    for step in [Step::Scan, Step::Acquire, Step::Save] {
        for fault in faults() {
            for nth in [1, 2] {
                let world = World::new().await;
                world.tiktok.single_use();
                let one = world.integration().expiring_in(hours(1)).insert().await;
                let two = world.integration().expiring_in(hours(2)).insert().await;
                world.aws.fault_at(step, nth, fault.clone());
                world.refresh_all().await;
                // What the first run could not do, the next one does.
                world.pass(minutes(17));
                world.refresh_all().await;
                for shop in [&one, &two] {
                    let told = format!("{step:?} {nth} {fault:?}");
                    assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop), "{told}");
                    assert_eq!(world.text(shop, "status").await.as_deref(), Some("active"), "{told}");
                    assert_eq!(world.tiktok.calls(&shop.open_id), 1, "{told}");
                    assert!(!world.row(shop).await.contains_key("lock_owner"), "{told}");
                }
            }
        }
    }
}

#[tokio::test]
async fn whatever_happens_to_the_note_of_a_failure_the_row_stays_active_and_is_tried_again() {
    for fault in faults() {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [Behaviour::Code(36_009_999, "odd")]);
        world.aws.fault_at(Step::Settle, 1, fault.clone());
        world.refresh_all().await;
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"), "{fault:?}");
        assert!(world.number(&shop, "consecutive_failures").await.unwrap_or(1) <= 1, "{fault:?}");
        world.pass(minutes(17));
        world.refresh_all().await;
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{fault:?}");
    }
}

#[tokio::test]
async fn whatever_happens_to_a_mark_it_is_made_in_the_end_and_only_for_cause() {
    for fault in faults() {
        let world = World::new().await;
        let gone = world.integration().expiring_in(hours(1)).insert().await;
        let fine = world.integration().expiring_in(hours(2)).insert().await;
        world.tiktok.revoke(&gone.open_id);
        world.aws.fault_at(Step::Settle, 1, fault.clone());
        world.refresh_all().await;
        world.pass(minutes(17));
        world.refresh_all().await;
        assert_eq!(world.text(&gone, "status").await.as_deref(), Some("error"), "{fault:?}");
        assert_eq!(world.text(&fine, "status").await.as_deref(), Some("active"), "{fault:?}");
    }
}

#[tokio::test]
async fn whatever_happens_to_one_answer_of_tiktoks_a_reusable_token_is_refreshed_in_the_end() {
    let behaviours = [
        Behaviour::Code(36_009_003, "internal error"),
        Behaviour::Code(36_009_002, "rate limit"),
        Behaviour::Status(429, "", Some(0)),
        Behaviour::Status(500, "", None),
        Behaviour::Status(404, "404 page not found", None),
        Behaviour::Hang,
        Behaviour::CutAfterRedeeming,
        Behaviour::Garbled("<html>"),
        Behaviour::Huge,
        Behaviour::Slow(Duration::from_millis(50)),
        Behaviour::Slow(Duration::from_secs(2)),
        Behaviour::With(json!({"access_token": null})),
        Behaviour::With(json!({"refresh_token": null})),
    ];
    for behaviour in behaviours {
        let world = World::with(&[IMPATIENT]).await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [behaviour.clone()]);
        world.refresh_all().await;
        world.pass(minutes(17));
        world.refresh_all().await;
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{behaviour:?}");
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"), "{behaviour:?}");
        let stored = world.number(&shop, "access_token_expires_at").await.unwrap();
        assert!(stored > (world.now() + days(6)).timestamp(), "{behaviour:?}");
    }
}

#[tokio::test]
async fn whatever_happens_to_one_request_for_a_caller_the_token_is_redeemed_once_and_usable_in_the_end() {
    for (step, nth) in
        [(Step::Read, 1), (Step::Read, 2), (Step::Secret, 1), (Step::Acquire, 1), (Step::Save, 1)]
    {
        for fault in faults() {
            let world = World::new().await;
            world.tiktok.single_use();
            let shop = world.integration().expiring_in(minutes(1)).insert().await;
            let event =
                json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id});
            world.aws.fault_at(step, nth, fault.clone());
            // An answer that says "usable" is true.
            if let Ok(answer) = world.invoke(&event).await
                && answer["valid"] == true
            {
                assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{step:?} {fault:?}");
            }
            world.aws.heal();
            world.pass(minutes(2));
            assert_eq!(world.refresh(event).await["valid"], true, "{step:?} {nth} {fault:?}");
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{step:?} {nth} {fault:?}");
            assert_eq!(world.tiktok.calls(&shop.open_id), 1, "{step:?} {nth} {fault:?}");
        }
    }
}

#[tokio::test]
async fn whatever_happens_to_the_note_of_a_rejection_the_row_stays_active_and_unlocked() {
    for fault in faults() {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(1)).insert().await;
        let event =
            json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id});
        world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_005, "can not find related auth record")]);
        world.aws.fault_at(Step::Settle, 1, fault.clone());
        assert_eq!(world.refresh(event.clone()).await["outcome"], "cannot_refresh", "{fault:?}");
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"), "{fault:?}");
        world.aws.heal();
        world.pass(minutes(2));
        assert_eq!(world.refresh(event).await["outcome"], "refreshed", "{fault:?}");
    }
}

#[tokio::test]
async fn whatever_happens_to_the_shops_the_integration_is_connected_and_valid() {
    for fault in faults() {
        let world = World::new().await;
        let shop = world::shop("1", "7", "seller");
        let code = world.tiktok.auth_code("seller", "S");
        let connect = json!({"action": "connect", "team_id": "1", "integration_id": "7", "auth_code": code});
        world.aws.fault_at(Step::Settle, 1, fault.clone());
        assert_eq!(world.refresh(connect).await["outcome"], "connected", "{fault:?}");
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{fault:?}");
        world.aws.heal();
        assert_eq!(world.refresh(json!({"action": "verify"})).await["counts"]["valid"], 1, "{fault:?}");
        assert!(world.row(&shop).await.contains_key("authorized_shops"), "{fault:?}");
    }
}
