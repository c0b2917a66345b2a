//! Structured logs: one JSON object a line, with the fields of the enclosing spans at the top level, where CloudWatch Logs
//! Insights finds them by name.

use serde_json::{Map, Value};
use std::fmt::{self, Debug};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::{LookupSpan, Scope},
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
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(JsonLine)
        .with_writer(writer);
    tracing_subscriber::registry().with(lines).with(targets)
}

/// Formats an event as one JSON line. `tracing-subscriber`'s own format nests span fields and cannot nest dotted names.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            if let Some(recorded) = span.extensions().get::<FormattedFields<N>>() {
                // An inner span's field replaces an outer one's.
                fields.0.extend(serde_json::from_str::<Map<_, _>>(recorded).unwrap_or_default());
            }
        }
        event.record(&mut fields);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let message = fields.0.remove("message").unwrap_or_default();
        let level = event.metadata().level();
        write!(line, "{{\"timestamp\":\"{timestamp}\",\"level\":\"{level}\",\"message\":{message}")?;
        for (name, value) in &fields.0 {
            write!(line, ",{}:{value}", Value::from(name.as_str()))?;
        }
        writeln!(line, ",\"target\":\"{}\"}}", event.metadata().target())
    }
}

/// The fields of a line. A name with a dot, such as `counts.failed`, is a key of a nested object.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };
    use tracing::{error, error_span, info};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(level: Level, log: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        tracing::subscriber::with_default(subscriber(level, move || writer.clone()), log);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_fields_of_spans_stand_at_the_top_level_whatever_the_log_level() {
        let lines = written(Level::ERROR, || {
            let _invocation = error_span!("invocation", request_id = "r-1").entered();
            let _integration = error_span!("integration", team_id = "1\"", integration_id = 7).entered();
            info!("not at this level");
            error!(reason = "refused", "it failed: \"why\"");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let (_, rest) = line.split_once("\",\"level\"").unwrap();
        assert_eq!(
            rest,
            r#":"ERROR","message":"it failed: \"why\"","integration_id":7,"reason":"refused","request_id":"r-1","team_id":"1\"","target":"tiktok_token_refresh::logging::tests"}"#
        );
        let value: Value = serde_json::from_str(line).unwrap();
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_dotted_field_becomes_a_nested_object() {
        let lines = written(Level::INFO, || info!(counts.failed = 0, counts.due = 2_u64, "finished"));
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(value["counts"], serde_json::json!({ "failed": 0, "due": 2 }));
    }
}
