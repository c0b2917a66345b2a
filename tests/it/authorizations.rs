//! The newer authorization always wins: a refresh or a rescue of an older one gives way, whatever its expiry says, and of two
//! sellers who connect one row at once only one gets it.

use super::support::{
    Behaviour, Fault, Step, World, days, hours, logs, minutes,
    world::{self, Shop, Underway},
};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

const QUEUE: (&str, &str) = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn connect(shop: &Shop, code: &str) -> Value {
    json!({"action": "connect", "team_id": shop.team_id, "integration_id": shop.integration_id, "auth_code": code})
}

fn replace(shop: &Shop, code: &str) -> Value {
    let mut event = connect(shop, code);
    event["replace"] = json!(true);
    event
}

/// A row, and a refresh of it that waits before its save.
async fn refresh_before_its_save(world: &World) -> (Shop, Underway) {
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let refresh = world.refresh_until(Step::Save).await;
    (shop, refresh)
}

async fn holds(world: &World, shop: &Shop, open_id: &str) -> bool {
    let stored = world.stored_pair(shop).await;
    stored.is_some() && stored == world.tiktok.last_pair(open_id)
}

#[tokio::test]
async fn a_connect_of_another_seller_wins_over_a_refresh_in_flight() {
    for rotates in [true, false] {
        let world = World::new().await;
        if rotates {
            world.tiktok.single_use();
        }
        let (shop, refresh) = refresh_before_its_save(&world).await;
        let code = world.tiktok.auth_code("another", "Phở 24");
        assert_eq!(world.refresh(replace(&shop, &code)).await["outcome"], "replaced");
        let ended = refresh.go_on().await["integrations"][0].clone();
        assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("refreshed"), &json!("superseded")));
        assert!(holds(&world, &shop, "another").await);
        assert_eq!(world.text(&shop, "open_id").await.as_deref(), Some("another"));
        assert!(!world.row(&shop).await.contains_key("lock_owner"), "no lease stays behind");
    }
}

#[tokio::test]
async fn a_connect_of_the_same_seller_wins_over_a_refresh_whose_pair_expires_later() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let later = (world.now() + days(20)).timestamp();
    world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"access_token_expire_in": later}))]);
    let refresh = world.refresh_until(Step::Save).await;
    let code = world.tiktok.auth_code(&shop.open_id, "Bánh Mì 25");
    assert_eq!(world.refresh(connect(&shop, &code)).await["outcome"], "reconnected");
    assert_eq!(refresh.go_on().await["integrations"][0]["reason"], "superseded");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_connect_to_another_app_wins_over_a_refresh_in_flight() {
    let world = World::new().await;
    let apps = [(world::APP_KEY, world::APP_SECRET), ("second", "app-secret-2")];
    world.tiktok.set_apps(apps.map(|(key, secret)| world::app(key, secret)).to_vec());
    let apps = apps.map(|(key, secret)| json!({"app_key": key, "app_secret": secret}));
    world.aws.set_secret(Some(&json!({ "apps": apps }).to_string()));
    let (shop, refresh) = refresh_before_its_save(&world).await;
    let mut event = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "Bánh Mì 25"));
    event["app_key"] = json!("second");
    world.refresh(event).await;
    assert_eq!(refresh.go_on().await["integrations"][0]["reason"], "superseded");
    assert_eq!(world.text(&shop, "app_key").await.as_deref(), Some("second"));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

/// A rescue message of a refresh, as the queue holds it.
async fn rescued(world: &World) -> (Shop, String) {
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Refuse(400, "ThrottlingException"));
    assert_eq!(world.outcome().await["reason"], "rescued");
    world.aws.heal();
    (shop, world.aws.queued()[0].clone())
}

#[tokio::test]
async fn a_rescue_of_an_older_authorization_gives_way_whenever_it_is_delivered() {
    for of_the_version_before in [false, true] {
        let world = World::with(&[QUEUE]).await;
        world.tiktok.single_use();
        let (shop, message) = rescued(&world).await;
        if of_the_version_before {
            world.aws.receive();
            let mut message: Value = serde_json::from_str(&message).unwrap();
            let fields = message["rescue"].as_object_mut().unwrap();
            assert!(fields.remove("authorization_id").is_some() && fields.remove("app_key").is_some());
            world.aws.enqueue(&message.to_string());
        }
        let code = world.tiktok.auth_code("another", "Phở 24");
        world.refresh(replace(&shop, &code)).await;
        assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
        assert!(holds(&world, &shop, "another").await, "{of_the_version_before}");
        let lines = logs::lines_with("integration_id", &shop.integration_id);
        let saved = |line: &&Value| line["message"] == "saved a token pair from the rescue queue";
        assert_eq!(lines.iter().find(saved).unwrap()["reason"], "superseded");
    }
}

#[tokio::test]
async fn a_rescue_of_the_version_before_is_saved_into_the_row_it_came_from() {
    let world = World::with(&[QUEUE]).await;
    world.tiktok.single_use();
    let (shop, message) = rescued(&world).await;
    world.aws.receive();
    let mut message: Value = serde_json::from_str(&message).unwrap();
    for name in ["authorization_id", "app_key"] {
        message["rescue"].as_object_mut().unwrap().remove(name);
    }
    world.aws.enqueue(&message.to_string());
    assert_eq!(world.deliver().await["batchItemFailures"], json!([]));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn two_sellers_who_connect_a_row_without_a_known_seller_at_once_do_not_share_it() {
    // With and without an `open_id` in the answer that is stored first.
    for first in [Behaviour::Normal, Behaviour::With(json!({"open_id": null}))] {
        for exists in [true, false] {
            let world = World::new().await;
            let shop = if exists {
                world.integration().without("open_id").insert().await
            } else {
                world::shop("1", "7", "nobody")
            };
            let gate = world.aws.hold(Step::Save);
            let (function, deadline) = (world.function.clone(), world.deadline());
            let slow = connect(&shop, &world.tiktok.auth_code("second", "S"));
            let slow = tokio::spawn(async move { world::invoke(&function, &slow, deadline).await });
            gate.reached().await;
            let code = world.tiktok.auth_code_with("first", "F", first.clone());
            world.refresh(connect(&shop, &code)).await;
            gate.open();
            let error = slow.await.unwrap().unwrap_err();
            assert_eq!(error.error_type(), "ConnectRefused", "{first:?} {exists} {error}");
            assert!(holds(&world, &shop, "first").await);
        }
    }
}

#[tokio::test]
async fn a_connect_removes_what_the_answer_lacks() {
    let all = ["refresh_token", "refresh_token_expires_at", "open_id", "seller_name", "seller_base_region"];
    let world = World::new().await;
    let shop = world
        .integration()
        .refreshable_for(days(-1))
        .text("seller_name", "the former")
        .text("seller_base_region", "TH")
        .attribute("granted_scopes", AttributeValue::L(vec![text("the former's")]))
        .insert()
        .await;
    let lacks = json!({"refresh_token": null, "refresh_token_expire_in": null, "open_id": null, "seller_name": null,
                       "seller_base_region": null, "granted_scopes": null});
    let code = world.tiktok.auth_code_with("another", "Phở 24", Behaviour::With(lacks));
    assert_eq!(world.refresh(replace(&shop, &code)).await["outcome"], "replaced");
    let row = world.row(&shop).await;
    for name in all.into_iter().chain(["granted_scopes"]) {
        assert!(!row.contains_key(name), "{name} is the former seller's");
    }
    assert_eq!(world.text(&shop, "note").await.as_deref(), Some("the user's own"));
}

#[tokio::test]
async fn a_reconnect_without_a_refresh_expiry_is_refreshed_and_not_marked() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).refreshable_for(days(-1)).insert().await;
    let lacks = Behaviour::With(json!({"refresh_token_expire_in": null}));
    let code = world.tiktok.auth_code_with(&shop.open_id, "Bánh Mì 25", lacks);
    assert_eq!(world.refresh(connect(&shop, &code)).await["outcome"], "reconnected");
    world.pass(days(6));
    assert_eq!(world.outcome().await["outcome"], "refreshed");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn every_grant_writes_its_app_and_every_connect_a_generation_of_its_own() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.refresh_all().await;
    assert_eq!(world.text(&shop, "app_key").await.as_deref(), Some(world::APP_KEY));
    assert_eq!(world.text(&shop, "authorization_id").await, None, "a refresh makes no generation");
    let mut generations = Vec::new();
    for _ in 0..2 {
        let code = world.tiktok.auth_code(&shop.open_id, "Bánh Mì 25");
        world.refresh(connect(&shop, &code)).await;
        let generation = world.text(&shop, "authorization_id").await.unwrap();
        assert!(generation.len() == 64 && generation.chars().all(|c| c.is_ascii_hexdigit()), "{generation}");
        generations.push(generation);
    }
    assert_ne!(generations[0], generations[1]);
    world.pass(days(6));
    world.refresh_all().await;
    assert_eq!(
        world.text(&shop, "authorization_id").await,
        Some(generations[1].clone()),
        "a refresh keeps it"
    );
}

#[tokio::test]
async fn a_connect_reads_the_secret_again_when_tiktok_refuses_the_app() {
    let world = World::new().await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": "app-secret-old"}).to_string()));
    world.integration().insert().await;
    // A warm environment has the wrong secret in its cache.
    world.refresh_all().await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    let shop = world::shop("1", "7", "o-1");
    let answer = world.refresh(connect(&shop, &world.tiktok.auth_code("o-1", "S"))).await;
    assert_eq!(answer["outcome"], "connected");
    // An app that was added to the secret is found as well.
    let apps = json!({"apps": [{"app_key": world::APP_KEY, "app_secret": world::APP_SECRET},
                               {"app_key": "second", "app_secret": "app-secret-2"}]});
    world.aws.set_secret(Some(&apps.to_string()));
    world
        .tiktok
        .set_apps(vec![world::app(world::APP_KEY, world::APP_SECRET), world::app("second", "app-secret-2")]);
    let mut event = connect(&world::shop("1", "8", "o-2"), &world.tiktok.auth_code("o-2", "S"));
    event["app_key"] = json!("second");
    assert_eq!(world.refresh(event).await["outcome"], "connected");
}

#[tokio::test]
async fn verify_reads_the_secret_again_when_tiktok_refuses_the_signature() {
    let world = World::new().await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": "app-secret-old"}).to_string()));
    for _ in 0..5 {
        world.integration().insert().await;
    }
    world.refresh_all().await;
    world
        .aws
        .set_secret(Some(&json!({"app_key": world::APP_KEY, "app_secret": world::APP_SECRET}).to_string()));
    let reads = world.aws.count(Step::Secret);
    let answer = world.refresh(json!({"action": "verify"})).await;
    assert_eq!((&answer["counts"]["valid"], &answer["counts"]["failed"]), (&json!(5), &json!(0)), "{answer}");
    assert_eq!(world.aws.count(Step::Secret) - reads, 3, "once, with the versions beside it");
}

#[tokio::test]
async fn a_backfilled_attribute_does_not_drop_the_pair_in_hand() {
    for (name, value) in [
        ("open_id", Some(text("another"))),
        ("app_key", Some(text("another"))),
        ("authorization_id", Some(text("backfilled"))),
        ("authorization_id", None),
        ("status", Some(text("paused"))),
    ] {
        let world = World::new().await;
        world.tiktok.single_use();
        let mut new = world.integration().expiring_in(hours(1)).text("authorization_id", "the first");
        if matches!(name, "open_id" | "app_key") {
            new = new.without(name);
        }
        let shop = new.insert().await;
        let refresh = world.refresh_until(Step::Save).await;
        match value {
            Some(value) => world.write(&shop, &[(name, value)]).await,
            None => world.remove(&shop, name).await,
        }
        assert_eq!(refresh.go_on().await["integrations"][0]["outcome"], "refreshed", "{name}");
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{name}");
    }
}

#[tokio::test]
async fn an_implausible_expiry_loses_on_either_side() {
    let far = 4_841_467_787_i64;
    for (ours, theirs, is_superseded) in [(Some(far), 6, true), (None, 6, true), (Some(far), 60, false)] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        let with = Behaviour::With(json!({"access_token_expire_in": ours}));
        world.tiktok.next(&shop.open_id, [with]);
        let refresh = world.refresh_until(Step::Save).await;
        let at = (world.now() + days(theirs)).timestamp();
        let expiry = AttributeValue::N(at.to_string());
        // Another redemption of the same authorization, by somebody else.
        world
            .write(&shop, &[("access_token", text("TTP_theirs")), ("access_token_expires_at", expiry)])
            .await;
        let reason = refresh.go_on().await["integrations"][0]["reason"].clone();
        assert_eq!(reason == "superseded", is_superseded, "{ours:?} {theirs}");
    }
}

#[tokio::test]
async fn a_connect_answers_before_its_deadline_when_the_table_refuses() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    world.aws.fault(Step::Save, usize::MAX, Fault::Delay(std::time::Duration::from_secs(30)));
    let code = world.tiktok.auth_code(&shop.open_id, "S");
    let started = std::time::Instant::now();
    // 20 s for the call and 5 s for the save are reserved; 2.5 s remain for this test.
    let function = world.function_with_call_timeout("100ms").await;
    let deadline = world.now() + chrono::TimeDelta::milliseconds(7_500);
    let error = world::invoke(&function, &connect(&shop, &code), deadline).await.unwrap_err();
    assert!(started.elapsed() < std::time::Duration::from_millis(7_500), "{:?}", started.elapsed());
    assert_eq!(error.error_type(), "TableUnavailable");
    let function = world.function.clone();
    let code = world.tiktok.auth_code(&shop.open_id, "S");
    let error = world::invoke(&function, &connect(&shop, &code), world.now() + minutes(0)).await.unwrap_err();
    assert_eq!(error.error_type(), "OutOfTime");
}

#[tokio::test]
async fn a_refused_connect_leaves_one_line_with_both_ids() {
    let world = World::new().await;
    let shop = world.integration().insert().await;
    let mut unknown = connect(&shop, &world.tiktok.auth_code(&shop.open_id, "S"));
    unknown["app_key"] = json!("nobody");
    let stranger = connect(&shop, &world.tiktok.auth_code("a-stranger", "S"));
    for (n, event) in [connect(&shop, "TTC_unknown"), unknown, stranger].iter().enumerate() {
        world.invoke(event).await.unwrap_err();
        let lines = logs::lines_with("integration_id", &shop.integration_id);
        let refused = |line: &&Value| {
            line["level"] == "ERROR"
                && line["team_id"] == shop.team_id
                && line["message"]
                    .as_str()
                    .unwrap()
                    .starts_with("could not connect the TikTok Shop integration: ")
        };
        assert_eq!(lines.iter().filter(refused).count(), n + 1, "{event}");
    }
}

#[tokio::test]
async fn null_is_the_same_as_absent_in_every_condition() {
    let null = AttributeValue::Null(true);
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
        "refresh_token_notice",
        "error_code",
        "error_at",
        "consecutive_failures",
        "seller_name",
        "granted_scopes",
    ] {
        for rotates in [true, false] {
            let world = World::with(&[QUEUE, ("EVENT_BUS_NAME", "platform")]).await;
            if rotates {
                world.tiktok.single_use();
            }
            let shop = world.integration().expiring_in(hours(1)).insert().await;
            world.write(&shop, &[(name, null.clone())]).await;
            let by_summary = world.refresh(json!({"action": "status"})).await["counts"].clone();
            assert_eq!(by_summary["total"], 1);
            assert_eq!(world.outcome().await["outcome"], "refreshed", "{name}");
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{name}");
            let code = world.tiktok.auth_code(&shop.open_id, "S");
            world.write(&shop, &[(name, null.clone())]).await;
            assert_eq!(world.refresh(connect(&shop, &code)).await["outcome"], "reconnected", "{name}");
            assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "{name}");
            // Marks, warnings, clean-ups and notes go by conditions of their own.
            let soon = AttributeValue::N((world.now() + days(5)).timestamp().to_string());
            let hour = AttributeValue::N((world.now() + hours(1)).timestamp().to_string());
            world
                .write(
                    &shop,
                    &[
                        ("refresh_token_expires_at", soon),
                        ("access_token_expires_at", hour),
                        (name, null.clone()),
                    ],
                )
                .await;
            world.tiktok.next(&shop.open_id, [Behaviour::Code(1, "odd")]);
            let mut events = vec![json!({}), json!({"force": true}), json!({"action": "cleanup"})];
            for event in events.drain(..) {
                world.refresh(event).await;
            }
            assert!(!world.row(&shop).await.contains_key("lock_expires_at"), "{name}");
        }
    }
}
