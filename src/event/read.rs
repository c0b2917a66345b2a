//! Reads JSON and, when it does not fit, names the key.

use crate::domain::selection::Selection;
use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// DynamoDB's limit on a partition key, in bytes.
pub(super) const MAX_TEAM_ID: usize = 2048;
/// DynamoDB's limit on a sort key, in bytes.
pub(super) const MAX_INTEGRATION_ID: usize = 1024;
/// How much of a value that was not understood is quoted, in characters.
const MAX_QUOTED: usize = 200;

/// An event that was not understood. Its message names the key and what was expected there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad event: {0}")]
pub struct BadEvent(pub(super) String);

/// An id: a JSON string or integer; `null` means absent.
#[derive(Default)]
pub(super) struct Id<const MAX: usize>(pub(super) Option<String>);

impl<const MAX: usize> Id<MAX> {
    /// The team that this id names; the whole table, if it is absent.
    pub(super) fn selection(self) -> Selection {
        self.0.map_or(Selection::All, Selection::Team)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Id<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MAX: usize>;

        impl<const MAX: usize> de::Visitor<'_> for Visitor<MAX> {
            type Value = Id<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string of 1 to {MAX} bytes, an integer or null")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Id(None))
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Self::Value, E> {
                Ok(Id(Some(id.to_string())))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Self::Value, E> {
                Ok(Id(Some(id.to_string())))
            }

            fn visit_str<E: de::Error>(self, id: &str) -> Result<Self::Value, E> {
                match id.len() {
                    0 => Err(E::invalid_value(de::Unexpected::Str(""), &self)),
                    len if len > MAX => Err(E::custom(format!("got {len} bytes, expected at most {MAX}"))),
                    _ => Ok(Id(Some(id.to_owned()))),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Reads JSON and, when it does not fit, names the key.
pub(super) fn read<'de, T: Deserialize<'de>>(event: &'de str) -> Result<T, BadEvent> {
    // A derived struct would also take an array; an event is an object.
    if !event.trim_start().starts_with('{') {
        return Err(BadEvent("expected a JSON object such as {\"action\":\"refresh\"}".into()));
    }
    let mut json = serde_json::Deserializer::from_str(event);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = without_position(&error.into_inner());
        // The path of a key that is unknown or twice there is the object's, and the cause names the key.
        BadEvent(if path == "." { cause } else { format!("{path}: {cause}") })
    })?;
    json.end().map_err(|error| BadEvent(without_position(&error)))?;
    Ok(value)
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = if error.is_data() { text.split(" at line ").next().unwrap_or_default() } else { &text };
    text.chars().take(MAX_QUOTED).collect()
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(MAX_QUOTED).collect::<String>())
}
