//! Structured logs: one JSON object a line.

use tracing::{Level, Subscriber};
use tracing_subscriber::{
    Layer, filter::Targets, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
};

/// A subscriber that writes this crate's events from `level` up as JSON lines. The crates below it are held at
/// `warn` whatever `level` says: on finer levels some of them print requests, and so tokens.
pub fn subscriber<W>(level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::registry().with(layer(level, writer))
}

fn layer<S, W>(level: Level, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let targets = Targets::new().with_default(Level::WARN).with_target(env!("CARGO_CRATE_NAME"), level);
    // The local stack's own DynamoDB warns of every condition that fails, which is an everyday answer.
    #[cfg(feature = "local")]
    let targets = targets.with_target("dynoxide", tracing::level_filters::LevelFilter::OFF);
    tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer).with_filter(targets)
}
