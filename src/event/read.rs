//! Deserializes JSON, with errors that name the field, the value's shape and what was expected.

use crate::domain::{
    integration::IntegrationKey,
    quoted::{MAX_QUOTED, quoted},
    selection::Selection,
};
use chrono::TimeDelta;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};
use serde_json::error::Category;
use std::{fmt, marker::PhantomData, ops::RangeInclusive};

/// DynamoDB's limit on a partition key, in bytes.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub(super) const MAX_TEAM_ID: usize = 2048;
/// DynamoDB's limit on a sort key, in bytes.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub(super) const MAX_INTEGRATION_ID: usize = 1024;
/// How much of a long message is kept at its start, in characters.
const MAX_HEAD: usize = 200;
/// The longest unknown key that an error quotes, in bytes: longer than each key that the function knows.
const MAX_QUOTED_KEY: usize = 40;
/// How much of a long message is kept at its end, in characters: enough for the list of expected fields.
const MAX_TAIL: usize = 160;
/// JSON's names for the shapes that serde names differently.
const SHAPES: [(&str, &str); 3] = [("sequence", "array"), ("map", "object"), ("floating point", "number")];

/// An event that the function does not accept. The message names the field and what was expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad event: {0}")]
pub struct BadEvent(pub(super) String);

/// An id: a JSON string or integer; `null` means absent.
#[derive(Default)]
pub(super) struct Id<const MAX: usize>(pub(super) Option<String>);

impl<const MAX: usize> Id<MAX> {
    /// The team with this id, or the whole table if the id is absent.
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

/// The integration that two ids name.
pub(super) fn key(
    team_id: Id<MAX_TEAM_ID>,
    integration_id: Id<MAX_INTEGRATION_ID>,
) -> Result<IntegrationKey, BadEvent> {
    let missing = |name: &str| BadEvent(format!("{name}: missing, expected a string or an integer"));
    Ok(IntegrationKey {
        team_id: team_id.0.ok_or_else(|| missing("team_id"))?,
        integration_id: integration_id.0.ok_or_else(|| missing("integration_id"))?,
    })
}

/// Parses a duration such as `5m`. `expected` says which ones are in `range`.
pub(super) fn duration(
    text: &str,
    range: RangeInclusive<TimeDelta>,
    expected: &str,
) -> Result<TimeDelta, String> {
    let duration = humantime::parse_duration(text).ok().and_then(|time| TimeDelta::from_std(time).ok());
    match duration {
        Some(time) if range.contains(&time) => Ok(time),
        _ => Err(format!("got {}, {expected}", quoted(text))),
    }
}

/// A struct that only a JSON object deserializes into. A derived `Deserialize` also accepts an array of the fields'
/// values, and its errors name the Rust type.
#[derive(Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// Deserializes an event, which is a JSON object.
pub(super) fn read<'de, T: Deserialize<'de>>(event: &'de str) -> Result<T, BadEvent> {
    if !event.trim_start().starts_with('{') {
        return Err(BadEvent("expected a JSON object such as {\"action\":\"refresh\"}".into()));
    }
    let mut json = serde_json::Deserializer::from_str(event);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| BadEvent(describe(&error.path().to_string(), error.inner())))?;
    json.end().map_err(|error| BadEvent(describe(".", &error)))?;
    Ok(value)
}

/// Writes an error as `field: cause`. `path` is `.` for the event itself.
fn describe(path: &str, error: &serde_json::Error) -> String {
    if error.classify() != Category::Data {
        return format!("invalid JSON: {error}");
    }
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let cause = without_long_string(&without_odd_key(text.strip_suffix(&position).unwrap_or(&text)));
    let cause = abbreviated(&json_terms(&cause));
    match path {
        // The path ends with the key.
        _ if cause.starts_with("unknown field of ") => cause,
        "." => cause,
        "" => format!("\"\": {cause}"),
        path => format!("{}: {cause}", abbreviated(path)),
    }
}

/// Replaces a long string of the wrong type by its length: somebody may have mixed up the keys, and sent a token.
fn without_long_string(cause: &str) -> String {
    let parts = cause.split_once(": string \"").and_then(|(kind, rest)| {
        let (value, expected) = rest.rsplit_once("\", expected ")?;
        Some((kind, value, expected))
    });
    match parts {
        Some((kind, value, expected)) if kind.starts_with("invalid ") && value.len() > MAX_QUOTED => {
            format!("{kind}: string of {} characters, expected {expected}", value.chars().count())
        }
        _ => cause.to_owned(),
    }
}

/// Replaces an unknown key by its length if it may be a token that was put in the wrong place.
pub(super) fn without_odd_key(cause: &str) -> String {
    let parts = cause.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected "));
    let is_name = |key: &str| key.bytes().all(|byte| byte.is_ascii_alphabetic() || b"_-".contains(&byte));
    match parts {
        Some((key, expected)) if key.len() > if is_name(key) { MAX_QUOTED_KEY } else { MAX_QUOTED } => {
            format!("unknown field of {} characters, expected {expected}", key.chars().count())
        }
        _ => cause.to_owned(),
    }
}

/// Replaces serde's names for shapes with JSON's, but never inside a quoted value.
fn json_terms(cause: &str) -> String {
    const PREFIX: &str = "invalid type: ";
    let cause = cause
        .strip_suffix("expected a sequence")
        .map_or_else(|| cause.to_owned(), |start| format!("{start}expected an array"));
    let renamed = SHAPES.iter().find_map(|(serde, json)| {
        let rest = cause.strip_prefix(PREFIX)?.strip_prefix(serde)?;
        Some(format!("{PREFIX}{json}{rest}"))
    });
    renamed.unwrap_or(cause)
}

/// Cuts a long message in its middle, where it quotes the value. Its end says what was expected.
fn abbreviated(cause: &str) -> String {
    let chars: Vec<char> = cause.chars().collect();
    if chars.len() <= MAX_HEAD + MAX_TAIL {
        return cause.to_owned();
    }
    let (start, end) = (&chars[..MAX_HEAD], &chars[chars.len() - MAX_TAIL..]);
    start.iter().chain(&['…']).chain(end).collect()
}
