//! No answer makes `tiktok::parse` panic, a granted token is not dropped for what stands beside it, and
//! nothing that is shown of an answer depends on the tokens in it.
//!
//! The first two bytes make the status (`18` is 200), the rest is the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tiktok::response::parse;

#[path = "../../src/domain/mod.rs"]
#[allow(dead_code, reason = "taken in whole, used in part")]
mod domain;
#[path = "../../src/tiktok"]
#[allow(dead_code, reason = "taken in whole, used in part")]
mod tiktok {
    pub mod error;
    pub mod response;
}

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first_chunk() else { return };
    let status = 100 + u16::from_be_bytes(*first) % 500;
    let _ = parse(status, None, body);

    // What follows needs a body in which the tokens can be changed while all else stays.
    let Ok(mut answer) = serde_json::from_slice(body) else { return };
    let Some((one, is_grant)) = with_tokens(&mut answer, "TTP_one") else { return };
    let Some((other, _)) = with_tokens(&mut answer, "TTP_other") else { return };
    let one = parse(status, None, one.as_bytes());
    let other = parse(status, None, other.as_bytes());
    assert_eq!(format!("{one:?}"), format!("{other:?}"), "a token shows");
    if is_grant && (200..300).contains(&status) {
        assert_eq!(one.expect("a grant").access_token.expose(), "TTP_one");
    }
});

/// The answer with its tokens replaced, and whether it grants one; none if it has no place for tokens.
fn with_tokens(answer: &mut Value, token: &str) -> Option<(String, bool)> {
    let is_success = match answer.as_object()?.get("code") {
        None | Some(Value::Null) => true,
        Some(code) => code.as_i64() == Some(0),
    };
    let data = answer.get_mut("data")?.as_object_mut()?;
    for key in ["access_token", "refresh_token"] {
        if let Some(Value::String(text)) = data.get_mut(key)
            && !text.is_empty()
        {
            token.clone_into(text);
        }
    }
    let holds_token = data.get("access_token").is_some_and(|text| text == token);
    Some((answer.to_string(), is_success && holds_token))
}
