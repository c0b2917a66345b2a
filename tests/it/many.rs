//! Many integrations at once: overlapping runs, order, bounds, selection, breakers.

use super::support::{Behaviour, NIGHT, Step, World, days, hours, logs, minutes, world};
use serde_json::{Value, json};
use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_at_once_call_tiktok_once_for_each_of_200_integrations() {
    let world = World::new().await;
    world.tiktok.single_use();
    let mut shops = Vec::new();
    for _ in 0..200 {
        shops.push(world.integration().expiring_in(hours(1)).insert().await);
    }
    let other = world.another_function().await;
    let event = json!({});
    let (one, two) = tokio::join!(
        world::invoke(&world.function, &event, world.deadline()),
        world::invoke(&other, &event, world.deadline())
    );
    let counts = [one.unwrap()["counts"].clone(), two.unwrap()["counts"].clone()];
    let sum = |name: &str| counts.iter().map(|counts| counts[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("refreshed"), 200);
    assert_eq!(sum("refreshed") + sum("skipped_locked") + sum("skipped_not_due"), 400, "{counts:?}");
    for shop in &shops {
        assert_eq!(world.tiktok.calls(&shop.open_id), 1);
        assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop));
    }
}

#[tokio::test]
async fn the_soonest_expiry_goes_first() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    for (id, expires_in) in [("c", hours(20)), ("a", hours(-1)), ("d", hours(40)), ("b", hours(2))] {
        world.integration().id(id).expiring_in(expires_in).insert().await;
    }
    world.integration().id("0-never").without("access_token_expires_at").insert().await;
    world.refresh_all().await;
    let order: Vec<String> = logs::lines_with("team_id", &world.team)
        .iter()
        .map(|line| line["integration_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(order, ["0-never", "a", "b", "c", "d"]);
}

#[tokio::test]
async fn no_more_refreshes_are_in_flight_than_allowed() {
    let world = World::with(&[("MAX_CONCURRENCY", "3")]).await;
    for _ in 0..6 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    let gates: Vec<_> = (0..6).map(|_| world.aws.hold(Step::Save)).collect();
    let (function, deadline) = (world.function.clone(), world.deadline());
    let run = tokio::spawn(async move { world::invoke(&function, &json!({}), deadline).await.unwrap() });
    for gate in &gates[..3] {
        gate.reached().await;
    }
    assert_eq!(world.tiktok.all_calls(), 3, "the others wait without a lease");
    assert_eq!(world.aws.count(Step::Acquire), 3);
    gates.iter().for_each(super::support::aws::Gate::open);
    assert_eq!(run.await.unwrap()["counts"]["refreshed"], 6);
}

#[tokio::test]
async fn tiktok_is_not_asked_faster_than_the_settings_say() {
    let world = World::with(&[("MAX_REQUESTS_PER_SECOND", "20")]).await;
    for _ in 0..12 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    let began = Instant::now();
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 12);
    // A burst of two, then one every 50 ms: a lower bound, which no slow machine can spoil.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_covers_the_team_or_the_integration_it_names_and_no_other() {
    let world = World::new().await;
    let mine = world.integration().team("1").id("7").expiring_in(hours(1)).insert().await;
    let sibling = world.integration().team("1").id("8").expiring_in(hours(1)).insert().await;
    let stranger = world.integration().team("10").id("7").expiring_in(hours(1)).insert().await;
    let calls = || [&mine, &sibling, &stranger].map(|shop| world.tiktok.calls(&shop.open_id));

    let one = world.refresh(json!({"team_id": 1, "integration_id": "7"})).await;
    assert_eq!((&one["counts"]["examined"], &one["team_id"], calls()), (&json!(1), &json!("1"), [1, 0, 0]));
    let team = world.refresh(json!({"team_id": "1"})).await;
    assert_eq!(
        (&team["counts"]["examined"], &team["counts"]["refreshed"], calls()),
        (&json!(2), &json!(1), [1, 1, 0])
    );
    assert_eq!(world.aws.count(Step::Scan), 0, "a team is a query");
}

#[tokio::test]
async fn an_integration_that_does_not_exist_is_named() {
    let world = World::new().await;
    let answer = world.refresh(json!({"team_id": 1, "integration_id": 99})).await;
    assert_eq!(answer["integrations"][0]["reason"], "not_found");
    assert_eq!(answer["integrations"][0]["message"], "there is no integration 99 of team 1 in the table");
    assert_eq!(world.refresh(json!({"team_id": 1})).await["counts"]["examined"], 0);
}

#[tokio::test]
async fn a_table_of_many_pages_is_read_to_its_end() {
    let world = World::new().await;
    let padding = "x".repeat(300_000);
    for _ in 0..20 {
        world.integration().text("padding", &padding).insert().await;
    }
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["examined"], 20);
    assert!(world.aws.count(Step::Scan) > 4, "a page holds 1 MB");
    assert_eq!(world.refresh(json!({"team_id": world.team})).await["counts"]["examined"], 20);
}

#[tokio::test]
async fn the_counts_add_up_on_a_mixed_night() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await;
    world.integration().insert().await;
    world.integration().status("paused").insert().await;
    world.integration().status("expired").insert().await;
    world.integration().expiring_in(hours(1)).leased_for(minutes(5)).insert().await;
    world.integration().without("status").insert().await;
    let unknown = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&unknown.open_id, [Behaviour::Garbled("?"), Behaviour::Garbled("?")]);
    let answer = world.refresh_all().await;
    assert_eq!(
        answer["counts"],
        json!({"examined": 7, "due": 3, "refreshed": 1, "would_refresh": 0, "skipped_not_due": 2, "skipped_locked": 1,
               "cannot_refresh": 1, "failed": 1, "outcome_unknown": 1, "deferred": 0, "queued": 0,
               "newly_marked": 0})
    );
    let outcomes: Vec<_> =
        answer["integrations"].as_array().unwrap().iter().map(|row| row["outcome"].clone()).collect();
    assert_eq!(
        outcomes,
        ["failed", "outcome_unknown", "cannot_refresh", "locked", "refreshed", "not_due", "not_due"]
    );
    let run = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    assert!(run.iter().any(|line| line["message"] == "TikTok token refresh run finished"), "{run:?}");
}

#[tokio::test]
async fn each_outcome_is_one_line_in_the_log() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let answer = world.refresh_all().await;
    let lines = logs::lines_with("integration_id", &shop.integration_id);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["message"], "TikTok token refresh completed successfully");
    assert_eq!(lines[0]["run_id"], answer["run_id"]);
    assert_eq!(lines[0]["team_id"], shop.team_id.as_str());
    assert_eq!(lines[0]["outcome"], "refreshed");
    assert_eq!(lines[0]["new_expires_at"], NIGHT + 7 * 24 * 3600);
    assert!(lines[0]["duration_ms"].is_u64());
}

#[tokio::test]
async fn the_nightly_run_tells_cloudwatch_how_the_table_is_after_it() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await; // Refreshed: 7 days.
    world.integration().expiring_in(days(5)).insert().await;
    world.integration().expiring_in(days(3)).refreshable_for(days(6)).insert().await;
    world.integration().expiring_in(hours(-1)).status("paused").insert().await; // Not in use.
    let stuck = world.integration().expiring_in(minutes(-1)).insert().await;
    world.tiktok.next(&stuck.open_id, [Behaviour::Code(5, "odd")]);
    let event: Value = serde_json::from_str(include_str!("../../events/scheduled.json")).unwrap();
    let answer = world.refresh(event).await;
    assert_eq!(answer["trigger"], "schedule");
    let metrics = &world.metrics()[0];
    assert_eq!(metrics["_aws"]["CloudWatchMetrics"][0]["Namespace"], "TikTokTokenRefresh");
    assert_eq!(metrics["run_id"], answer["run_id"]);
    let expected = [
        ("Examined", 5),
        ("Due", 2),
        ("Refreshed", 1),
        ("Failed", 1),
        ("RunCompleted", 1),
        ("SoonestAccessTokenExpirySeconds", -60),
        ("ExpiredAccessTokens", 1),
        ("RefreshTokensExpiringIn7Days", 1),
    ];
    for (name, value) in expected {
        assert_eq!(metrics[name], value, "{name}");
    }
    let warned = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let warned: Vec<_> = warned.iter().filter(|line| line["level"] == "WARN").collect();
    assert!(
        warned.iter().any(|line| line["refresh_token_expires_at"] == NIGHT + 6 * 24 * 3600),
        "{warned:?}"
    );
    // A manual run covers a part, so it says nothing of the whole.
    world.refresh(json!({"team_id": world.team})).await;
    assert!(world.metrics()[1].get("ExpiredAccessTokens").is_none());
}

#[tokio::test]
async fn when_every_seller_is_rejected_nobody_is_marked_and_the_run_fails() {
    let world = World::with(&[("MAX_CONCURRENCY", "2")]).await;
    let mut shops = Vec::new();
    for _ in 0..9 {
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        // No access token works either, so there is no witness.
        world.tiktok.end_access(&shop.open_id);
        shops.push(shop);
    }
    world.tiktok.always(Some(Behaviour::Code(36_004_005, "can not find related auth record")));
    let error = world.invoke(&json!({})).await.unwrap_err();
    assert_eq!(error.error_type(), "AppRefused");
    let calls = world.tiktok.all_calls();
    assert!(error.to_string().contains(&format!("TikTok rejected {calls} sellers")), "{error}");
    assert!((5..=6).contains(&calls), "the app is stopped: {calls}");
    let mut noted = 0;
    for shop in &shops {
        let row = world.row(shop).await;
        assert_eq!(row["status"].as_s().unwrap(), "active");
        assert!(!row.contains_key("lock_owner"));
        noted += u64::from(row.contains_key("error_code"));
    }
    assert_eq!(noted, calls, "TikTok's answer is noted in the rows that it was asked about, and in no other");
    let metrics = &world.metrics()[0];
    assert_eq!((&metrics["RunCompleted"], &metrics["AppsUnderSuspicion"]), (&json!(0), &json!(1)));
    // The app's key is put right: the next run serves them all.
    world.tiktok.always(None);
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 9);
}

#[tokio::test]
async fn one_success_proves_the_key_and_then_the_rejected_are_marked() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    let mut gone = Vec::new();
    for n in 0..4 {
        let shop = world.integration().expiring_in(minutes(n)).insert().await;
        world.tiktok.revoke(&shop.open_id);
        gone.push(shop);
    }
    world.integration().expiring_in(hours(2)).insert().await;
    for n in 0..6 {
        let shop = world.integration().expiring_in(hours(3) + minutes(n)).insert().await;
        world.tiktok.revoke(&shop.open_id);
        gone.push(shop);
    }
    let answer = world.refresh_all().await;
    assert_eq!(
        (&answer["counts"]["cannot_refresh"], &answer["counts"]["refreshed"]),
        (&json!(10), &json!(1))
    );
    for shop in &gone {
        assert_eq!(world.text(shop, "status").await.as_deref(), Some("error"));
    }
}

#[tokio::test]
async fn an_operators_forced_run_for_one_team_marks_too_once_the_key_is_proved() {
    let world = World::new().await;
    for _ in 0..6 {
        // Expired, so that it is no witness.
        let shop = world.integration().expiring_in(hours(-1)).insert().await;
        world.tiktok.revoke(&shop.open_id);
    }
    world.integration().expiring_in(days(6)).insert().await;
    let answer = world.refresh(json!({"team_id": world.team, "force": true})).await;
    let counts = &answer["counts"];
    assert_eq!(
        (&counts["cannot_refresh"], &counts["newly_marked"], &counts["refreshed"]),
        (&json!(6), &json!(6), &json!(1))
    );
}

#[tokio::test]
async fn when_tiktok_is_down_the_run_stops_asking_and_defers_the_rest() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    for _ in 0..25 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.tiktok.always(Some(Behaviour::Status(500, "", None)));
    let answer = world.refresh_all().await;
    let counts = &answer["counts"];
    assert_eq!((&counts["outcome_unknown"], &counts["deferred"]), (&json!(20), &json!(5)));
    assert_eq!(answer["complete"], false);
    assert_eq!(answer["integrations"][20]["reason"], "provider_down");
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let told =
        lines.iter().find(|line| line["reason"] == "provider_down" && line["level"] == "WARN").unwrap();
    assert_eq!(told["count"], 5);
}

#[tokio::test]
async fn without_a_connection_a_run_repeats_no_more_than_a_fifth_of_its_calls_beyond_the_first_few() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let world = World::with(&[("MAX_CONCURRENCY", "1"), ("TIKTOK_AUTH_URL", &url)]).await;
    for _ in 0..15 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    assert_eq!(world.refresh_all().await["counts"]["failed"], 15);
    let calls = world.metrics()[0]["ProviderLatency"].as_array().unwrap().len();
    assert!(calls > 15 && calls - 15 <= 10 + calls / 5, "{calls}");
}

#[tokio::test]
async fn a_run_finds_the_rate_that_tiktok_takes_and_refreshes_every_row() {
    let world = World::new().await;
    world.tiktok.single_use();
    world.tiktok.limit(NonZeroU32::new(10).unwrap(), 1);
    let mut shops = Vec::new();
    for _ in 0..60 {
        shops.push(world.integration().expiring_in(hours(1)).insert().await);
    }
    let answer = world.refresh_all().await;
    assert_eq!((&answer["counts"]["refreshed"], &answer["complete"]), (&json!(60), &json!(true)));
    for shop in &shops {
        assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop));
    }
    let slower = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let slower = slower.iter().filter(|line| line["message"].as_str().unwrap().contains("slowing down"));
    assert!(slower.count() > 0, "the log says so");
    // Each is refused once at the old rate, and a few times while the rate adapts.
    assert!((1..150).contains(&world.tiktok.refused()), "{}", world.tiktok.refused());
}

#[tokio::test]
async fn a_busy_tiktok_is_not_down() {
    let world = World::new().await;
    for _ in 0..25 {
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [Behaviour::Status(429, "", Some(0))]);
    }
    let answer = world.refresh_all().await;
    assert_eq!((&answer["counts"]["refreshed"], &answer["counts"]["deferred"]), (&json!(25), &json!(0)));
}

#[tokio::test]
async fn one_apps_trouble_is_not_the_others() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    world.aws.set_secret(Some(
        &json!({"apps": [
            {"app_key": world::APP_KEY, "app_secret": world::APP_SECRET},
            {"app_key": "second", "app_secret": "app-secret-wrong"},
        ]})
        .to_string(),
    ));
    world.tiktok.set_apps(vec![
        world::app(world::APP_KEY, world::APP_SECRET),
        world::app("second", "app-secret-right"),
    ]);
    let mut fine = Vec::new();
    for n in 0..5 {
        world.integration().text("app_key", "second").expiring_in(minutes(n)).insert().await;
        fine.push(world.integration().expiring_in(hours(1)).insert().await);
    }
    let error = world.invoke(&json!({})).await.unwrap_err().to_string();
    assert!(error.contains("app second: TikTok refuses the app itself"), "{error}");
    assert!(error.contains("5 refreshed, 3 failed, 2 deferred"), "{error}");
    for shop in &fine {
        assert_eq!(world.stored_pair(shop).await, world.granted_pair(shop));
    }
}

#[tokio::test]
async fn a_slow_app_does_not_hold_up_the_others() {
    let world = World::with(&[("MAX_CONCURRENCY", "4"), world::IMPATIENT]).await;
    let apps = json!([
        {"app_key": world::APP_KEY, "app_secret": world::APP_SECRET},
        {"app_key": "slow", "app_secret": "app-secret-slow"},
    ]);
    world.aws.set_secret(Some(&json!({ "apps": apps }).to_string()));
    world
        .tiktok
        .set_apps(vec![world::app(world::APP_KEY, world::APP_SECRET), world::app("slow", "app-secret-slow")]);
    for n in 0..6 {
        let slow = world.integration().text("app_key", "slow").expiring_in(minutes(n)).insert().await;
        world.tiktok.next(&slow.open_id, [Behaviour::Hang]);
        world.integration().expiring_in(hours(1)).insert().await;
    }
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 12);
    let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let refreshed = lines.iter().filter(|line| line["outcome"] == "refreshed");
    let seconds: Vec<_> = refreshed.map(|line| line["duration_ms"].as_u64().unwrap() / 1_000).collect();
    assert!(seconds.is_sorted() && seconds[..6] == [0; 6], "the slow app's rows end last: {seconds:?}");
}
