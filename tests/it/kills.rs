//! The process is killed at every await of the protocol, and a new run follows once the lease has run out. For each the
//! table says what is lost.

use super::support::{Behaviour, Fault, NIGHT, Step, World, aws::Gate, days, hours, minutes, world};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::time::Duration;

/// Where the process is killed.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Before DynamoDB, or Secrets Manager, carries the step's request out.
    Before(Step),
    /// After that, before the function has the answer.
    After(Step),
    /// Before TikTok has acted.
    BeforeTikTok,
    /// After TikTok has redeemed the token, before the function has the answer.
    AfterTikTok,
}

const EVERYWHERE: [At; 8] = [
    At::Before(Step::Secret),
    At::Before(Step::Scan),
    At::Before(Step::Acquire),
    At::After(Step::Acquire),
    At::BeforeTikTok,
    At::AfterTikTok,
    At::Before(Step::Save),
    At::After(Step::Save),
];

/// Runs the function until it stands at `at`, and kills it there.
async fn kill(world: &World, shop: &world::Shop, at: At) {
    let gate = match at {
        At::Before(step) => Some(world.aws.hold(step)),
        At::After(step) => Some(world.aws.hold_answer(step)),
        At::BeforeTikTok => {
            world.tiktok.next(&shop.open_id, [Behaviour::Hang]);
            None
        }
        At::AfterTikTok => {
            world.tiktok.next(&shop.open_id, [Behaviour::Slow(Duration::from_secs(20))]);
            None
        }
    };
    let before = world.granted_pair(shop);
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await });
    let arrived = || match at {
        At::AfterTikTok => world.granted_pair(shop) != before,
        _ => world.tiktok.calls(&shop.open_id) > 0,
    };
    match gate {
        Some(gate) => gate.reached().await,
        None => {
            while !arrived() {
                tokio::task::yield_now().await;
            }
        }
    }
    run.abort();
    run.await.unwrap_err();
    world.aws.heal();
}

/// The outcome of the run that follows such a kill, and whether the row then holds TikTok's live pair.
async fn next_run_after(at: At, rotates: bool) -> (Value, bool) {
    let world = World::new().await;
    if rotates {
        world.tiktok.single_use();
    }
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    kill(&world, &shop, at).await;
    world.pass(minutes(17));
    let ended = world.outcome().await;
    let holds = world.stored_pair(&shop).await == world.granted_pair(&shop);
    (json!([ended["outcome"], ended["reason"]]), holds)
}

#[tokio::test]
async fn with_reusable_tokens_no_kill_loses_anything() {
    for at in EVERYWHERE {
        let expected = match at {
            At::After(Step::Save) => json!(["not_due", null]),
            _ => json!(["refreshed", null]),
        };
        assert_eq!(next_run_after(at, false).await, (expected, true), "{at:?}");
    }
}

#[tokio::test]
async fn with_single_use_tokens_a_kill_loses_a_grant_only_between_tiktoks_act_and_the_save() {
    for at in EVERYWHERE {
        let (expected, holds) = match at {
            // The one unavoidable window: the only copy of the answer died with the process. Told as what it is.
            At::AfterTikTok | At::Before(Step::Save) => {
                (json!(["cannot_refresh", "probably_lost_answer"]), false)
            }
            At::After(Step::Save) => (json!(["not_due", null]), true),
            _ => (json!(["refreshed", null]), true),
        };
        assert_eq!(next_run_after(at, true).await, (expected, holds), "{at:?}");
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_once_the_queue_has_the_pair() {
    let world = World::with(&[("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work")]).await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "ThrottlingException"));
    kill(&world, &shop, At::After(Step::Queue)).await;
    world.deliver().await;
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_kill_about_a_mark_leaves_it_made_or_to_the_next_run() {
    for at in [At::Before(Step::Settle), At::After(Step::Settle)] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.revoke(&shop.open_id);
        kill(&world, &shop, at).await;
        world.pass(minutes(17));
        assert_eq!(world.outcome().await["outcome"], "cannot_refresh", "{at:?}");
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"), "{at:?}");
    }
}

#[tokio::test]
async fn clocks_that_lie_ten_minutes_apart_lose_nothing() {
    for skew in [minutes(10), minutes(-10)] {
        for held_up in [minutes(1), minutes(7)] {
            let world = World::new().await;
            world.tiktok.single_use();
            let shop = world.integration().expiring_in(hours(1)).insert().await;
            let run = world.refresh_until(Step::Save).await;
            // Another worker, by its own clock: it stays away, or finds the token used and marks the row.
            world.pass(skew + held_up);
            world.refresh_all().await;
            world.pass(-skew - held_up);
            run.go_on().await;
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{skew} {held_up}");
            assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
        }
    }
}

#[tokio::test]
async fn a_minute_of_throttling_loses_nothing() {
    let world = World::with(&[("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work")]).await;
    world.tiktok.single_use();
    let mut shops = Vec::new();
    for _ in 0..20 {
        shops.push(world.integration().expiring_in(hours(1)).insert().await);
    }
    for step in [Step::Scan, Step::Acquire, Step::Save, Step::Settle] {
        world.aws.fault(step, 40, Fault::Refuse(400, "ThrottlingException"));
    }
    for run in 1..=10 {
        world.refresh_all().await;
        world.deliver().await;
        world.pass(TimeDelta::seconds(6));
        let mut fresh = 0;
        for shop in &shops {
            let expires_at = world.number(shop, "access_token_expires_at").await.unwrap();
            fresh += usize::from(expires_at > NIGHT + days(6).num_seconds());
        }
        if fresh == shops.len() {
            break;
        }
        assert!(run < 10, "{fresh} of {} after a minute", shops.len());
    }
    for shop in &shops {
        assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop));
    }
}

/// Where an attempt for a caller is killed.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// The nth request of a step arrives, and is not carried out.
    Asked(Step, usize),
    /// It is carried out, and its answer is not read.
    Answered(Step, usize),
    Tiktok(At),
}

/// Kills everything that an environment does for a caller: its tasks end where they stand.
async fn kill_caller(world: &World, shop: &world::Shop, until: Until) {
    let gate = Gate::new();
    match until {
        Until::Asked(step, nth) => world.aws.fault_at(step, nth, Fault::Hold(gate.clone())),
        Until::Answered(step, nth) => world.aws.fault_at(step, nth, Fault::HoldAnswer(gate.clone())),
        Until::Tiktok(At::BeforeTikTok) => world.tiktok.next(&shop.open_id, [Behaviour::Hang]),
        Until::Tiktok(_) => {
            world.tiktok.next(&shop.open_id, [Behaviour::Slow(Duration::from_secs(20))]);
        }
    }
    let before = world.granted_pair(shop);
    let environment =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (function, deadline) = (world.another_function().await, world.deadline());
    let event = json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id});
    let caller = environment.spawn(async move { world::invoke(&function, &event, deadline).await });
    match until {
        Until::Asked(..) | Until::Answered(..) => gate.reached().await,
        Until::Tiktok(At::BeforeTikTok) => {
            while world.tiktok.calls(&shop.open_id) == 0 {
                tokio::task::yield_now().await;
            }
        }
        Until::Tiktok(_) => {
            while world.granted_pair(shop) == before {
                tokio::task::yield_now().await;
            }
        }
    }
    environment.shutdown_background();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.open();
    world.aws.heal();
}

#[tokio::test]
async fn an_attempt_that_died_locks_nobody_out_for_longer_than_100_seconds() {
    for until in [
        Until::Asked(Step::Read, 1),
        Until::Answered(Step::Read, 1),
        Until::Asked(Step::Secret, 1),
        Until::Asked(Step::Acquire, 1),
        Until::Answered(Step::Acquire, 1),
        Until::Tiktok(At::BeforeTikTok),
        Until::Tiktok(At::AfterTikTok),
        Until::Asked(Step::Save, 1),
        Until::Answered(Step::Save, 1),
        Until::Asked(Step::Read, 2),
        Until::Answered(Step::Read, 2),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(minutes(1)).insert().await;
        kill_caller(&world, &shop, until).await;
        let lease = world.number(&shop, "lock_expires_at").await.unwrap_or_default();
        assert!(lease <= NIGHT + 100, "{until:?}");
        world.pass(TimeDelta::seconds(100));
        let event =
            json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id});
        assert_eq!(world.refresh(event).await["valid"], true, "{until:?}");
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{until:?}");
    }
}

#[tokio::test]
async fn a_kill_before_the_note_of_a_rejection_leaves_the_question_to_the_next_caller() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(minutes(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::Code(36_004_001, "rt has expired")]);
    kill_caller(&world, &shop, Until::Asked(Step::Settle, 1)).await;
    let event = json!({"action": "ensure", "team_id": shop.team_id, "integration_id": shop.integration_id});
    world.pass(TimeDelta::seconds(100));
    assert_eq!(world.refresh(event).await["outcome"], "refreshed");
}

#[tokio::test]
async fn a_kill_between_the_connect_and_its_shops_leaves_them_to_the_next_verify() {
    let world = World::new().await;
    let shop = world::shop("1", "7", "seller");
    let code = world.tiktok.auth_code("seller", "S");
    let gate = world.aws.hold(Step::Settle);
    let event = json!({"action": "connect", "team_id": "1", "integration_id": "7", "auth_code": code});
    let (function, deadline) = (world.function.clone(), world.deadline());
    let connect = tokio::spawn(async move { world::invoke(&function, &event, deadline).await });
    gate.reached().await;
    connect.abort();
    connect.await.unwrap_err();
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    world.aws.heal();
    world.refresh(json!({"action": "verify"})).await;
    assert!(world.row(&shop).await.contains_key("authorized_shops"));
}
