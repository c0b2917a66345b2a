//! No text makes `ConnectState::parse` panic, and none but the signed one is accepted: the signature that is in the seeds is good
//! for its own text alone.

#![no_main]

use domain::connect_link::{ConnectState, LinkTarget, sign};
use domain::integration::{IntegrationKey, UnixTime};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/domain/mod.rs"]
#[allow(dead_code, unused_imports, reason = "taken in whole, used in part")]
mod domain;

fuzz_target!(|text: &str| {
    let Ok(state) = ConnectState::parse(text) else { return };
    let secret = "local-secret".to_owned().into();
    let now = chrono::DateTime::from_timestamp(1_795_399_200, 0).expect("a time");
    let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
    let target = LinkTarget { key, app_key: "local-app".into(), expires_at: UnixTime(1_795_399_260) };
    if let Ok(verified) = state.verify(&secret, now) {
        assert_eq!(*verified, target, "{text}");
        assert_eq!(sign(&target, &secret, "n").as_deref(), Some(text));
    }
});
