//! Structured logs: one JSON object a line, with the fields of the enclosing spans at the top level.

use json_subscriber::JsonLayer;
use serde_json::{Map, Value};
use std::fmt::Debug;
use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{MakeWriter, time::SystemTime},
    layer::SubscriberExt,
};

/// A subscriber that writes this crate's events from `level` up as JSON lines. Dependencies stay at `WARN` whatever `level`
/// says: at finer levels some of them print requests, and so tokens.
pub fn subscriber<W>(level: Level, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let targets = Targets::new().with_default(Level::WARN).with_target(env!("CARGO_CRATE_NAME"), level);
    // The local stack's DynamoDB warns of every failed condition, which is an everyday answer.
    #[cfg(feature = "local")]
    let targets = targets.with_target("dynoxide", tracing::level_filters::LevelFilter::OFF);
    let mut lines = JsonLayer::new(writer);
    lines.with_timer("timestamp", SystemTime);
    lines.with_level("level");
    lines.with_target("target");
    lines.with_top_level_flattened_span_list();
    lines.add_multiple_dynamic_fields(|event, _, line| {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for (name, value) in fields.0 {
            // Fails only if a value is no JSON, which these are.
            let _ = line.write_field(&name, value);
        }
    });
    tracing_subscriber::registry().with(lines).with(targets)
}

/// An event's fields. A name with a dot, such as `counts.failed`, becomes a key of a nested object.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        let value = value.into();
        match field.name().split_once('.') {
            None => drop(self.0.insert(field.name().to_owned(), value)),
            Some((object, name)) => {
                let object = self.0.entry(object).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(object) = object {
                    object.insert(name.to_owned(), value);
                }
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.insert(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }
}
