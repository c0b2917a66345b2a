//! Structured logs: one JSON object a line.

use tracing::{Level, Subscriber};
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt};

/// A subscriber that writes this crate's events from `level` up as JSON lines. The crates below it are held at
/// `warn` whatever `level` says: on finer levels some of them print requests, and so tokens.
pub fn subscriber<W>(level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let targets = Targets::new().with_default(Level::WARN).with_target(env!("CARGO_CRATE_NAME"), level);
    // The local stack's own DynamoDB warns of every condition that fails, which is an everyday answer.
    #[cfg(feature = "local")]
    let targets = targets.with_target("dynoxide", tracing::level_filters::LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer);
    tracing_subscriber::registry().with(lines).with(targets)
}
