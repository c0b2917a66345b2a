//! The app credentials: read once, again when they have aged, again when TikTok refuses them.

use super::support::{Step, World, days, hours, minutes, world};
use serde_json::json;

fn secret(text: &str) -> String {
    json!({"app_key": world::APP_KEY, "app_secret": text}).to_string()
}

#[tokio::test]
async fn the_secret_is_read_once_per_warm_environment_and_again_after_five_minutes() {
    let world = World::new().await;
    for _ in 0..3 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.refresh_all().await;
    world.refresh_all().await;
    assert_eq!(world.aws.count(Step::Secret), 1);
    world.pass(minutes(5));
    world.refresh_all().await;
    assert_eq!(world.aws.count(Step::Secret), 2);
}

#[tokio::test]
async fn a_secret_that_was_rotated_meanwhile_is_read_again_on_refusal_and_serves_the_rest_of_the_run() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    let shop = world.integration().expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(hours(2)).insert().await;
    world.refresh_all().await;
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-new")]);
    world.aws.set_secret(Some(&secret("app-secret-new")));
    let answer = world.refresh(json!({"force": true})).await;
    assert_eq!(answer["counts"]["refreshed"], 2);
    assert_eq!(world.stored_pair(&shop).await, world.granted_pair(&shop));
    assert_eq!(world.aws.count(Step::Secret), 1 + 3, "with the versions beside it, once");
    assert_eq!(world.tiktok.all_calls(), 2 + 3, "only one call was refused");
}

#[tokio::test]
async fn a_refused_secret_is_read_again_once_with_the_versions_beside_it() {
    let world = World::new().await;
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-new")]);
    for _ in 0..20 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    world.invoke(&json!({})).await.unwrap_err();
    assert_eq!(world.aws.count(Step::Secret), 1 + 3, "and not for every integration");
}

#[tokio::test]
async fn an_app_secret_can_be_rotated_without_a_bad_night() {
    // Whether TikTok has changed before the secret's current version or after it.
    for stage in ["AWSPENDING", "AWSPREVIOUS"] {
        let world = World::with(&[("MAX_CONCURRENCY", "4")]).await;
        world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-other")]);
        world.aws.set_version(stage, Some(&secret("app-secret-other")));
        for _ in 0..12 {
            world.integration().expiring_in(hours(1)).insert().await;
        }
        let answer = world.refresh_all().await;
        assert_eq!(answer["counts"]["refreshed"], 12, "{stage}: {answer}");
        let lines = super::support::logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
        let told = |line: &serde_json::Value| {
            line["message"] == "TikTok accepts another version of the app's secret"
        };
        assert_eq!(lines.iter().filter(|line| told(line)).count(), 1);
    }
}

#[tokio::test]
async fn each_integration_is_refreshed_with_its_own_apps_credentials() {
    let world = World::new().await;
    world.aws.set_secret(Some(&json!({"apps": [
        {"app_key": "first", "app_secret": "app-secret-1"}, {"app_key": "second", "app_secret": "app-secret-2"},
    ]}).to_string()));
    world.tiktok.set_apps(vec![world::app("first", "app-secret-1"), world::app("second", "app-secret-2")]);
    world.integration().expiring_in(hours(1)).insert().await;
    world.integration().expiring_in(hours(1)).text("app_key", "second").insert().await;
    let unknown = world.integration().expiring_in(hours(1)).text("app_key", "third").insert().await;
    world.integration().expiring_in(days(6)).text("app_key", "third").insert().await;
    let answer = world.refresh_all().await;
    assert_eq!((&answer["counts"]["refreshed"], &answer["counts"]["failed"]), (&json!(2), &json!(1)));
    assert_eq!(answer["integrations"][0]["reason"], "unknown_app_key");
    assert!(!world.row(&unknown).await.contains_key("lock_owner"));
}

#[tokio::test]
async fn blanks_around_the_credentials_are_ignored_and_told_once_per_read() {
    let world = World::new().await;
    // As PowerShell and text editors store files, and as people paste.
    let pasted = json!({"app_key": format!("{}\n", world::APP_KEY), "app_secret": format!(" {}\r\n", world::APP_SECRET)});
    world.aws.set_secret(Some(&format!("\u{feff}{pasted}\n")));
    for _ in 0..3 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 3, "{answer}");
    let lines = super::support::logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
    let warnings: Vec<_> = lines.iter().filter(|line| line["source"] == "apps").collect();
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        (&warnings[0]["level"], &warnings[0]["message"]),
        (
            &json!("WARN"),
            &json!(
                "ignored blanks, line breaks or a byte order mark around app credentials: \
                 around the JSON, the app key, the app secret"
            )
        )
    );
}

#[tokio::test]
async fn blanks_around_the_two_variables_are_ignored_and_told() {
    let pasted_key = format!("\u{feff}{}\n", world::APP_KEY);
    let world = World::with(&[
        ("APP_CREDENTIALS_SECRET_ID", ""),
        ("TIKTOK_SHOP_APP_KEY", &pasted_key),
        ("TIKTOK_SHOP_APP_SECRET", world::APP_SECRET),
    ])
    .await;
    world.integration().expiring_in(hours(1)).insert().await;
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 1);
    let told = super::support::logs::lines_with("source", "TIKTOK_SHOP_APP_KEY and TIKTOK_SHOP_APP_SECRET");
    assert!(told[0]["message"].as_str().unwrap().ends_with(": around the app key"), "{told:?}");
}

#[tokio::test]
async fn two_variables_serve_instead_of_a_secret() {
    let world = World::with(&[
        ("APP_CREDENTIALS_SECRET_ID", ""),
        ("TIKTOK_SHOP_APP_KEY", world::APP_KEY),
        ("TIKTOK_SHOP_APP_SECRET", world::APP_SECRET),
    ])
    .await;
    world.integration().expiring_in(hours(1)).insert().await;
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 1);
    assert_eq!(world.aws.count(Step::Secret), 0);
}
