//! No event makes `parse_http` panic, and none is a request to the public function and an event of the main one.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/domain/mod.rs"]
#[allow(dead_code, unused_imports, reason = "taken in whole, used in part")]
mod domain;
#[path = "../../src/event/mod.rs"]
#[allow(dead_code, unused_imports, reason = "taken in whole, used in part")]
mod event;

fuzz_target!(|text: &str| {
    if event::parse_http(text).is_ok() {
        assert!(event::parse(text).is_err(), "{text}");
    }
});
