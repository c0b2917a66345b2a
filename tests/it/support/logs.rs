//! Every log line of this process, written by the function's own subscriber at its most talkative level.

use serde_json::Value;
use std::{
    io,
    sync::{Mutex, Once, PoisonError},
};
use tiktok_token_refresh::logging;
use tracing_subscriber::fmt::MakeWriter;

static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static START: Once = Once::new();

struct Ear;

impl io::Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Ear {
    type Writer = Ear;

    fn make_writer(&'a self) -> Ear {
        Ear
    }
}

/// Begins to listen; once for the whole process.
pub fn listen() {
    START.call_once(|| {
        let subscriber = logging::subscriber(tracing::Level::TRACE, Ear);
        tracing::subscriber::set_global_default(subscriber).expect("nobody else listens");
    });
}

/// All that was logged so far.
pub fn text() -> String {
    String::from_utf8(WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).clone()).expect("logs are text")
}

/// The lines in which `field` is `value`.
pub fn lines_with(field: &str, value: &str) -> Vec<Value> {
    let lines = text();
    let lines = lines.lines().filter(|line| line.contains(value));
    lines
        .map(|line| serde_json::from_str::<Value>(line).expect("a log line is JSON"))
        .filter(|line| line[field] == value)
        .collect()
}
