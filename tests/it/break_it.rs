//! Attacks on "the newer authorization always wins": every interleaving, attribute and deadline that may break it.

use super::support::{
    Behaviour, Fault, Step, World, days, hours, logs, minutes,
    world::{self, Shop},
};
use aws_sdk_dynamodb::{
    config::{Credentials, Region},
    types::AttributeValue,
};
use axum::{Router, extract::Query, routing::get};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tiktok_token_refresh::{
    domain::{clock::Clock, integration::IntegrationKey},
    handler::{Function, InvocationError},
    local::runtime_api::RuntimeApi,
    settings::Settings,
};
use tokio::{net::TcpListener, task::JoinHandle};

const QUEUE: (&str, &str) = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");
const BUS: (&str, &str) = ("EVENT_BUS_NAME", "platform");
const REJECTED: Behaviour = Behaviour::Code(36_004_005, "can not find related auth record");

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn number(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn connect(shop: &Shop, code: &str) -> Value {
    json!({"action": "connect", "team_id": shop.team_id, "integration_id": shop.integration_id, "auth_code": code})
}

fn replace(shop: &Shop, code: &str) -> Value {
    let mut event = connect(shop, code);
    event["replace"] = json!(true);
    event
}

fn with_app(mut event: Value, app_key: &str) -> Value {
    event["app_key"] = json!(app_key);
    event
}

fn spawn(world: &World, event: Value) -> JoinHandle<Result<Value, InvocationError>> {
    let (function, deadline) = (world.function.clone(), world.deadline());
    tokio::spawn(async move { world::invoke(&function, &event, deadline).await })
}

async fn holds(world: &World, shop: &Shop, open_id: &str) -> bool {
    let stored = world.stored_pair(shop).await;
    stored.is_some() && stored == world.tiktok.last_pair(open_id)
}

/// Two apps, which both TikTok and the secret know.
fn two_apps(world: &World) {
    let apps = [(world::APP_KEY, world::APP_SECRET), ("second", "app-secret-2")];
    world.tiktok.set_apps(apps.map(|(key, secret)| world::app(key, secret)).to_vec());
    let apps = apps.map(|(key, secret)| json!({"app_key": key, "app_secret": secret}));
    world.aws.set_secret(Some(&json!({ "apps": apps }).to_string()));
}

/// The function with the retry policy and the clock of production, by which the world goes from now on.
pub async fn by_the_real_clock(
    world: &World,
    call_timeout: &str,
    more: &[(&'static str, &str)],
) -> Arc<Function> {
    world.go_by_the_system_clock();
    let names = ["TABLE_NAME", "APP_CREDENTIALS_SECRET_ID", "TIKTOK_AUTH_URL", "TIKTOK_API_URL"];
    let mut all: HashMap<&str, String> = names.map(|name| (name, world.setting(name))).into();
    all.insert("TIKTOK_TIMEOUT", call_timeout.into());
    all.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let settings = Settings::parse(|name| all.get(name).cloned()).unwrap();
    let sdk = tiktok_token_refresh::aws::config()
        .endpoint_url(format!("http://{}", world.aws.address))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .load()
        .await;
    Arc::new(Function::new(settings, &sdk, Clock::system(), Arc::new(|_| {})))
}

/// Invokes a function with so much time left, and gives how long it took.
pub async fn within(
    function: &Function,
    event: &Value,
    left: Duration,
) -> (Result<Value, InvocationError>, Duration) {
    let started = Instant::now();
    let deadline = Clock::system().now() + TimeDelta::from_std(left).unwrap();
    let answer = world::invoke(function, event, deadline).await;
    (answer, started.elapsed())
}

// --- No lease of ours stays behind ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refresh_superseded_by_a_later_redemption_releases_its_lease() {
    for rotates in [true, false] {
        let world = World::new().await;
        if rotates {
            world.tiktok.single_use();
        }
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        let refresh = world.refresh_until(Step::Save).await;
        let later = number((world.now() + days(8)).timestamp());
        let mut theirs = vec![("access_token", text("TTP_theirs")), ("access_token_expires_at", later)];
        if rotates {
            theirs.push(("refresh_token", text("TTR_theirs")));
        }
        world.write(&shop, &theirs).await;
        assert_eq!(refresh.go_on().await["integrations"][0]["reason"], "superseded", "{rotates}");
        assert_eq!(world.text(&shop, "access_token").await.as_deref(), Some("TTP_theirs"));
        let row = world.row(&shop).await;
        assert!(!row.contains_key("lock_owner") && !row.contains_key("lock_expires_at"), "{rotates}");
    }
}

#[tokio::test]
async fn a_refresh_superseded_by_a_rewrite_of_the_generation_releases_its_lease() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).text("authorization_id", "the first").insert().await;
    let refresh = world.refresh_until(Step::Save).await;
    world.remove(&shop, "authorization_id").await;
    let ended = refresh.go_on().await["integrations"][0].clone();
    assert_eq!(ended["outcome"], "refreshed");
    assert!(!world.row(&shop).await.contains_key("lock_owner"), "{ended}");
}

#[tokio::test]
async fn a_refresh_that_gives_way_does_not_release_the_lease_of_another_attempt() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let refresh = world.refresh_until(Step::Save).await;
    let at = |time: TimeDelta| number((world.now() + time).timestamp());
    let theirs = [
        ("access_token", text("TTP_theirs")),
        ("access_token_expires_at", at(days(8))),
        ("lock_owner", text("another attempt")),
        ("lock_expires_at", at(minutes(10))),
    ];
    world.write(&shop, &theirs).await;
    assert_eq!(refresh.go_on().await["integrations"][0]["reason"], "superseded");
    assert_eq!(world.text(&shop, "lock_owner").await.as_deref(), Some("another attempt"));
}

// --- Two connects -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_older_connect_of_the_same_seller_that_is_late_does_not_overwrite_the_newer_one() {
    for exists in [true, false] {
        let world = World::new().await;
        let shop =
            if exists { world.integration().insert().await } else { world::shop("1", "7", "seller-of-7") };
        let gate = world.aws.hold(Step::Save);
        let older = spawn(&world, connect(&shop, &world.tiktok.auth_code(&shop.open_id, "older")));
        gate.reached().await;
        world.refresh(connect(&shop, &world.tiktok.auth_code(&shop.open_id, "newer"))).await;
        let newer = world.text(&shop, "authorization_id").await;
        gate.open();
        let ended = format!("{:?}", older.await.unwrap());
        assert_eq!(world.text(&shop, "authorization_id").await, newer, "{exists} {ended}");
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{exists} {ended}");
    }
}

#[tokio::test]
async fn an_older_replace_that_is_late_does_not_overwrite_the_newer_one() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let gate = world.aws.hold(Step::Save);
    let older = spawn(&world, replace(&shop, &world.tiktok.auth_code("by mistake", "older")));
    gate.reached().await;
    world.refresh(replace(&shop, &world.tiktok.auth_code("corrected", "newer"))).await;
    gate.open();
    let ended = format!("{:?}", older.await.unwrap());
    assert!(holds(&world, &shop, "corrected").await, "{ended}");
}

#[tokio::test]
async fn a_connect_whose_response_was_lost_does_not_overwrite_the_connect_after_it() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let gate = world.aws.hold_answer(Step::Save);
    let older = spawn(&world, connect(&shop, &world.tiktok.auth_code(&shop.open_id, "older")));
    gate.reached().await;
    // The older one is stored, but the SDK does not know it yet: it asks again after 3 s.
    world.refresh(connect(&shop, &world.tiktok.auth_code(&shop.open_id, "newer"))).await;
    let newer = world.text(&shop, "authorization_id").await;
    let ended = format!("{:?}", older.await.unwrap());
    assert_eq!(world.text(&shop, "authorization_id").await, newer, "{ended}");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{ended}");
}

#[tokio::test]
async fn two_sellers_do_not_share_a_row_whose_seller_is_null_empty_or_garbled() {
    for unknown in [AttributeValue::Null(true), text(""), number(7), AttributeValue::L(vec![])] {
        for generation in
            [None, Some(text("g")), Some(AttributeValue::Null(true)), Some(text("")), Some(number(1))]
        {
            let world = World::new().await;
            let shop = world.integration().insert().await;
            world.write(&shop, &[("open_id", unknown.clone())]).await;
            if let Some(generation) = &generation {
                world.write(&shop, &[("authorization_id", generation.clone())]).await;
            }
            let gate = world.aws.hold(Step::Save);
            let slow = spawn(&world, connect(&shop, &world.tiktok.auth_code("second", "S")));
            gate.reached().await;
            world.refresh(connect(&shop, &world.tiktok.auth_code("first", "F"))).await;
            gate.open();
            let error = slow.await.unwrap().unwrap_err();
            assert_eq!(error.error_type(), "ConnectRefused", "{unknown:?} {generation:?}");
            assert!(holds(&world, &shop, "first").await, "{unknown:?} {generation:?}");
        }
    }
}

#[tokio::test]
async fn a_connect_without_replace_does_not_follow_a_replace_that_was_quicker() {
    for named in [true, false] {
        let world = World::new().await;
        let shop = world.integration().insert().await;
        let gate = world.aws.hold(Step::Save);
        let slow = spawn(&world, connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S")));
        gate.reached().await;
        let lacks = if named { json!({}) } else { json!({"open_id": null}) };
        let code = world.tiktok.auth_code_with("another", "A", Behaviour::With(lacks));
        world.refresh(replace(&shop, &code)).await;
        gate.open();
        assert_eq!(slow.await.unwrap().unwrap_err().error_type(), "ConnectRefused");
        assert!(holds(&world, &shop, "another").await);
    }
}

#[tokio::test]
async fn a_seller_who_becomes_known_during_a_connect_keeps_the_row() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).without("open_id").insert().await;
    let gate = world.aws.hold(Step::Save);
    let slow = spawn(&world, connect(&shop, &world.tiktok.auth_code("a-stranger", "S")));
    gate.reached().await;
    // A refresh tells whose row it is.
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    gate.open();
    assert_eq!(slow.await.unwrap().unwrap_err().error_type(), "ConnectRefused");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn an_auth_code_that_is_used_twice_changes_nothing_the_second_time() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let code = world.tiktok.auth_code(&shop.open_id, "S");
    world.refresh(connect(&shop, &code)).await;
    let before = world.everything().await;
    let error = world.invoke(&connect(&shop, &code)).await.unwrap_err();
    assert_eq!(error.error_type(), "CodeRefused");
    assert_eq!(world.everything().await, before);
}

#[tokio::test]
async fn an_auth_code_that_is_used_twice_at_once_connects_once() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    let gate = world.aws.hold(Step::Save);
    let first = spawn(&world, event.clone());
    gate.reached().await;
    assert_eq!(world.invoke(&event).await.unwrap_err().error_type(), "CodeRefused");
    gate.open();
    assert_eq!(first.await.unwrap().unwrap()["outcome"], "reconnected");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_connect_survives_every_fault_of_its_write() {
    let faults = [
        Fault::Refuse(400, "ThrottlingException"),
        Fault::Refuse(500, "InternalServerError"),
        Fault::Refuse(400, "AccessDeniedException"),
        Fault::LoseAnswer,
        Fault::Drop,
        Fault::Cut,
        Fault::Stall,
        Fault::Duplicate,
    ];
    for fault in faults {
        for (exists, says_replace) in [(true, false), (true, true), (false, false)] {
            let world = World::new().await;
            let shop = if exists { world.integration().insert().await } else { world::shop("1", "7", "o-1") };
            let open_id = if says_replace { "another" } else { &shop.open_id };
            let code = world.tiktok.auth_code(open_id, "S");
            world.aws.fault(Step::Save, 2, fault.clone());
            let event = if says_replace { replace(&shop, &code) } else { connect(&shop, &code) };
            let expected = match (exists, says_replace) {
                (false, _) => "connected",
                (true, true) => "replaced",
                (true, false) => "reconnected",
            };
            assert_eq!(world.refresh(event).await["outcome"], expected, "{fault:?}");
            assert!(holds(&world, &shop, open_id).await, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_recovery_is_published_although_the_response_of_the_connects_write_was_lost() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().status("error").insert().await;
    world.aws.fault(Step::Save, 1, Fault::LoseAnswer);
    let code = world.tiktok.auth_code(&shop.open_id, "S");
    assert_eq!(world.refresh(connect(&shop, &code)).await["outcome"], "reconnected");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    let published = world.aws.published();
    assert_eq!(
        published.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(),
        ["TikTok Shop Integration Recovered"]
    );
}

// --- Refresh and rescue against a connect -----------------------------------------------------------------------------

#[tokio::test]
async fn an_older_authorization_gives_way_at_every_point_of_its_refresh() {
    for step in [Step::Acquire, Step::Save] {
        for rotates in [true, false] {
            for kind in ["same", "another", "app", "lacks"] {
                for (name, generation) in [("absent", None), ("known", Some("g0"))] {
                    let world = World::new().await;
                    two_apps(&world);
                    if rotates {
                        world.tiktok.single_use();
                    }
                    let mut new = world.integration().expiring_in(hours(1));
                    if let Some(generation) = generation {
                        new = new.text("authorization_id", generation);
                    }
                    let shop = new.insert().await;
                    // The older pair expires later.
                    let later = (world.now() + days(20)).timestamp();
                    world
                        .tiktok
                        .next(&shop.open_id, [Behaviour::With(json!({"access_token_expire_in": later}))]);
                    let gate = if step == Step::Acquire {
                        world.aws.hold_answer(step)
                    } else {
                        world.aws.hold(step)
                    };
                    let refresh = spawn(&world, json!({}));
                    gate.reached().await;
                    let owner = if kind == "another" { "another" } else { &shop.open_id };
                    let lacks = json!({"refresh_token": null, "open_id": null, "refresh_token_expire_in": null,
                                       "access_token_expire_in": null});
                    let (code, event): (String, fn(&Shop, &str) -> Value) = match kind {
                        "lacks" => (world.tiktok.auth_code_with(owner, "N", Behaviour::With(lacks)), replace),
                        "another" => (world.tiktok.auth_code(owner, "N"), replace),
                        _ => (world.tiktok.auth_code(owner, "N"), connect),
                    };
                    let mut event = event(&shop, &code);
                    if kind == "app" {
                        event = with_app(event, "second");
                    }
                    world.refresh(event).await;
                    let newer = world.row(&shop).await;
                    gate.open();
                    let ended = refresh.await.unwrap().unwrap()["integrations"][0].clone();
                    let told = format!("{step:?} {rotates} {kind} {name} {ended}");
                    assert_eq!(ended["outcome"], "refreshed", "{told}");
                    assert_eq!(ended["reason"], "superseded", "{told}");
                    assert_eq!(world.row(&shop).await, newer, "{told}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_rejection_of_an_older_authorization_leaves_the_newer_one_alone() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [REJECTED]);
    let gate = world.aws.hold(Step::Settle);
    let refresh = spawn(&world, json!({}));
    gate.reached().await;
    world.refresh(connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"))).await;
    let newer = world.row(&shop).await;
    gate.open();
    refresh.await.unwrap().unwrap();
    assert_eq!(world.row(&shop).await, newer);
    assert!(world.aws.published().is_empty(), "{:?}", world.aws.published());
}

#[tokio::test]
async fn a_rescue_is_judged_alike_however_often_and_late_it_is_delivered() {
    for rotates in [true, false] {
        for of_the_version_before in [false, true] {
            for says_replace in [false, true] {
                let world = World::with(&[QUEUE]).await;
                if rotates {
                    world.tiktok.single_use();
                }
                let shop = world.integration().expiring_in(hours(1)).insert().await;
                world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "ThrottlingException"));
                assert_eq!(world.outcome().await["reason"], "rescued");
                world.aws.heal();
                let mut message: Value = serde_json::from_str(&world.aws.queued()[0]).unwrap();
                world.aws.receive();
                if of_the_version_before {
                    for name in ["authorization_id", "app_key"] {
                        message["rescue"].as_object_mut().unwrap().remove(name);
                    }
                }
                let message = message.to_string();
                // Twice before the connect.
                for _ in 0..2 {
                    world.aws.enqueue(&message);
                }
                assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
                assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{rotates}");
                world.pass(hours(1));
                let (owner, event): (&str, fn(&Shop, &str) -> Value) =
                    if says_replace { ("another", replace) } else { (&shop.open_id, connect) };
                world.refresh(event(&shop, &world.tiktok.auth_code(owner, "N"))).await;
                let newer = world.row(&shop).await;
                // Twice after it.
                for _ in 0..2 {
                    world.aws.enqueue(&message);
                }
                assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
                assert_eq!(world.row(&shop).await, newer, "{rotates} {of_the_version_before} {says_replace}");
                // And into a row that was deleted, and connected anew.
                world.delete(&shop).await;
                world.aws.enqueue(&message);
                assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
                assert_eq!(world.find(&shop).await, None);
                world.refresh(connect(&shop, &world.tiktok.auth_code("third", "T"))).await;
                let newest = world.row(&shop).await;
                world.aws.enqueue(&message);
                assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
                assert_eq!(world.row(&shop).await, newest);
            }
        }
    }
}

/// Two workers, a connect and the queue at once, with faults of the table at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_wins_over_refreshes_and_rescues_in_any_order() {
    let pick = |n: usize| fastrand::usize(..n);
    let mut superseded = 0;
    for round in 0..15 {
        let seed = fastrand::u64(..);
        fastrand::seed(seed);
        let world = World::with(&[QUEUE]).await;
        two_apps(&world);
        if pick(2) == 0 {
            world.tiktok.single_use();
        }
        let mut new = world.integration().expiring_in(hours(1));
        if pick(2) == 0 {
            new = new.text("authorization_id", "g0");
        }
        if pick(4) == 0 {
            new = new.without("open_id");
        }
        let shop = new.insert().await;
        world.tiktok.latency(Duration::from_millis(fastrand::u64(..20)));
        for _ in 0..pick(4) {
            let step = [Step::Acquire, Step::Save, Step::Save][pick(3)];
            let fault = [
                Fault::LoseAnswer,
                Fault::Drop,
                Fault::Cut,
                Fault::Duplicate,
                Fault::Refuse(400, "ThrottlingException"),
                Fault::Delay(Duration::from_millis(fastrand::u64(..60))),
            ][pick(6)]
            .clone();
            for _ in 0..=pick(4) {
                world.aws.fault_at(step, 1 + pick(4), fault.clone());
            }
        }
        let other = world.another_function().await;
        let deadline = world.deadline();
        let refreshes = [world.function.clone(), other].map(|function| {
            let wait = Duration::from_millis(fastrand::u64(..40));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                world::invoke(&function, &json!({}), deadline).await
            })
        });
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..50))).await;
        // The newer authorization has tokens of its own, and perhaps the same seller.
        let says_same = pick(2) == 0;
        let fields = if says_same { json!({"open_id": shop.open_id}) } else { json!({}) };
        let code = world.tiktok.auth_code_with("the newer", "N", Behaviour::With(fields));
        let event = if says_same && pick(2) == 0 { connect(&shop, &code) } else { replace(&shop, &code) };
        let event = if pick(2) == 0 { with_app(event, "second") } else { event };
        let connected = spawn(&world, event);
        if pick(2) == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
            world.deliver().await;
        }
        let connected = connected.await.unwrap();
        let mut ended = Vec::new();
        for refresh in refreshes {
            let refresh = refresh.await.unwrap();
            superseded += usize::from(format!("{refresh:?}").contains("superseded"));
            ended.push(refresh);
        }
        world.aws.heal();
        for _ in 0..3 {
            world.deliver().await;
        }
        let told =
            format!("round {round}, seed {seed}: {connected:?} {ended:#?} {:#?}", world.row(&shop).await);
        assert!(connected.is_ok(), "{told}");
        assert!(holds(&world, &shop, "the newer").await, "{told}");
        assert!(!world.row(&shop).await.contains_key("lock_owner"), "{told}");
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"), "{told}");
    }
    assert!(superseded > 0, "no refresh ever met the connect");
}

#[tokio::test]
async fn a_rescue_lifts_the_mark_that_its_missing_pair_earned() {
    let world = World::with(&[QUEUE]).await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "ThrottlingException"));
    assert_eq!(world.outcome().await["reason"], "rescued");
    world.aws.heal();
    world.pass(hours(1));
    assert_eq!(world.outcome().await["outcome"], "cannot_refresh");
    assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn a_pair_in_hand_survives_any_attribute_that_is_spoilt_meanwhile() {
    let spoilt = [AttributeValue::Null(true), text(""), AttributeValue::Bool(true), text("spoilt")];
    for name in [
        "app_key",
        "access_token",
        "access_token_expires_at",
        "refresh_token_expires_at",
        "open_id",
        "authorization_id",
        "lock_owner",
        "lock_expires_at",
        "last_refreshed_at",
        "status",
        "granted_scopes",
        "consecutive_failures",
    ] {
        for value in &spoilt {
            let world = World::new().await;
            world.tiktok.single_use();
            let shop =
                world.integration().expiring_in(hours(1)).text("authorization_id", "g0").insert().await;
            let refresh = world.refresh_until(Step::Save).await;
            world.write(&shop, &[(name, value.clone())]).await;
            let ended = refresh.go_on().await["integrations"][0].clone();
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{name} {value:?} {ended}");
            assert_eq!(
                (&ended["outcome"], &ended["reason"]),
                (&json!("refreshed"), &Value::Null),
                "{name} {value:?}"
            );
            assert!(!world.row(&shop).await.contains_key("lock_expires_at"), "{name} {value:?}");
        }
    }
}

#[tokio::test]
async fn a_status_of_the_users_own_stays_when_an_answer_is_another_sellers() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"open_id": "someone-else"}))]);
    let refresh = world.refresh_until(Step::Save).await;
    world.write(&shop, &[("status", text("paused"))]).await;
    refresh.go_on().await;
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("paused"));
}

#[tokio::test]
async fn a_connect_before_the_lease_leaves_nothing_to_refresh_and_no_lease() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let gate = world.aws.hold(Step::Acquire);
    let refresh = spawn(&world, json!({}));
    gate.reached().await;
    world.refresh(connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"))).await;
    let newer = world.row(&shop).await;
    gate.open();
    refresh.await.unwrap().unwrap();
    assert_eq!(world.row(&shop).await, newer);
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
}

#[tokio::test]
async fn a_connect_that_is_refused_takes_nothing_from_a_refresh_in_flight() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let refresh = world.refresh_until(Step::Save).await;
    let before = world.row(&shop).await;
    for code in [world.tiktok.auth_code("a-stranger", "S"), "TTC_unknown".to_owned()] {
        world.invoke(&connect(&shop, &code)).await.unwrap_err();
    }
    assert_eq!(world.row(&shop).await, before);
    assert_eq!(refresh.go_on().await["integrations"][0]["reason"], Value::Null);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_mark_that_is_made_during_a_connect_is_lifted_by_it() {
    for status in ["error", "expired", "paused", "Active"] {
        let world = World::with(&[BUS]).await;
        let shop = world.integration().insert().await;
        let gate = world.aws.hold(Step::Save);
        let slow = spawn(&world, connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S")));
        gate.reached().await;
        world.write(&shop, &[("status", text(status))]).await;
        gate.open();
        assert_eq!(slow.await.unwrap().unwrap()["outcome"], "reconnected");
        let is_mark = matches!(status, "error" | "expired");
        let expected = if is_mark { "active" } else { status };
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some(expected));
        assert_eq!(world.aws.published().len(), usize::from(is_mark), "{status}");
    }
}

#[tokio::test]
async fn a_mismatch_of_an_older_authorization_does_not_mark_the_newer_one() {
    let world = World::with(&[BUS]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"open_id": "someone-else"}))]);
    let refresh = world.refresh_until(Step::Save).await;
    world.refresh(connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"))).await;
    let newer = world.row(&shop).await;
    refresh.go_on().await;
    assert_eq!(world.row(&shop).await, newer);
    assert!(world.aws.published().is_empty());
}

#[tokio::test]
async fn a_refresh_superseded_by_another_programs_authorization_releases_its_lease() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let refresh = world.refresh_until(Step::Save).await;
    let theirs = world.tiktok.authorize("another", "A");
    let theirs = [("access_token", theirs.access_token), ("refresh_token", theirs.refresh_token)];
    let mut theirs = theirs.map(|(name, value)| (name, text(&value))).to_vec();
    theirs.push(("open_id", text("another")));
    world.write(&shop, &theirs).await;
    assert_eq!(refresh.go_on().await["integrations"][0]["reason"], "superseded");
    assert!(holds(&world, &shop, "another").await);
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
}

// --- Callers in Rust --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_caller_gets_the_app_that_granted_the_token_although_a_connect_changed_both() {
    let mut mixed = Vec::new();
    for (step, nth, expiry) in [(Step::Save, 1, -1), (Step::Read, 1, 100)] {
        let world = World::new().await;
        two_apps(&world);
        let shop = world.integration().expiring_in(hours(expiry)).insert().await;
        let gate = super::support::aws::Gate::new();
        world.aws.fault_at(step, nth, Fault::Hold(gate.clone()));
        let (function, deadline) = (world.function.clone(), world.deadline());
        let key =
            IntegrationKey { team_id: shop.team_id.clone(), integration_id: shop.integration_id.clone() };
        let call = tokio::spawn(async move {
            let call =
                async |app: tiktok_token_refresh::domain::secret::AppCredentials,
                       token: tiktok_token_refresh::domain::secret::AccessToken| {
                    Ok((app.app_key.clone(), token.expose().to_owned()))
                };
            function.call_with_valid_token(&key, deadline, call).await.unwrap().value
        });
        gate.reached().await;
        let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
        world.refresh(with_app(event, "second")).await;
        gate.open();
        let (app_key, token) = call.await.unwrap();
        let is_newer_token = Some(token) == world.text(&shop, "access_token").await;
        let is_newer_app = Some(app_key) == world.text(&shop, "app_key").await;
        if is_newer_token != is_newer_app {
            mixed.push(format!(
                "{step:?}: the token is the newer one's: {is_newer_token}, the app: {is_newer_app}"
            ));
        }
    }
    assert_eq!(mixed, Vec::<String>::new());
}

// --- The secret -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_connect_of_the_default_app_works_once_the_wrong_app_key_of_the_secret_was_repaired() {
    let world = World::new().await;
    world.aws.set_secret(Some(&json!({"app_key": "typo", "app_secret": world::APP_SECRET}).to_string()));
    let shop = world::shop("1", "7", "o-1");
    // A warm environment caches the wrong key.
    world.refresh(json!({"action": "verify"})).await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    let answer = world.invoke(&connect(&shop, &world.tiktok.auth_code("o-1", "S"))).await;
    assert_eq!(answer.unwrap()["outcome"], "connected");
}

#[tokio::test]
async fn verify_works_once_the_wrong_app_key_of_the_secret_was_repaired() {
    let world = World::new().await;
    world.aws.set_secret(Some(&json!({"app_key": "typo", "app_secret": world::APP_SECRET}).to_string()));
    world.integration().insert().await;
    world.refresh(json!({"action": "verify"})).await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    // The environment that has it in its cache has read it again meanwhile; another one has not.
    let other = world.another_function().await;
    world.aws.set_secret(Some(&json!({"app_key": "typo", "app_secret": world::APP_SECRET}).to_string()));
    world::invoke(&other, &json!({"action": "verify", "team_id": "nobody"}), world.deadline()).await.unwrap();
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    let answer = world::invoke(&other, &json!({"action": "verify"}), world.deadline()).await.unwrap();
    assert_eq!(answer["counts"]["valid"], 1, "{answer}");
}

#[tokio::test]
async fn every_row_of_a_run_is_refreshed_once_the_wrong_app_key_of_the_secret_was_repaired() {
    let world = World::new().await;
    world.aws.set_secret(Some(&json!({"app_key": "typo", "app_secret": world::APP_SECRET}).to_string()));
    for _ in 0..4 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    // A warm environment caches the wrong key.
    world.refresh(json!({"action": "verify", "team_id": "nobody"})).await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 4);
}

#[tokio::test]
async fn a_connect_works_with_any_version_of_the_secret() {
    for stage in ["AWSPENDING", "AWSPREVIOUS"] {
        let world = World::new().await;
        let version = |secret: &str| json!({"app_key": world::APP_KEY, "app_secret": secret}).to_string();
        world.aws.set_secret(Some(&version("app-secret-other")));
        world.aws.set_version(stage, Some(&version(world::APP_SECRET)));
        let shop = world::shop("1", "7", "o-1");
        let answer = world.refresh(connect(&shop, &world.tiktok.auth_code("o-1", "S"))).await;
        assert_eq!(answer["outcome"], "connected", "{stage}");
    }
}

// --- NULL, empty, garbled ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_lease_without_an_owner_or_without_an_end_does_not_keep_a_row_from_its_mark() {
    let mut unmarked = Vec::new();
    let null = AttributeValue::Null(true);
    for (owner, ends) in [
        (Some(null.clone()), Some(-60)),
        (None, Some(-60)),
        (Some(text("")), Some(-60)),
        (Some(text("somebody")), None),
    ] {
        {
            let event = json!({"action": "cleanup"});
            let world = World::new().await;
            let shop = world.integration().expiring_in(hours(1)).refreshable_for(days(-1)).insert().await;
            let ends = ends.map(|m| number((world.now() + minutes(m)).timestamp()));
            let mut lease = vec![("lock_expires_at", ends.unwrap_or_else(|| null.clone()))];
            lease.extend(owner.clone().map(|owner| ("lock_owner", owner)));
            world.write(&shop, &lease).await;
            world.refresh(event.clone()).await;
            let status = world.text(&shop, "status").await.unwrap();
            if status == "active" {
                unmarked.push(format!("{lease:?} {event}"));
            }
        }
    }
    assert_eq!(unmarked, Vec::<String>::new());
}

#[tokio::test]
async fn a_connect_heals_a_row_whatever_its_attributes_are() {
    let values = [
        AttributeValue::Null(true),
        text(""),
        AttributeValue::Bool(true),
        AttributeValue::M(HashMap::new()),
        number(7),
        AttributeValue::L(vec![number(1)]),
    ];
    for name in [
        "status",
        "app_key",
        "access_token",
        "refresh_token",
        "access_token_expires_at",
        "refresh_token_expires_at",
        "open_id",
        "authorization_id",
        "lock_owner",
        "lock_expires_at",
        "seller_name",
        "granted_scopes",
        "last_refreshed_at",
        "error_code",
        "error_message",
        "error_at",
        "consecutive_failures",
        "refresh_token_notice",
    ] {
        for value in &values {
            let world = World::new().await;
            let shop = world.integration().insert().await;
            world.write(&shop, &[(name, value.clone())]).await;
            let code = world.tiktok.auth_code(&shop.open_id, "S");
            let answer = world.invoke(&connect(&shop, &code)).await;
            assert!(answer.is_ok(), "{name} {value:?} {answer:?}");
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{name} {value:?}");
            assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"), "{name} {value:?}");
            let is_old = world.row(&shop).await.get(name) == Some(value);
            assert!(!is_old, "{name} {value:?} stays");
            world.pass(days(6));
            assert_eq!(world.outcome().await["outcome"], "refreshed", "{name} {value:?}");
        }
    }
}

#[tokio::test]
async fn a_refresh_token_that_is_null_or_empty_is_missing_and_not_marked() {
    for token in [AttributeValue::Null(true), text("")] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.write(&shop, &[("refresh_token", token)]).await;
        let ended = world.outcome().await;
        assert_eq!(
            (&ended["outcome"], &ended["reason"]),
            (&json!("cannot_refresh"), &json!("refresh_token_missing"))
        );
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    }
}

#[tokio::test]
async fn null_in_a_connect_event_is_the_same_as_absent() {
    let world = World::new().await;
    let shop = world::shop("1", "7", "o-1");
    let mut event = with_app(connect(&shop, &world.tiktok.auth_code("o-1", "S")), "x");
    event["app_key"] = Value::Null;
    event["replace"] = Value::Null;
    assert_eq!(world.refresh(event).await["outcome"], "connected");
}

// --- Deadlines, by the real clock -------------------------------------------------------------------------------------

const HANGS: Fault = Fault::Delay(Duration::from_secs(40));

#[tokio::test]
async fn a_connect_answers_in_time_when_the_table_does_not_take_its_write() {
    let refuses = Fault::Refuse(400, "ThrottlingException");
    for (fault, left) in [(HANGS, 12), (refuses.clone(), 12), (HANGS, 7), (refuses, 7)] {
        let world = World::new().await;
        let function = by_the_real_clock(&world, "1s", &[]).await;
        let shop = world.integration().insert().await;
        world.aws.fault(Step::Save, usize::MAX, fault.clone());
        let left = Duration::from_secs(left);
        let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
        let (answer, took) = within(&function, &event, left).await;
        assert_eq!(answer.unwrap_err().error_type(), "TableUnavailable");
        assert!(took < left, "{fault:?}: {took:?} of {left:?}");
    }
}

#[tokio::test]
async fn a_connect_answers_in_time_when_the_table_hangs_before_the_exchange() {
    for left in [12, 3] {
        let world = World::new().await;
        let function = by_the_real_clock(&world, "1s", &[]).await;
        let shop = world.integration().insert().await;
        world.aws.fault(Step::Read, usize::MAX, HANGS);
        let left = Duration::from_secs(left);
        let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
        let (answer, took) = within(&function, &event, left).await;
        answer.unwrap_err();
        assert!(took < left, "{took:?} of {left:?}");
    }
}

#[tokio::test]
async fn a_connect_answers_in_time_when_the_secret_hangs() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[]).await;
    let shop = world.integration().insert().await;
    world.aws.fault(Step::Secret, usize::MAX, HANGS);
    let left = Duration::from_secs(3);
    let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    let (answer, took) = within(&function, &event, left).await;
    answer.unwrap_err();
    assert!(took < left, "{took:?} of {left:?}");
}

#[tokio::test]
async fn a_connect_answers_in_time_when_secret_and_table_are_slow_one_after_the_other() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[]).await;
    let shop = world.integration().insert().await;
    // Two attempts of 3 s each are lost, the third is answered.
    world.aws.fault(Step::Secret, 2, HANGS);
    world.aws.fault(Step::Read, usize::MAX, HANGS);
    let left = Duration::from_secs(12);
    let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    let (answer, took) = within(&function, &event, left).await;
    answer.unwrap_err();
    assert!(took < left, "{took:?} of {left:?}");
}

#[tokio::test]
async fn a_connect_answers_in_time_when_the_other_versions_of_the_secret_hang() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[]).await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": "app-secret-old"}).to_string()));
    let shop = world.integration().insert().await;
    // It has the old secret in its cache.
    let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    within(&function, &event, Duration::from_mins(1)).await.0.unwrap_err();
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    for _ in 0..20 {
        world.aws.fault_at(Step::Secret, 2, HANGS);
    }
    let left = Duration::from_secs(12);
    let (_, took) = within(&function, &event, left).await;
    assert!(took < left, "{took:?} of {left:?}");
}

#[tokio::test]
async fn a_connect_that_is_stored_is_answered_in_time_although_the_event_bus_hangs() {
    let world = World::new().await;
    let function = by_the_real_clock(&world, "1s", &[BUS]).await;
    let shop = world.integration().status("error").insert().await;
    world.aws.fault(Step::Publish, usize::MAX, HANGS);
    let left = Duration::from_secs(8);
    let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    let (answer, took) = within(&function, &event, left).await;
    assert_eq!(answer.unwrap()["outcome"], "reconnected");
    assert!(took < left, "{took:?} of {left:?}");
}

#[tokio::test]
async fn a_connect_without_time_does_not_use_up_the_code() {
    for left in [0, 1, 3] {
        let world = World::new().await;
        let function = by_the_real_clock(&world, "1s", &[]).await;
        let shop = world.integration().insert().await;
        let event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
        let (answer, took) = within(&function, &event, Duration::from_secs(left)).await;
        assert_eq!(answer.unwrap_err().error_type(), "OutOfTime");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(world.refresh(event).await["outcome"], "reconnected", "the code is still good");
    }
}

#[tokio::test]
async fn a_connect_whose_exchange_got_no_answer_does_not_claim_that_the_code_is_still_good() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let never = get(|| async { std::future::pending::<String>().await });
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(never)).await });
    let world = World::with(&[("TIKTOK_AUTH_URL", &url)]).await;
    let function = by_the_real_clock(&world, "1s", &[]).await;
    let shop = world::shop("1", "7", "o-1");
    let (answer, _) = within(&function, &connect(&shop, "TTC_x"), Duration::from_millis(6_900)).await;
    let error = answer.unwrap_err().to_string();
    assert!(!error.contains("not used up"), "{error}");
}

// --- Logs -------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_connect_that_fails_leaves_exactly_one_error_line_with_both_ids() {
    async fn one_line(world: &World, shop: &Shop, event: &Value, kind: &str, left: TimeDelta) {
        let count = || {
            let lines = logs::lines_with("integration_id", &shop.integration_id);
            lines.iter().filter(|line| line["level"] == "ERROR" && line["team_id"] == shop.team_id).count()
        };
        let before = count();
        let error = world::invoke(&world.function, event, world.now() + left).await.unwrap_err();
        assert_eq!(error.error_type(), kind, "{error}");
        assert_eq!(
            count() - before,
            1,
            "{kind}: {:?}",
            logs::lines_with("integration_id", &shop.integration_id)
        );
    }
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let code = || world.tiktok.auth_code(&shop.open_id, "S");
    one_line(&world, &shop, &connect(&shop, "TTC_unknown"), "CodeRefused", minutes(15)).await;
    one_line(&world, &shop, &with_app(connect(&shop, &code()), "nobody"), "BadEvent", minutes(15)).await;
    let stranger = world.tiktok.auth_code("a-stranger", "S");
    one_line(&world, &shop, &connect(&shop, &stranger), "ConnectRefused", minutes(15)).await;
    one_line(&world, &shop, &connect(&shop, &code()), "OutOfTime", minutes(0)).await;
    world.aws.fault(Step::Read, 9, Fault::Refuse(400, "AccessDeniedException"));
    one_line(&world, &shop, &connect(&shop, &code()), "TableUnavailable", minutes(15)).await;
    world.aws.heal();
    world.aws.set_secret(None);
    world.pass(minutes(10));
    one_line(&world, &shop, &connect(&shop, &code()), "CredentialsUnavailable", minutes(15)).await;
}

#[tokio::test]
async fn an_auth_code_that_tiktok_repeats_in_its_message_is_neither_logged_nor_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let repeats = get(|Query(query): Query<HashMap<String, String>>, uri: axum::http::Uri| async move {
        let repeated = uri.query().unwrap_or_default().replace("grant_type", "type");
        let message = format!("no {} in {repeated}", query["auth_code"]);
        axum::Json(json!({"code": 36_004_004, "message": message}))
    });
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(repeats)).await });
    let world = World::with(&[("TIKTOK_AUTH_URL", &url)]).await;
    let shop = world::shop("1", "repeated", "o-1");
    let error = world.invoke(&connect(&shop, "TTC_a+b/c=é %20 d")).await.unwrap_err();
    assert_eq!(error.error_type(), "CodeRefused");
}

/// Not one of [`world::SECRETS`], so that a leak fails its own test only.
const CODE: &str = "ROW_Fe7xuQ";

async fn told_of(world: &World, events: Vec<String>, code: &str) -> Vec<String> {
    let mut told = Vec::new();
    for event in events {
        let answer = format!("{:?}", world.function.handle(&event, world.deadline()).await);
        if answer.contains(code) || logs::text().contains(code) {
            told.push(event);
        }
    }
    told
}

fn event_with(name: &str, value: Value) -> String {
    let mut event = json!({"action": "connect", "team_id": "1", "integration_id": "7", "auth_code": CODE});
    event[name] = value;
    event.to_string()
}

#[tokio::test]
async fn an_auth_code_in_an_event_that_is_refused_is_neither_logged_nor_answered() {
    let world = World::new().await;
    let whole = event_with("team_id", json!("1"));
    let events = vec![
        event_with("auth_code", json!([CODE])),
        event_with("auth_code", json!({CODE: 1})),
        event_with("team_id", json!([CODE])),
        event_with("state", json!(CODE)),
        event_with("code", json!(CODE)),
        event_with("replace", json!("yes")),
        whole.replace("\"auth_code\"", "\"auth_code\":\"x\",\"auth_code\""),
        whole.replace('}', ""),
        whole.replace(&format!("\"{CODE}\""), CODE),
        whole.clone(),
    ];
    assert_eq!(told_of(&world, events, CODE).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_writes_one_line_with_both_ids_for_a_refused_connect() {
    let world = World::new().await;
    world.go_by_the_system_clock();
    let shop = world.integration().insert().await;
    let mut api = RuntimeApi::start(Clock::system()).await.unwrap();
    let function = super::lambda::Function::start(&[
        ("AWS_LAMBDA_RUNTIME_API", &api.address.to_string()),
        ("AWS_ENDPOINT_URL", &format!("http://{}", world.aws.address)),
        ("TABLE_NAME", world::TABLE),
        ("APP_CREDENTIALS_SECRET_ID", "apps"),
        ("TIKTOK_AUTH_URL", &world.setting("TIKTOK_AUTH_URL")),
        ("LOG_LEVEL", "trace"),
    ]);
    let code = world.tiktok.auth_code("a-stranger", "S");
    let error = api.invoke(&connect(&shop, &code).to_string()).await.unwrap().unwrap_err();
    assert_eq!(error["errorType"], "ConnectRefused");
    let output = function.end();
    assert!(!output.contains(&code), "{output}");
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let with_both_ids = |line: &&Value| {
        line["level"] == "ERROR"
            && line["team_id"] == shop.team_id.as_str()
            && line["integration_id"] == shop.integration_id.as_str()
    };
    assert_eq!(lines.iter().filter(with_both_ids).count(), 1, "{lines:#?}");
}
