//! No text makes `event::parse` panic, and no event that it accepts comes to mean more than it says: a
//! `team_id` never all teams, an `integration_id` never a whole team, a `dry_run` never a real run.

#![no_main]

use domain::selection::Selection;
use event::Request;
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use std::fmt;

#[path = "../../src/domain/mod.rs"]
#[allow(dead_code, unused_imports, reason = "taken in whole, used in part")]
mod domain;
#[path = "../../src/event/mod.rs"]
#[allow(dead_code, unused_imports, reason = "taken in whole, used in part")]
mod event;

fuzz_target!(|text: &str| {
    let Ok(Request::Refresh(request)) = event::parse(text) else { return };
    let said = serde_json::from_str::<Entries>(text).expect("an accepted event is a JSON object");

    if said.names("team_id") {
        assert_ne!(request.selection, Selection::All, "{text}");
    }
    if said.names("integration_id") {
        assert!(matches!(request.selection, Selection::One(_)), "{text}");
    }
    assert_eq!(request.force, said.is_true("force"), "{text}");
    assert_eq!(request.dry_run, said.is_true("dry_run"), "{text}");
});

/// An object's entries as they stand, a key that is there twice included.
struct Entries(Vec<(String, Box<RawValue>)>);

impl Entries {
    fn names(&self, key: &str) -> bool {
        self.0.iter().any(|(name, value)| name == key && value.get() != "null")
    }

    fn is_true(&self, key: &str) -> bool {
        self.0.iter().any(|(name, value)| name == key && value.get() == "true")
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                std::iter::from_fn(|| map.next_entry().transpose()).collect::<Result<_, _>>().map(Entries)
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}
