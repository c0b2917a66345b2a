//! What happens at the limits of time, of connections and of what AWS gives.

use super::support::{Behaviour, Fault, Step, World, aws::Gate, days, hours, logs, silent::Proxy, world};
use aws_config::Region;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// For tests that let it run out: the function reads until 3 s before its deadline, and the SDK repeats a request after 3 s.
const LITTLE_TIME: TimeDelta = TimeDelta::milliseconds(5_900);

async fn with_little_time(world: &World, event: Value) -> Value {
    world::invoke(&world.function, &event, world.now() + LITTLE_TIME).await.unwrap()
}

#[tokio::test]
async fn a_table_that_does_not_answer_ends_every_action_before_its_deadline() {
    let world = World::new().await;
    world.integration().expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Scan, usize::MAX, Fault::Hold(Gate::new()));
    let answer = |action: &'static str| with_little_time(&world, json!({ "action": action }));
    let (refresh, verify, cleanup, status) =
        tokio::join!(answer("refresh"), answer("verify"), answer("cleanup"), answer("status"));
    for answer in [&refresh, &verify, &cleanup] {
        assert_eq!(
            (&answer["complete"], &answer["counts"]["examined"]),
            (&json!(false), &json!(0)),
            "{answer}"
        );
        let lines = logs::lines_with("run_id", answer["run_id"].as_str().unwrap());
        let is_told = |line: &Value| {
            line["level"] == "WARN"
                && line["message"].as_str().unwrap().starts_with("the time ran out before every row was read")
        };
        assert_eq!(lines.iter().filter(|line| is_told(line)).count(), 1, "{lines:?}");
    }
    assert_eq!(world.metrics()[0]["RunCompleted"], 0);
    assert_eq!(status["counts"]["total"], 0);
    assert_eq!(
        status["warnings"],
        json!([
            "this report is incomplete: the time ran out before every row was read; ask for one team at a time, or \
                give the function more time or memory"
        ])
    );
}

#[tokio::test]
async fn what_was_read_before_the_time_ran_out_is_handed_over() {
    let world = World::with(&[("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work")]).await;
    // The rows of one team are all in one segment.
    for n in 0..40 {
        world.integration().team(&format!("{}-{n}", world.team)).expiring_in(hours(1)).insert().await;
    }
    // One segment of the table does not answer.
    world.aws.fault_at(Step::Scan, 1, Fault::Hold(Gate::new()));
    let answer = with_little_time(&world, json!({})).await;
    assert_eq!(answer["complete"], false);
    assert!(answer["counts"]["examined"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(answer["counts"]["queued"], answer["counts"]["examined"]);
}

#[tokio::test]
async fn a_verification_that_runs_out_of_time_defers_the_rest() {
    const ROWS: u64 = 10;
    let world = World::with(&[("MAX_REQUESTS_PER_SECOND", "1")]).await;
    for _ in 0..ROWS {
        world.integration().insert().await;
    }
    let answer = with_little_time(&world, json!({"action": "verify"})).await;
    let counts = &answer["counts"];
    let [valid, deferred] = ["valid", "deferred"].map(|outcome| counts[outcome].as_u64().unwrap());
    assert_eq!((valid + deferred, &counts["examined"]), (ROWS, &json!(ROWS)), "{answer}");
    assert!(valid > 0 && deferred > 0, "{answer}");
    assert_eq!(answer["complete"], false);
    let row =
        answer["integrations"].as_array().unwrap().iter().find(|row| row["outcome"] == "deferred").unwrap();
    assert_eq!(row["reason"], "out_of_time");
}

#[tokio::test]
async fn a_verification_does_not_wait_for_a_row_or_for_tiktok_beyond_its_time() {
    let world = World::new().await;
    world.integration().insert().await;
    world.aws.fault(Step::Read, usize::MAX, Fault::Hold(Gate::new()));
    let read = with_little_time(&world, json!({"action": "verify"})).await;
    assert_eq!((&read["counts"]["deferred"], &read["complete"]), (&json!(1), &json!(false)));
    world.aws.heal();
    world.tiktok.next_open_api([Behaviour::Hang]);
    let call = with_little_time(&world, json!({"action": "verify"})).await;
    assert_eq!((&call["counts"]["deferred"], &call["complete"]), (&json!(1), &json!(false)));
    // An expired token takes a refresh, for which there is no time: none is begun.
    let expired = world.integration().expiring_in(hours(-1)).insert().await;
    let refresh = with_little_time(&world, json!({"action": "verify"})).await;
    assert_eq!(
        (&refresh["counts"]["deferred"], &refresh["complete"]),
        (&json!(1), &json!(false)),
        "{refresh}"
    );
    assert_eq!((world.tiktok.calls(&expired.open_id), world.aws.count(Step::Acquire)), (0, 0));
}

#[tokio::test]
async fn a_cleanup_that_runs_out_of_time_defers_the_rest() {
    let world = World::new().await;
    for _ in 0..3 {
        world.integration().refreshable_for(days(-1)).insert().await;
    }
    world.aws.fault(Step::Settle, usize::MAX, Fault::Hold(Gate::new()));
    let answer = with_little_time(&world, json!({"action": "cleanup"})).await;
    assert_eq!((&answer["counts"]["deferred"], &answer["complete"]), (&json!(3), &json!(false)), "{answer}");
    world.aws.heal();
    let answer = world.refresh(json!({"action": "cleanup"})).await;
    assert_eq!((&answer["counts"]["marked"], &answer["complete"]), (&json!(3), &json!(true)));
}

#[tokio::test]
async fn connections_that_died_silently_are_noticed_once() {
    const CONNECTIONS: usize = 22;
    /// The segments of the table, which a run scans at once.
    const AT_ONCE: usize = 4;
    let world = World::new().await;
    for _ in 0..CONNECTIONS {
        world.integration().expiring_in(hours(1)).insert().await;
    }
    let proxy = Proxy::to(world.aws.address).await;
    let function = world.function_with(&world::sdk(&format!("http://{}", proxy.address)).await);
    let gates: Vec<_> = (0..CONNECTIONS).map(|_| world.aws.hold(Step::Acquire)).collect();
    let (event, deadline) = (json!({"force": true}), world.deadline());
    let open_connections = async {
        for gate in &gates {
            gate.reached().await;
        }
        gates.iter().for_each(Gate::open);
    };
    tokio::join!(world::invoke(&function, &event, deadline), open_connections).0.unwrap();
    assert!(proxy.opened() >= CONNECTIONS, "{}", proxy.opened());

    proxy.fall_silent();
    let answer = world::invoke(&function, &event, deadline).await.unwrap();
    assert_eq!(answer["counts"]["refreshed"], CONNECTIONS);
    assert!((1..=AT_ONCE).contains(&proxy.dead_ones_tried()), "{}", proxy.dead_ones_tried());
}

/// An environment without credentials, and how often it was asked for some.
#[derive(Clone, Debug, Default)]
struct NoCredentials(Arc<AtomicUsize>);

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::SeqCst);
        // What a machine says whose metadata service is out of reach.
        let result: provider::Result = Err(CredentialsError::provider_error("nothing provides them here"));
        future::ProvideCredentials::ready(result)
    }
}

#[tokio::test]
async fn without_aws_credentials_every_action_fails_at_once() {
    let world = World::new().await;
    let none = NoCredentials::default();
    let sdk = tiktok_token_refresh::aws::config()
        .endpoint_url(format!("http://{}", world.aws.address))
        .region(Region::new("us-east-1"))
        .credentials_provider(none.clone())
        .load()
        .await;
    let function = world.function_with(&sdk);
    for action in ["refresh", "status", "verify", "cleanup"] {
        let before = none.0.load(Ordering::SeqCst);
        let error =
            world::invoke(&function, &json!({ "action": action }), world.deadline()).await.unwrap_err();
        assert!(error.to_string().contains("no AWS credentials"), "{action}: {error}");
        let asked = none.0.load(Ordering::SeqCst) - before;
        assert!(asked <= 4, "{action}: asked {asked} times, more than once for each segment of the table");
    }
}
