//! Parses TikTok's responses: bytes in, a [`Grant`] or a classified error out. A response that holds a token is never dropped
//! because another of its values is malformed.

use super::error::{self, CallError};
use crate::domain::{
    grant::{Grant, Seller},
    integration::UnixTime,
    shop::Shop,
};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

/// A JSON object whose values are parsed one by one, so that a duplicate key, an unpaired surrogate or a huge number beside a
/// token does no harm.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Returns the `data` of a successful response. Business errors come with HTTP 200 and a code.
///
/// # Errors
/// The error for the status, code and message.
fn data_of(status: u16, retry_after: Option<Duration>, body: &str) -> Result<Fields<'_>, CallError> {
    let is_success = (200..300).contains(&status);
    let ambiguous = |message: String| Err(CallError::Ambiguous { message });
    let body = body.trim_start_matches('\u{feff}');
    let fields = serde_json::from_str::<Fields<'_>>(body);
    let (code, message) = match &fields {
        Ok(fields) => (
            fields.get("code").and_then(|value| integer(value)).filter(|code| *code != 0),
            fields.get("message").map(|value| text_of(value)).unwrap_or_default(),
        ),
        Err(_) => (None, "an HTTP status without a JSON body".into()),
    };
    let response = match (status, code, fields) {
        (500.., ..) => return Err(error::of_server_error(status, code, message, retry_after)),
        (429, ..) => return Err(error::of_status(status, message, retry_after)),
        (_, Some(code), _) => return Err(error::of_code(code, message, retry_after)),
        _ if !is_success => return Err(error::of_status(status, message, retry_after)),
        (.., Err(_)) => {
            return ambiguous(format!("{status} with a body that is not {}", expected_body(body)));
        }
        // A success, or no readable code: a token pair counts even without one.
        (.., Ok(fields)) => fields,
    };
    let data = response.get("data").and_then(|data| serde_json::from_str(data.get()).ok());
    data.map_or_else(|| ambiguous("a success without data".into()), Ok)
}

fn expected_body(body: &str) -> &'static str {
    if serde_json::from_str::<IgnoredAny>(body).is_ok() { "a JSON object" } else { "complete JSON" }
}

/// Parses the response to a token refresh or exchange.
///
/// # Errors
/// The error for the status, code and message; [`CallError::Ambiguous`] for a success without an access token.
pub fn parse(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Grant, CallError> {
    let body = String::from_utf8_lossy(body);
    let data = data_of(status, retry_after, &body)?;
    let text = |key: &str| data.get(key).and_then(|value| string(value)).filter(|text| !text.is_empty());
    let expiry = |key: &str| data.get(key).and_then(|value| integer(value)).map(UnixTime);
    let access_token = text("access_token")
        .ok_or_else(|| CallError::Ambiguous { message: "a success without an access token".into() })?;
    let scopes: Option<Vec<&RawValue>> =
        data.get("granted_scopes").and_then(|list| serde_json::from_str(list.get()).ok());
    Ok(Grant {
        access_token: access_token.into(),
        access_expires_at: expiry("access_token_expire_in"),
        refresh_token: text("refresh_token").map(Into::into),
        refresh_expires_at: expiry("refresh_token_expire_in"),
        seller: Seller {
            open_id: text("open_id"),
            name: text("seller_name"),
            base_region: text("seller_base_region"),
            granted_scopes: scopes.map(|list| list.iter().filter_map(|scope| string(scope)).collect()),
        },
    })
}

/// Parses the response to Get Authorized Shops.
///
/// # Errors
/// The error for the status, code and message; [`CallError::Ambiguous`] for a success without a list of shops.
pub(super) fn parse_shops(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Result<Vec<Shop>, CallError> {
    let body = String::from_utf8_lossy(body);
    let data = data_of(status, retry_after, &body)?;
    let shops = data.get("shops").and_then(|shops| serde_json::from_str(shops.get()).ok());
    shops.ok_or_else(|| CallError::Ambiguous { message: "a success without a list of shops".into() })
}

/// An integer, even if TikTok sends it as a float or a string.
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
fn integer(value: &RawValue) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(text) = string(value) {
        return text.trim().parse().ok();
    }
    let text = value.get();
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() <= EXACT;
    text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(whole).map(|number| number as i64))
}

fn string(value: &RawValue) -> Option<String> {
    // serde's error for a number takes longer than parsing the rest of the response.
    value.get().starts_with('"').then(|| serde_json::from_str(value.get()).ok())?
}

/// The text of a string, or the JSON of another value.
fn text_of(value: &RawValue) -> String {
    string(value).unwrap_or_else(|| value.get().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{circuit_breaker::CallOutcome, reason::Reason};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn granted() -> Value {
        json!({"code": 0, "message": "success", "request_id": "r", "data": {
            "access_token": "TTP_a", "access_token_expire_in": 1_764_100_000_i64,
            "refresh_token": "TTR_r", "refresh_token_expire_in": 4_841_467_787_i64,
            "open_id": "o", "seller_name": "Bánh Mì", "seller_base_region": "VN", "user_type": 0,
            "granted_scopes": ["seller.authorization.info"],
        }})
    }

    fn read(body: &Value) -> Result<Grant, CallError> {
        parse(200, None, body.to_string().as_bytes())
    }

    fn with(key: &str, value: Value) -> Value {
        let mut body = granted();
        body["data"][key] = value;
        body
    }

    #[test]
    fn a_complete_response_is_a_grant() {
        let grant = read(&granted()).unwrap();
        assert_eq!(grant.access_token.expose(), "TTP_a");
        assert_eq!(grant.access_expires_at, Some(UnixTime(1_764_100_000)));
        assert_eq!(grant.refresh_token.unwrap().expose(), "TTR_r");
        assert_eq!(grant.refresh_expires_at, Some(UnixTime(4_841_467_787)), "absolute, and past u32");
        assert_eq!(grant.seller.name.as_deref(), Some("Bánh Mì"));
        assert_eq!(grant.seller.granted_scopes, Some(vec!["seller.authorization.info".into()]));
    }

    #[test]
    fn a_malformed_value_never_drops_the_token() {
        for malformed in [json!(null), json!("soon"), json!(1.5), json!([]), json!({}), json!(u64::MAX)] {
            let grant = read(&with("access_token_expire_in", malformed.clone())).unwrap();
            assert_eq!(grant.access_expires_at, None, "{malformed}");
        }
        assert_eq!(
            read(&with("access_token_expire_in", json!("17"))).unwrap().access_expires_at,
            Some(UnixTime(17))
        );
        assert_eq!(
            read(&with("access_token_expire_in", json!(1.7e9))).unwrap().access_expires_at,
            Some(UnixTime(1_700_000_000))
        );
        assert!(read(&with("refresh_token", json!(null))).unwrap().refresh_token.is_none());
        assert!(read(&with("refresh_token", json!(""))).unwrap().refresh_token.is_none());
        assert!(read(&with("open_id", json!(5))).unwrap().seller.open_id.is_none());
        assert!(read(&with("granted_scopes", json!("all"))).is_ok());
        let mut no_code = granted();
        no_code.as_object_mut().unwrap().remove("code");
        assert!(read(&no_code).is_ok());
    }

    #[test]
    fn a_success_without_a_token_is_ambiguous() {
        for body in [
            json!({"code": 0, "message": "success"}),
            json!({"code": 0, "data": null}),
            json!({"code": 0, "data": {}}),
            json!({"code": 0, "data": []}),
            json!({"code": 0, "data": ["TTP_a", 17, "TTR_r", 18, "o", "n", "VN", []]}),
            json!([0, granted()["data"]]),
            json!({}),
            with("access_token", json!("")),
            with("access_token", json!(7)),
        ] {
            assert!(matches!(read(&body), Err(CallError::Ambiguous { .. })), "{body}");
        }
    }

    #[test]
    fn unreadable_json_beside_the_token_never_drops_it() {
        let bodies: [&[u8]; 8] = [
            br#"{"code":0,"message":"a","message":"b","data":{"access_token":"TTP_a"}}"#,
            br#"{"code":0,"message":"\ud800","data":{"access_token":"TTP_a"}}"#,
            br#"{"code":0,"data":{"access_token":"TTP_a","seller_name":"\ud800"}}"#,
            br#"{"code":0,"data":{"access_token":"TTP_a","access_token_expire_in":1e999}}"#,
            b"{\"code\":0,\"data\":{\"access_token\":\"TTP_a\",\"seller_name\":\"\xff\"}}",
            b"\xef\xbb\xbf{\"code\":0,\"data\":{\"access_token\":\"TTP_a\"}}",
            br#"{"code":0.5,"data":{"access_token":"TTP_a"}}"#,
            br#"{"code":"0","data":{"access_token":"TTP_a","granted_scopes":["\ud800",7]}}"#,
        ];
        for body in bodies {
            let grant =
                parse(200, None, body).unwrap_or_else(|error| panic!("{error}: {}", body.escape_ascii()));
            assert_eq!(grant.access_token.expose(), "TTP_a");
        }
    }

    #[test]
    fn a_business_error_comes_with_http_200_and_a_code() {
        let body =
            json!({"code": 36_004_005, "message": "can not find related auth record", "request_id": "r"});
        assert_eq!(
            read(&body).unwrap_err(),
            CallError::Reauthorize { code: 36_004_005, message: "can not find related auth record".into() }
        );
        let open_api = json!({"code": 36_009_004, "message": "app_key is invalid", "data": null});
        assert_eq!(read(&open_api).unwrap_err().call_outcome(), CallOutcome::Misconfigured);
    }

    #[test]
    fn a_failure_status_grants_nothing_even_with_a_token_in_the_body() {
        for status in [400, 429, 500, 503] {
            assert!(parse(status, None, granted().to_string().as_bytes()).is_err(), "{status}");
        }
    }

    #[test]
    fn a_server_error_never_rejects_the_seller() {
        let body = json!({"code": 36_004_001, "message": "rt has expired"}).to_string();
        for (status, expected) in
            [(429, CallOutcome::Busy), (503, CallOutcome::Busy), (500, CallOutcome::Failed)]
        {
            let error = parse(status, None, body.as_bytes()).unwrap_err();
            assert_eq!(error.call_outcome(), expected, "{status}");
        }
    }

    #[test]
    fn the_http_status_classifies_an_unreadable_response() {
        let after = Some(Duration::from_secs(3));
        assert_eq!(parse(429, after, b"slow down").unwrap_err().retry_after(), after);
        assert_eq!(parse(404, None, b"404 page not found").unwrap_err().reason(), Reason::Refused);
        assert_eq!(parse(302, None, b"").unwrap_err().reason(), Reason::Refused);
        assert_eq!(parse(503, after, b"<html>").unwrap_err().retry_after(), after, "TikTok did not act");
        assert_eq!(
            parse(200, None, b"{\"code\":0,\"data\":{\"acc").unwrap_err().reason(),
            Reason::NoReadableAnswer
        );
    }

    #[test]
    fn a_gateways_error_leaves_open_whether_tiktok_has_acted() {
        for status in [500, 501, 502, 504, 520, 524, 599] {
            let bodies = ["", "<html>", "{}", "[1]", r#"{"code":0}"#, r#"{"code":null}"#, r#"{"code":502}"#];
            for body in bodies {
                let error = parse(status, None, body.as_bytes()).unwrap_err();
                assert_eq!(error.reason(), Reason::NoReadableAnswer, "{status} {body}");
            }
            let body = json!({"code": 36_009_003, "message": "internal error"}).to_string();
            let error = parse(status, None, body.as_bytes()).unwrap_err();
            assert_eq!((error.reason(), error.code()), (Reason::ProviderError, Some(36_009_003)), "{status}");
            let body = json!({"code": 36_009_002, "message": "too many requests"}).to_string();
            assert_eq!(parse(status, None, body.as_bytes()).unwrap_err().reason(), Reason::ProviderBusy);
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(status, None, &body);
        }

        #[test]
        fn no_value_panics_drops_the_token_or_shows_it(
            key in "access_token_expire_in|refresh_token|refresh_token_expire_in|open_id|seller_name|granted_scopes",
            number: f64,
            text in "\\PC{0,20}",
        ) {
            for value in [json!(number), json!(text), json!([text]), json!({ "x": number })] {
                let grant = read(&with(&key, value)).unwrap();
                prop_assert_eq!(grant.access_token.expose(), "TTP_a");
                let shown = format!("{grant:?}");
                prop_assert!(!shown.contains("TTP_a"));
            }
        }
    }
}
