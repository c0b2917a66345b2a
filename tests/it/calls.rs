//! How often the outside is asked: a refresh is two writes and one call, a survey one request a page, and a warm
//! environment reads the secret once.

use super::support::{Step, World, hours, world::TABLE};

/// Pages that a scan in the function's segments has.
async fn pages(world: &World) -> usize {
    let mut pages = 0;
    for segment in 0..4 {
        let mut start = None;
        loop {
            let scan = world.table.scan().table_name(TABLE).segment(segment).total_segments(4).limit(250);
            let page = scan.set_exclusive_start_key(start).send().await.unwrap();
            pages += 1;
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                break;
            }
        }
    }
    pages
}

#[tokio::test]
async fn a_refresh_is_two_writes_and_one_call_and_nothing_else() {
    let world = World::new().await;
    for _ in 0..40 {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    for _ in 0..10 {
        world.integration().insert().await;
    }
    let answer = world.refresh_all().await;
    assert_eq!(answer["counts"]["refreshed"], 40);
    assert_eq!((world.aws.count(Step::Acquire), world.aws.count(Step::Save)), (40, 40));
    assert_eq!(world.tiktok.all_calls(), 40);
    // The scan of four segments and the secret are the run's own.
    assert_eq!(world.aws.requests(), 2 * 40 + 4 + 1);
    assert_eq!((world.tiktok.posts(), world.tiktok.open_api_calls()), (0, 0));
}

#[tokio::test]
async fn a_survey_is_one_request_for_each_page_of_each_segment() {
    let world = World::new().await;
    let padding = "x".repeat(300_000);
    for _ in 0..24 {
        world.integration().text("padding", &padding).insert().await;
    }
    let pages = pages(&world).await;
    assert!(pages > 4, "a page holds 1 MB");
    world.refresh_all().await;
    assert_eq!(world.aws.count(Step::Scan), pages);
    // Nothing was due: the secret, and not one write.
    assert_eq!(world.aws.requests(), pages + 1);
    assert_eq!(world.tiktok.all_calls(), 0);
}

#[tokio::test]
async fn a_page_has_so_many_rows_at_most_however_small_they_are() {
    let world = World::new().await;
    for _ in 0..1_100 {
        world.integration().insert().await;
    }
    let pages = pages(&world).await;
    assert!(pages > 4, "a segment has more than 250 rows");
    world.refresh_all().await;
    assert_eq!(world.aws.count(Step::Scan), pages);
}

#[tokio::test]
async fn a_warm_environment_reads_the_secret_once_however_many_runs_and_refreshes() {
    let world = World::new().await;
    for night in 1..=3 {
        for _ in 0..5 {
            world.integration().expiring_in(hours(1)).insert().await;
        }
        world.refresh_all().await;
        assert_eq!(world.tiktok.all_calls(), 5 * night);
    }
    assert_eq!(world.aws.count(Step::Secret), 1);
    // Another environment reads it for itself.
    let another = world.another_function().await;
    super::support::world::invoke(&another, &serde_json::json!({}), world.deadline()).await.unwrap();
    assert_eq!(world.aws.count(Step::Secret), 2);
    assert_eq!(world.aws.writes(), 2 * 15);
}
