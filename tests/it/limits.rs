//! What happens at the limits of time, of connections and of what AWS gives.

use super::support::{Step, World, hours, silent::Proxy, world};
use aws_config::Region;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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
        gates.iter().for_each(super::support::aws::Gate::open);
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
