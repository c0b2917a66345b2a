//! Every way in which one integration's refresh can end.

use super::support::{Behaviour, NIGHT, Step, World, days, hours, minutes, world::IMPATIENT};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

fn assert_ended(integration: &Value, outcome: &str, reason: impl Into<Value>) {
    assert_eq!(integration["outcome"], outcome, "{integration}");
    assert_eq!(integration["reason"], reason.into(), "{integration}");
}

#[tokio::test]
async fn a_due_token_is_refreshed_and_the_new_pair_is_stored() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let before = world.stored_pair(&shop).await;

    let answer = world.refresh_all().await;

    let in_a_week = NIGHT + 7 * 24 * 3600;
    assert_eq!(answer["counts"]["refreshed"], 1);
    assert_eq!(answer["integrations"][0]["access_token_expires_at"], in_a_week);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_ne!(world.stored_pair(&shop).await, before);
    assert_eq!(world.number(&shop, "access_token_expires_at").await, Some(in_a_week));
    assert_eq!(world.number(&shop, "refresh_token_expires_at").await, Some(NIGHT + 365 * 24 * 3600));
    assert_eq!(world.number(&shop, "last_refreshed_at").await, Some(NIGHT));
    assert_eq!(world.text(&shop, "seller_name").await.as_deref(), Some("Bánh Mì 25"));
    assert_eq!(world.text(&shop, "seller_base_region").await.as_deref(), Some("VN"));
    assert_eq!(world.row(&shop).await["granted_scopes"].as_l().unwrap().len(), 2);
    assert_eq!(world.text(&shop, "note").await.as_deref(), Some("the user's own"), "survives every write");
    for gone in ["lock_owner", "lock_expires_at"] {
        assert!(!world.row(&shop).await.contains_key(gone), "{gone}");
    }
    assert_eq!(world.tiktok.posts(), 0, "TikTok answers a POST with 404");
}

#[tokio::test]
async fn a_success_removes_what_was_noted_of_earlier_failures() {
    let world = World::new().await;
    let failed =
        world.integration().expiring_in(hours(1)).text("error_code", "429").text("error_message", "busy");
    let shop = failed.number("error_at", NIGHT - 9).number("consecutive_failures", 3).insert().await;
    world.refresh_all().await;
    let row = world.row(&shop).await;
    for gone in ["error_code", "error_message", "error_at", "consecutive_failures"] {
        assert!(!row.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn a_refresh_takes_two_writes_and_one_call() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.refresh_all().await;
    assert_eq!((world.aws.count(Step::Acquire), world.aws.count(Step::Save)), (1, 1));
    assert_eq!((world.aws.writes(), world.tiktok.calls(&shop.open_id)), (2, 1));
}

#[tokio::test]
async fn a_fresh_token_is_left_alone() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(days(6)).insert().await;
    assert_ended(&world.outcome().await, "not_due", Value::Null);
    assert_eq!((world.aws.writes(), world.tiktok.calls(&shop.open_id)), (0, 0));
}

#[tokio::test]
async fn the_window_is_refresh_ahead_to_the_second() {
    for (setting, ahead) in [("48h", hours(48)), ("5m", minutes(5))] {
        let world = World::with(&[("REFRESH_AHEAD", setting)]).await;
        let inside = world.integration().expiring_in(ahead).insert().await;
        let outside = world.integration().expiring_in(ahead + chrono::TimeDelta::seconds(1)).insert().await;
        world.refresh_all().await;
        assert_eq!(
            (world.tiktok.calls(&inside.open_id), world.tiktok.calls(&outside.open_id)),
            (1, 0),
            "{setting}"
        );
    }
}

#[tokio::test]
async fn an_expiry_that_cannot_be_true_counts_as_due() {
    let world = World::new().await;
    for absurd in [0, -1, NIGHT + 31 * 24 * 3600, 4_841_467_787] {
        world.integration().number("access_token_expires_at", absurd).insert().await;
    }
    world.integration().without("access_token_expires_at").insert().await;
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 5);
}

#[tokio::test]
async fn a_due_row_without_an_access_token_gets_one() {
    let world = World::new().await;
    let never = world.integration().without("access_token").without("access_token_expires_at");
    let shop = never.without("refresh_token_expires_at").insert().await;
    assert_ended(&world.outcome().await, "refreshed", Value::Null);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn another_attempts_lease_is_respected() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).leased_for(minutes(10)).insert().await;
    assert_ended(&world.outcome().await, "locked", "leased");
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
    assert_eq!(world.text(&shop, "lock_owner").await.as_deref(), Some("somebody-else"));
}

#[tokio::test]
async fn the_users_own_status_is_left_alone_even_by_force() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(-1)).status("paused").insert().await;
    assert_ended(&world.outcome().await, "not_due", "status");
    world.refresh(json!({"force": true})).await;
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
}

#[tokio::test]
async fn a_row_marked_error_waits_for_the_seller_or_an_operator() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(-1)).status("error").insert().await;
    assert_ended(&world.outcome().await, "cannot_refresh", "marked");
    assert_eq!((world.aws.writes(), world.tiktok.calls(&shop.open_id)), (0, 0));

    let forced = world.refresh(json!({"team_id": shop.team_id, "force": true})).await;
    assert_eq!(forced["counts"]["refreshed"], 1);
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn force_takes_tokens_that_are_not_due() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(days(6)).insert().await;
    let answer = world.refresh(json!({"force": true})).await;
    assert_eq!((&answer["counts"]["refreshed"], &answer["force"]), (&json!(1), &json!(true)));
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn only_two_codes_mark_a_row() {
    for code in [36_004_001, 36_004_005] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.end_access(&shop.open_id);
        world.tiktok.next(&shop.open_id, [Behaviour::Code(code, "gone")]);
        let ended = world.outcome().await;
        assert_ended(&ended, "cannot_refresh", "reauthorize");
        assert_eq!(ended["tiktok_code"], code);
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
        assert_eq!(world.text(&shop, "error_code").await, Some(code.to_string()));
        assert!(world.text(&shop, "error_message").await.unwrap().contains("must connect again"));
        assert_eq!(world.number(&shop, "error_at").await, Some(NIGHT));
        assert!(!world.row(&shop).await.contains_key("lock_owner"));
    }
}

#[tokio::test]
async fn a_refresh_token_past_its_expiry_is_marked_by_tiktoks_word_which_is_asked_for_once() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(days(3)).refreshable_for(days(-1)).insert().await;
    world.tiktok.revoke(&shop.open_id);
    assert_ended(&world.outcome().await, "not_due", Value::Null);
    assert_eq!(world.tiktok.all_calls(), 0, "its access token still works, for all that the row says");
    world.pass(days(2));
    assert_ended(&world.outcome().await, "cannot_refresh", "reauthorize");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
    assert_eq!(world.text(&shop, "error_code").await.as_deref(), Some("36004005"));
    assert_ended(&world.outcome().await, "cannot_refresh", "marked");
    assert_eq!(world.tiktok.all_calls(), 1);
}

#[tokio::test]
async fn a_row_without_a_refresh_token_is_named_and_not_touched() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).without("refresh_token").insert().await;
    assert_ended(&world.outcome().await, "cannot_refresh", "refresh_token_missing");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
}

#[tokio::test]
async fn another_sellers_answer_is_kept_but_marked() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let other = json!({"open_id": "another-seller", "seller_name": "Somebody Else"});
    world.tiktok.next(&shop.open_id, [Behaviour::With(other.clone()), Behaviour::With(other)]);
    assert_ended(&world.outcome().await, "cannot_refresh", "identity_mismatch");
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop), "no answer is dropped");
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("error"));
    assert_eq!(world.text(&shop, "error_code").await.as_deref(), Some("identity_mismatch"));
    assert_eq!(
        world.text(&shop, "open_id").await,
        Some(shop.open_id.clone()),
        "the row keeps its own seller"
    );
    // So it shows again, and force cannot unlock another team's shop.
    let forced = world.refresh(json!({"team_id": shop.team_id, "force": true})).await;
    assert_ended(&forced["integrations"][0], "cannot_refresh", "identity_mismatch");
}

#[tokio::test]
async fn any_other_code_fails_without_marking() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.always(Some(Behaviour::Code(36_009_999, "something new")));
    let ended = world.outcome().await;
    assert_ended(&ended, "failed", "refused");
    assert_eq!(ended["tiktok_code"], 36_009_999);
    assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
    assert_eq!(world.number(&shop, "consecutive_failures").await, Some(1));
    assert!(!world.row(&shop).await.contains_key("lock_owner"), "the next run need not wait");
    world.refresh_all().await;
    assert_eq!(world.number(&shop, "consecutive_failures").await, Some(2));
}

#[tokio::test]
async fn a_tiktok_that_stays_busy_is_asked_three_times_in_each_of_five_rounds() {
    for busy in [
        Behaviour::Status(429, "too many requests", None),
        Behaviour::Status(429, "too many requests", Some(0)),
        Behaviour::Status(503, "<html>", Some(0)),
        Behaviour::Code(36_009_002, "rate limit"),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.always(Some(busy.clone()));
        assert_ended(&world.outcome().await, "failed", "provider_busy");
        assert_eq!(world.tiktok.calls(&shop.open_id), 15, "{busy:?}");
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
        assert_eq!(world.text(&shop, "error_reason").await.as_deref(), Some("provider_busy"));
        assert_eq!(world.number(&shop, "consecutive_failures").await, Some(1), "one night, one failure");
        assert!(!world.row(&shop).await.contains_key("lock_owner"), "the next run need not wait");
    }
}

#[tokio::test]
async fn a_busy_tiktok_is_asked_again_until_it_answers() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, vec![Behaviour::Status(429, "", Some(0)); 13]);
    assert_ended(&world.outcome().await, "refreshed", Value::Null);
    assert_eq!(world.tiktok.calls(&shop.open_id), 14);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_retry_after_beyond_the_time_left_ends_its_own_row_alone() {
    for retry_after in [16 * 60, u64::MAX] {
        let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
        let busy = world.integration().expiring_in(hours(1)).insert().await;
        let fine = world.integration().expiring_in(hours(2)).insert().await;
        world.tiktok.next(&busy.open_id, vec![Behaviour::Status(429, "", Some(retry_after)); 20]);
        let answer = world.refresh_all().await;
        assert_eq!(world.tiktok.calls(&busy.open_id), 1);
        assert_ended(&answer["integrations"][0], "failed", "provider_busy");
        assert_eq!(world.stored_pair(&fine).await, world.granted_pair(&fine));
    }
}

#[tokio::test]
async fn an_internal_error_of_tiktoks_waits_for_the_next_run() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.always(Some(Behaviour::Code(36_009_003, "internal error")));
    assert_ended(&world.outcome().await, "failed", "provider_error");
    assert_eq!(world.tiktok.calls(&shop.open_id), 1, "it may have acted");
    assert_eq!(world.text(&shop, "error_code").await.as_deref(), Some("36009003"));
}

#[tokio::test]
async fn a_gateways_error_is_no_answer_so_tiktok_is_asked_once_more() {
    for status in [500, 502, 504, 524] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [Behaviour::StatusAfterRedeeming(status)]);
        assert_ended(&world.outcome().await, "refreshed", Value::Null);
        assert_eq!(world.tiktok.calls(&shop.open_id), 2, "{status}");
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    }
}

#[tokio::test]
async fn two_gateway_errors_leave_the_lease_so_that_the_next_run_knows() {
    for status in [500, 502, 504] {
        let world = World::new().await;
        world.tiktok.single_use();
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.tiktok.next(&shop.open_id, [Behaviour::StatusAfterRedeeming(status)]);
        world.tiktok.always(Some(Behaviour::Status(status, "<html>", None)));
        assert_ended(&world.outcome().await, "outcome_unknown", "no_readable_answer");
        assert_eq!(world.tiktok.all_calls(), 2, "{status}");
        let lease = world.number(&shop, "lock_expires_at").await;
        assert_eq!(lease, Some(NIGHT + 15 * 60 + 60), "the lease is left to run out");
        world.tiktok.always(None);
        world.pass(minutes(17));
        assert_ended(&world.outcome().await, "cannot_refresh", "probably_lost_answer");
    }
}

#[tokio::test]
async fn a_tiktok_that_cannot_be_reached_is_tried_three_times() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::with(&[("TIKTOK_AUTH_URL", &format!("http://{nobody}"))]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let ended = world.outcome().await;
    assert_ended(&ended, "failed", "not_connected");
    assert!(ended["message"].as_str().unwrap().contains("no request was sent"), "{ended}");
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
    assert_eq!(world.metrics()[0]["ProviderLatency"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_secrets() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let elsewhere = World::new().await;
    let url = format!("http://{}/api/v2/token/refresh", elsewhere.aws.address);
    world.tiktok.next(&shop.open_id, [Behaviour::Redirect(url)]);
    let ended = world.outcome().await;
    assert_ended(&ended, "failed", "refused");
    assert_eq!(ended["tiktok_code"], 307);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_once_more_and_then_unknown() {
    let lost = [
        Behaviour::Hang,
        Behaviour::Garbled("{\"code\":0,\"da"),
        Behaviour::Garbled("{\"code\":0}"),
        Behaviour::Huge,
    ];
    for behaviour in lost {
        let world = World::with(&[IMPATIENT]).await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        let before = world.stored_pair(&shop).await;
        world.tiktok.next(&shop.open_id, [behaviour.clone(), behaviour.clone()]);
        assert_ended(&world.outcome().await, "outcome_unknown", "no_readable_answer");
        assert_eq!(world.tiktok.calls(&shop.open_id), 2, "{behaviour:?}");
        assert_eq!(world.stored_pair(&shop).await, before);
        assert_eq!(world.text(&shop, "status").await.as_deref(), Some("active"));
        assert_eq!(world.number(&shop, "consecutive_failures").await, Some(1));
        let lease = world.number(&shop, "lock_expires_at").await;
        assert_eq!(lease, Some(NIGHT + 15 * 60 + 60), "the lease is left to run out");

        // The next run after that finds the row and tries again.
        world.pass(minutes(17));
        assert_ended(&world.outcome().await, "refreshed", Value::Null);
    }
}

#[tokio::test]
async fn an_answer_of_any_size_is_read_to_64_kib_and_no_further() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::Huge, Behaviour::Huge]);
    let message = world.outcome().await["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the response exceeds 65536 bytes"), "{message}");
}

#[tokio::test]
async fn an_answer_lost_once_is_made_good_by_asking_again() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::CutAfterRedeeming]);
    assert_ended(&world.outcome().await, "refreshed", Value::Null);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn a_lost_answer_to_a_single_use_token_says_what_it_is() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.next(&shop.open_id, [Behaviour::CutAfterRedeeming]);
    let ended = world.outcome().await;
    assert_ended(&ended, "cannot_refresh", "probably_lost_answer");
    assert!(world.text(&shop, "error_message").await.unwrap().contains("probably a lost response"));
}

#[tokio::test]
async fn a_new_refresh_token_replaces_the_old_one() {
    let world = World::new().await;
    world.tiktok.single_use();
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let before = world.text(&shop, "refresh_token").await;
    world.refresh_all().await;
    assert_ne!(world.text(&shop, "refresh_token").await, before);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
}

#[tokio::test]
async fn an_answer_without_a_refresh_token_leaves_the_old_one() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let before = world.text(&shop, "refresh_token").await;
    let silent = json!({"refresh_token": null, "refresh_token_expire_in": null});
    world.tiktok.next(&shop.open_id, [Behaviour::With(silent)]);
    assert_ended(&world.outcome().await, "refreshed", Value::Null);
    assert_eq!(world.text(&shop, "refresh_token").await, before);
    assert_eq!(world.number(&shop, "refresh_token_expires_at").await, Some(NIGHT + 300 * 24 * 3600));
}

#[tokio::test]
async fn an_absurd_expiry_is_stored_as_given_and_counts_as_due() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    let absurd = [json!(4_841_467_787_i64), json!(0), json!(null)];
    let expected = [Some(4_841_467_787), Some(0), None];
    for (given, stored) in absurd.into_iter().zip(expected) {
        world.tiktok.next(&shop.open_id, [Behaviour::With(json!({"access_token_expire_in": given}))]);
        assert_ended(&world.outcome().await, "refreshed", Value::Null);
        assert_eq!(world.number(&shop, "access_token_expires_at").await, stored);
        assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    }
}

#[tokio::test]
async fn a_garbled_row_is_named_and_the_others_are_served() {
    let world = World::new().await;
    let text = AttributeValue::S("TTP_tomorrow".into());
    let garbled = world.integration().attribute("access_token_expires_at", text).insert().await;
    let no_status = world.integration().without("status").insert().await;
    let healthy = world.integration().expiring_in(hours(1)).insert().await;
    let answer = world.refresh_all().await;
    assert_eq!((&answer["counts"]["failed"], &answer["counts"]["refreshed"]), (&json!(2), &json!(1)));
    let named: Vec<&Value> = answer["integrations"].as_array().unwrap().iter().take(2).collect();
    for (shop, said) in [
        (&garbled, "access_token_expires_at is a string, expected a number of Unix seconds"),
        (&no_status, "status is missing, expected a string such as \"active\""),
    ] {
        let found =
            named.iter().find(|named| named["integration_id"] == shop.integration_id.as_str()).unwrap();
        assert_ended(found, "failed", "malformed_row");
        assert_eq!(found["message"], said);
        assert_eq!(
            super::support::logs::lines_with("integration_id", &shop.integration_id)[0]["level"],
            "ERROR"
        );
    }
    assert_eq!(world.stored_pair(&healthy).await, world.granted_pair(&healthy));
}

#[tokio::test]
async fn a_row_whose_tokens_are_garbled_is_let_go_again() {
    let world = World::new().await;
    let number = AttributeValue::N("7".into());
    let shop = world.integration().expiring_in(hours(1)).attribute("access_token", number).insert().await;
    assert_ended(&world.outcome().await, "failed", "malformed_row");
    assert_eq!(world.tiktok.calls(&shop.open_id), 0);
    assert!(!world.row(&shop).await.contains_key("lock_owner"));
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_touches_nothing() {
    let world = World::new().await;
    world.integration().id("a-due").expiring_in(minutes(90)).insert().await;
    world.integration().id("b-dead").expiring_in(hours(-2)).insert().await;
    world.integration().id("c-absurd").number("access_token_expires_at", 0).insert().await;
    world.integration().id("d-locked").expiring_in(hours(1)).leased_for(minutes(5)).insert().await;
    world.integration().id("e-fresh").insert().await;
    world.integration().id("f-old").refreshable_for(days(-1)).insert().await;
    world.integration().id("g-old-due").expiring_in(hours(2)).refreshable_for(days(-1)).insert().await;
    world.integration().id("h-marked").status("expired").insert().await;
    let healing = world.integration().id("i-healing").status("error").text("error_reason", "reauthorize");
    healing.text("rejected_by", "0123456789ab").insert().await;
    let before = world.everything().await;

    let answer = world.refresh(json!({"dry_run": true})).await;

    assert_eq!(world.everything().await, before);
    assert_eq!((world.aws.writes(), world.tiktok.all_calls(), world.tiktok.open_api_calls()), (0, 0, 0));
    assert_eq!(world.aws.count(Step::Secret), 1, "which marks were earned by other credentials");
    assert_eq!(answer["dry_run"], true);
    let said: Vec<_> = answer["integrations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            [&row["integration_id"], &row["outcome"], &row["reason"], &row["message"]]
                .map(|v| v.as_str().unwrap_or("-").to_owned())
        })
        .collect();
    assert_eq!(
        said,
        [
            [
                "h-marked",
                "cannot_refresh",
                "marked",
                "the row is marked \"expired\": the seller must connect again"
            ],
            ["d-locked", "locked", "leased", "another attempt holds the lease, which expires in 5m"],
            ["a-due", "would_refresh", "access_token_expiring", "the access token expires in 1h 30m"],
            ["b-dead", "would_refresh", "access_token_expiring", "the access token expired 2h ago"],
            ["c-absurd", "would_refresh", "expiry_not_believed", "the stored expiry, 0, is implausible"],
            ["g-old-due", "would_refresh", "access_token_expiring", "the access token expires in 2h"],
            [
                "i-healing",
                "would_refresh",
                "credentials_changed",
                "the app's credentials have changed since the row was marked"
            ],
            ["e-fresh", "not_due", "-", "-"],
            ["f-old", "not_due", "-", "-"],
        ]
    );
}

#[tokio::test]
async fn what_there_is_no_time_for_is_deferred() {
    let world = World::new().await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    // Time for the call, but not for the call and a save.
    let deadline = world.now() + chrono::TimeDelta::seconds(5);
    let answer = super::support::world::invoke(&world.function, &json!({}), deadline).await.unwrap();
    assert_ended(&answer["integrations"][0], "deferred", "out_of_time");
    assert_eq!((&answer["complete"], &answer["counts"]["deferred"]), (&json!(false), &json!(1)));
    assert_eq!((world.aws.writes(), world.tiktok.calls(&shop.open_id)), (0, 0));
    assert_eq!(world.metrics()[0]["RunCompleted"], 0);
}
