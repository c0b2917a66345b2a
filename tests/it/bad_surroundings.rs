//! The run as a whole cannot be done: one clear error, and nothing lost.

use super::support::{Behaviour, Fault, Step, World, hours, world};
use lambda_runtime::Diagnostic;
use serde_json::json;

async fn refusal(world: &World) -> (String, String) {
    let error = world.invoke(&json!({})).await.expect_err("the run as a whole cannot be done");
    let Diagnostic { error_type, error_message } = error.into();
    (error_type, error_message)
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let world = World::with(&[("TABLE_NAME", "no-such-table")]).await;
    let (kind, said) = refusal(&world).await;
    assert_eq!(kind, "TableUnavailable");
    assert_eq!(
        said,
        "the table no-such-table does not exist in this account and region: \
         check TABLE_NAME and AWS_REGION"
    );
    assert_eq!(world.metrics()[0]["RunCompleted"], 0);
}

#[tokio::test]
async fn a_table_that_may_not_be_read_is_named() {
    let world = World::new().await;
    world.aws.fault(Step::Scan, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    let (kind, said) = refusal(&world).await;
    assert_eq!(kind, "TableUnavailable");
    assert!(said.contains("allow dynamodb:Scan"), "{said}");
}

#[tokio::test]
async fn a_throttled_page_is_asked_for_again() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await;
    // Each of four segments is refused beyond what the SDK tries by itself.
    world.aws.fault(Step::Scan, 12, Fault::Refuse(400, "ProvisionedThroughputExceededException"));
    assert_eq!(world.refresh_all().await["counts"]["refreshed"], 1);
}

#[tokio::test]
async fn a_secret_that_is_missing_or_malformed_is_named_and_nothing_is_touched() {
    for (secret, expected) in [
        (None, "the secret apps does not exist or has no value: check APP_CREDENTIALS_SECRET_ID"),
        (Some("app-secret-plain"), "the secret apps is not JSON: expected {\"app_key\""),
        (Some(r#"{"app_key":"29a39d"}"#), "the secret apps has no app_secret: expected"),
        (Some(r#"{"apps":[]}"#), "the secret apps has an empty list of apps: expected"),
    ] {
        let world = World::new().await;
        let shop = world.integration().expiring_in(hours(1)).insert().await;
        world.aws.set_secret(secret);
        let (kind, said) = refusal(&world).await;
        assert_eq!(kind, "CredentialsUnavailable");
        assert!(said.contains(expected), "{said}");
        assert_eq!((world.aws.writes(), world.tiktok.calls(&shop.open_id)), (0, 0));
    }
}

#[tokio::test]
async fn a_secret_that_may_not_be_read_is_named() {
    let world = World::new().await;
    world.aws.fault(Step::Secret, usize::MAX, Fault::Refuse(400, "AccessDeniedException"));
    let (_, said) = refusal(&world).await;
    assert!(said.contains("allow secretsmanager:GetSecretValue"), "{said}");
}

#[tokio::test]
async fn a_wrong_app_secret_fails_the_run_after_three_refusals_and_touches_no_row() {
    let world = World::with(&[("MAX_CONCURRENCY", "1")]).await;
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-rotated")]);
    let mut shops = Vec::new();
    for _ in 0..6 {
        shops.push(world.integration().expiring_in(hours(1)).insert().await);
    }
    let before = world.everything().await;
    let (kind, said) = refusal(&world).await;
    assert_eq!(kind, "AppRefused");
    assert!(said.contains("app 29a39d: TikTok refuses the app itself: 36004002"), "{said}");
    assert!(said.contains("check the app key, the app secret"), "{said}");
    assert!(said.ends_with("0 refreshed, 3 failed, 3 deferred"), "{said}");
    assert_eq!(world.tiktok.all_calls(), 3);
    assert_eq!(world.everything().await, before);
}

#[tokio::test]
async fn refused_credentials_fail_the_run_even_if_there_was_but_one_integration() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await;
    world.tiktok.always(Some(Behaviour::Code(36_009_033, "The IP is not in the 'allow list'")));
    let (kind, said) = refusal(&world).await;
    assert_eq!(kind, "AppRefused");
    assert!(said.contains("IP allow list"), "{said}");
}

#[tokio::test]
async fn a_bad_event_is_refused_by_name_before_anything_is_read() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await;
    for (event, said) in [
        (json!({"team_id": true}), "bad event: team_id: invalid type: boolean `true`"),
        (json!({"team": 1}), "bad event: team: unknown field `team`"),
        (json!({"action": "delete"}), "bad event: action: got \"delete\""),
        (json!([1]), "bad event: expected a JSON object"),
    ] {
        let error = world.invoke(&event).await.unwrap_err();
        assert_eq!(error.error_type(), "BadEvent");
        assert!(error.to_string().starts_with(said), "{error}");
    }
    assert_eq!((world.aws.count(Step::Scan), world.aws.writes(), world.tiktok.all_calls()), (0, 0, 0));
}
