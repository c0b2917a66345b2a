//! The event that imports existing tokens. A row that cannot be read makes only itself invalid, so that the response can say of
//! each row what is wrong with it. No error quotes a value, which may be a token.

use super::{
    Request,
    read::{BadEvent, MAX_INTEGRATION_ID, MAX_TEAM_ID, without_odd_key},
};
use crate::domain::{
    import::{self, ImportRequest, Invalid, MAX_ROWS, NewIntegration, Row, RowId},
    integration::{IntegrationKey, Status, UnixTime},
};
use serde::Deserialize;
use serde_json::value::RawValue;

const EXPECTED: &str = "an array of at most 100 objects";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportEvent {
    #[serde(rename = "action")]
    _action: String,
    integrations: Option<Box<RawValue>>,
    dry_run: Option<bool>,
}

pub(super) fn request(event: ImportEvent) -> Result<Request, BadEvent> {
    let bad = |problem: &str| BadEvent(format!("integrations: {problem}, expected {EXPECTED}"));
    let raw = event.integrations.ok_or_else(|| bad("missing"))?;
    let rows: Vec<Box<RawValue>> =
        serde_json::from_str(raw.get()).map_err(|_| bad(&format!("got {}", shape(&raw))))?;
    if rows.len() > MAX_ROWS {
        return Err(bad(&format!("got {} rows", rows.len())));
    }
    let mut rows: Vec<Row> = rows.iter().map(|raw| row(raw)).collect();
    import::refuse_duplicates(&mut rows);
    Ok(Request::Import(ImportRequest { rows, dry_run: event.dry_run.unwrap_or(false) }))
}

/// A row's fields. Each is kept as its text, so that an id of any length stays digit for digit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    team_id: Option<Box<RawValue>>,
    integration_id: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
    app_key: Option<Box<RawValue>>,
    access_token: Option<Box<RawValue>>,
    refresh_token: Option<Box<RawValue>>,
    access_token_expires_at: Option<Box<RawValue>>,
    refresh_token_expires_at: Option<Box<RawValue>>,
    open_id: Option<Box<RawValue>>,
    seller_name: Option<Box<RawValue>>,
    seller_base_region: Option<Box<RawValue>>,
    granted_scopes: Option<Box<RawValue>>,
}

/// The ids alone, for a row with an unknown field.
#[derive(Deserialize)]
struct Ids {
    team_id: Option<Box<RawValue>>,
    integration_id: Option<Box<RawValue>>,
}

fn row(raw: &RawValue) -> Row {
    if !raw.get().starts_with('{') {
        let message = format!("got {}, expected an object", shape(raw));
        return Row { id: RowId::default(), integration: Err(Invalid { reason: "wrong_type", message }) };
    }
    match serde_json::from_str::<Fields>(raw.get()) {
        Ok(fields) => {
            let id = ids(fields.team_id.as_deref(), fields.integration_id.as_deref());
            let integration = import::size(raw.get().len()).and_then(|()| integration(&fields));
            Row { id, integration }
        }
        // Every value is kept as its text, so only a field's name can be wrong: unknown, or there twice.
        Err(error) => {
            let message = error.to_string();
            let message = without_odd_key(message.rsplit_once(" at line ").unwrap_or((&message, "")).0);
            let reason = if message.starts_with("duplicate") { "duplicate_field" } else { "unknown_field" };
            let id = serde_json::from_str::<Ids>(raw.get())
                .map(|id| ids(id.team_id.as_deref(), id.integration_id.as_deref()))
                .unwrap_or_default();
            Row { id, integration: Err(Invalid { reason, message }) }
        }
    }
}

fn ids(team_id: Option<&RawValue>, integration_id: Option<&RawValue>) -> RowId {
    RowId {
        team_id: id("team_id", team_id, MAX_TEAM_ID).ok(),
        integration_id: id("integration_id", integration_id, MAX_INTEGRATION_ID).ok(),
    }
}

fn integration(fields: &Fields) -> Result<NewIntegration, Invalid> {
    let key = IntegrationKey {
        team_id: id("team_id", fields.team_id.as_deref(), MAX_TEAM_ID)?,
        integration_id: id("integration_id", fields.integration_id.as_deref(), MAX_INTEGRATION_ID)?,
    };
    let refresh_token = token("refresh_token", fields.refresh_token.as_deref())?;
    let missing = || Invalid::new("missing", "refresh_token", "missing, expected a string");
    Ok(NewIntegration {
        key,
        status: match string("status", fields.status.as_deref())? {
            None => Status::Active,
            Some(text) if text.is_empty() => {
                return Err(Invalid::wrong_type("status", "an empty string", "\"active\", or no such field"));
            }
            Some(text) => import::status(&text)?,
        },
        app_key: text("app_key", fields.app_key.as_deref())?,
        access_token: token("access_token", fields.access_token.as_deref())?.map(Into::into),
        refresh_token: refresh_token.ok_or_else(missing)?.into(),
        access_expires_at: expiry("access_token_expires_at", fields.access_token_expires_at.as_deref())?,
        refresh_expires_at: expiry("refresh_token_expires_at", fields.refresh_token_expires_at.as_deref())?,
        open_id: text("open_id", fields.open_id.as_deref())?,
        seller_name: text("seller_name", fields.seller_name.as_deref())?,
        seller_base_region: text("seller_base_region", fields.seller_base_region.as_deref())?,
        granted_scopes: texts("granted_scopes", fields.granted_scopes.as_deref())?,
    })
}

/// An id: a string, or an integer digit for digit, however long.
fn id(field: &'static str, raw: Option<&RawValue>, max: usize) -> Result<String, Invalid> {
    const EXPECTED: &str = "a string or an integer";
    let Some(raw) = raw else {
        return Err(Invalid::new("missing", field, format!("missing, expected {EXPECTED}")));
    };
    let id = if is_integer(raw) { raw.get().to_owned() } else { parse_string(field, raw, EXPECTED)? };
    match id.len() {
        0 => Err(Invalid::new("missing", field, format!("got an empty string, expected {EXPECTED}"))),
        len if len > max => {
            Err(Invalid::new("id_too_long", field, format!("got {len} bytes, expected at most {max}")))
        }
        _ => Ok(id),
    }
}

fn token(field: &'static str, raw: Option<&RawValue>) -> Result<Option<String>, Invalid> {
    text(field, raw)?.map(|token| import::token(field, token)).transpose()
}

/// A text. An empty one is the same as none, as in the table.
fn text(field: &'static str, raw: Option<&RawValue>) -> Result<Option<String>, Invalid> {
    Ok(string(field, raw)?.filter(|text| !text.is_empty()))
}

fn string(field: &'static str, raw: Option<&RawValue>) -> Result<Option<String>, Invalid> {
    raw.map(|raw| parse_string(field, raw, "a string")).transpose()
}

fn parse_string(field: &'static str, raw: &RawValue, expected: &str) -> Result<String, Invalid> {
    serde_json::from_str(raw.get()).map_err(|_| Invalid::wrong_type(field, shape(raw), expected))
}

fn expiry(field: &'static str, raw: Option<&RawValue>) -> Result<Option<UnixTime>, Invalid> {
    let Some(raw) = raw else { return Ok(None) };
    if !is_integer(raw) {
        return Err(Invalid::wrong_type(field, shape(raw), "a whole number of Unix seconds"));
    }
    // A number with more digits than an i64 has is no time in seconds either.
    let limit = if raw.get().starts_with('-') { i64::MIN } else { i64::MAX };
    import::expiry(field, raw.get().parse().unwrap_or(limit)).map(Some)
}

fn texts(field: &'static str, raw: Option<&RawValue>) -> Result<Option<Vec<String>>, Invalid> {
    let Some(raw) = raw else { return Ok(None) };
    let found = if raw.get().starts_with('[') { "an array with other values" } else { shape(raw) };
    serde_json::from_str(raw.get())
        .map(Some)
        .map_err(|_| Invalid::wrong_type(field, found, "an array of strings"))
}

fn is_integer(raw: &RawValue) -> bool {
    let digits = raw.get().strip_prefix('-').unwrap_or(raw.get());
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a JSON value is, without quoting it.
fn shape(raw: &RawValue) -> &'static str {
    match raw.get().bytes().next() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if is_integer(raw) => "an integer",
        _ => "a number with a fraction or an exponent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::parse;
    use proptest::prelude::*;

    fn rows(rows: &str) -> Vec<Row> {
        match parse(&format!(r#"{{"action":"import","integrations":{rows}}}"#)) {
            Ok(Request::Import(request)) => request.rows,
            other => panic!("{other:?}"),
        }
    }

    /// The row of a JSON object with these fields beside the required ones.
    fn with(fields: &str) -> Row {
        rows(&format!(r#"[{{"team_id":"1","integration_id":"7","refresh_token":"TTR_1"{fields}}}]"#))
            .remove(0)
    }

    fn problem(row: Row) -> (&'static str, String) {
        let Invalid { reason, message } = row.integration.unwrap_err();
        (reason, message)
    }

    #[test]
    fn a_row_needs_its_ids_and_a_refresh_token() {
        let row = with("").integration.unwrap();
        assert_eq!((row.key.team_id.as_str(), row.key.integration_id.as_str()), ("1", "7"));
        assert_eq!((row.status, row.refresh_token.expose()), (Status::Active, "TTR_1"));
        assert!(row.access_token.is_none() && row.granted_scopes.is_none());
        for (fields, message) in [
            (
                r#""integration_id":7,"refresh_token":"TTR_1""#,
                "team_id: missing, expected a string or an integer",
            ),
            (
                r#""team_id":1,"refresh_token":"TTR_1""#,
                "integration_id: missing, expected a string or an integer",
            ),
            (r#""team_id":1,"integration_id":7"#, "refresh_token: missing, expected a string"),
            (
                r#""team_id":1,"integration_id":7,"refresh_token":null"#,
                "refresh_token: missing, expected a string",
            ),
            (
                r#""team_id":1,"integration_id":7,"refresh_token":"""#,
                "refresh_token: missing, expected a string",
            ),
        ] {
            let row = rows(&format!("[{{{fields}}}]")).remove(0);
            assert_eq!(problem(row), ("missing", message.to_owned()));
        }
    }

    #[test]
    fn every_field_is_read() {
        let row = with(
            r#","status":"paused","app_key":"29a39d","access_token":"TTP_1","access_token_expires_at":1764100000,
               "refresh_token_expires_at":4841467787,"open_id":"o","seller_name":"Bánh Mì","seller_base_region":"VN",
               "granted_scopes":["a","b"]"#,
        );
        let row = row.integration.unwrap();
        assert_eq!(row.status, Status::Other("paused".into()));
        assert_eq!(row.access_token.unwrap().expose(), "TTP_1");
        assert_eq!(row.access_expires_at, Some(UnixTime(1_764_100_000)));
        assert_eq!(row.refresh_expires_at, Some(UnixTime(4_841_467_787)));
        let texts = [row.app_key, row.open_id, row.seller_name, row.seller_base_region];
        assert_eq!(texts.map(Option::unwrap), ["29a39d", "o", "Bánh Mì", "VN"]);
        assert_eq!(row.granted_scopes.unwrap(), ["a", "b"]);
    }

    #[test]
    fn null_means_absent() {
        let names = "status app_key access_token access_token_expires_at refresh_token_expires_at open_id seller_name \
                     seller_base_region granted_scopes";
        for name in names.split(' ') {
            let row = with(&format!(",\"{name}\":null"));
            assert_eq!(format!("{row:?}"), format!("{:?}", with("")), "{name}");
        }
    }

    #[test]
    fn each_mistake_is_named_and_no_value_quoted() {
        let ciphertext = format!(",\"access_token\":\"eyJpdiI6{}\"", "x".repeat(99));
        let large = format!(",\"seller_name\":\"{}\"", "x".repeat(400_000));
        for (fields, reason, message) in [
            (r#","seller":"x""#, "unknown_field", "unknown field `seller`, expected one of `team_id`, "),
            (
                r#","TTR_01234567890123456789":"x""#,
                "unknown_field",
                "unknown field of 24 characters, expected one of `team_id`, ",
            ),
            (r#","status":"a","status":"b""#, "duplicate_field", "duplicate field `status`"),
            (r#","status":7"#, "wrong_type", "status: got an integer, expected a string"),
            (r#","status":"""#, "wrong_type", "status: got an empty string, "),
            (r#","status":"Active""#, "status_nearly_active", "status: differs from \"active\" only"),
            (r#","open_id":{}"#, "wrong_type", "open_id: got an object, expected a string"),
            (r#","access_token":["TTP"]"#, "wrong_type", "access_token: got an array, expected a string"),
            (r#","access_token":"TTP x""#, "blanks_in_token", "access_token: got a text with blanks"),
            (&large, "row_too_large", "got 400077 bytes, expected at most 350000"),
            (&ciphertext, "encrypted_token", "access_token: got a Laravel ciphertext"),
            (
                r#","access_token_expires_at":"TTP""#,
                "wrong_type",
                "access_token_expires_at: got a string, expected a",
            ),
            (
                r#","access_token_expires_at":1.5e9"#,
                "wrong_type",
                "access_token_expires_at: got a number with",
            ),
            (
                r#","access_token_expires_at":604800"#,
                "expiry_is_a_duration",
                "access_token_expires_at: got 604800",
            ),
            (
                r#","refresh_token_expires_at":1764100000000"#,
                "expiry_in_milliseconds",
                "refresh_token_expires_at: got",
            ),
            (
                r#","refresh_token_expires_at":99999999999999999999"#,
                "expiry_in_milliseconds",
                "refresh_token_expires_at",
            ),
            (
                r#","granted_scopes":"TTP""#,
                "wrong_type",
                "granted_scopes: got a string, expected an array of",
            ),
            (r#","granted_scopes":[7]"#, "wrong_type", "granted_scopes: got an array with other values"),
        ] {
            let (got, said) = problem(with(fields));
            assert_eq!(got, reason, "{fields}");
            assert!(said.starts_with(message) && !said.contains("TT"), "{fields}: {said}");
        }
        for row in ["\"TTR_1\"", "7", "[\"TTR_1\"]", "null", "true"] {
            let (reason, said) = problem(rows(&format!("[{row}]")).remove(0));
            assert!(reason == "wrong_type" && said.ends_with(", expected an object"), "{said}");
            assert!(!said.contains("TTR"), "{said}");
        }
    }

    #[test]
    fn a_key_that_occurs_twice_is_refused_the_second_time() {
        let row = |id: &str| format!(r#"{{"team_id":1,"integration_id":{id},"refresh_token":"TTR_{id}"}}"#);
        // Beyond 2^53, where numbers as doubles would be the same.
        let ids = ["9007199254740993", "9007199254740992", "123456789012345678901234567890"];
        let list = ids.map(row).join(",");
        let read: Vec<_> =
            rows(&format!("[{list}]")).into_iter().map(|row| row.integration.unwrap().key).collect();
        assert_eq!(read.iter().map(|key| key.integration_id.as_str()).collect::<Vec<_>>(), ids);

        let text = r#"{"team_id":"1","integration_id":"9007199254740993","refresh_token":"r"}"#;
        let twice = rows(&format!("[{list},{text}]"));
        assert!(twice[..3].iter().all(|row| row.integration.is_ok()));
        let same = "the same team_id and integration_id as row 1".to_owned();
        assert_eq!(problem(twice[3].clone()), ("duplicate_key", same));
    }

    #[test]
    fn an_invalid_row_has_its_ids_as_far_as_they_can_be_read() {
        let id = |team_id: Option<&str>, integration_id: Option<&str>| RowId {
            team_id: team_id.map(Into::into),
            integration_id: integration_id.map(Into::into),
        };
        assert_eq!(with(",\"odd\":1").id, id(Some("1"), Some("7")));
        assert_eq!(rows(r#"[{"team_id":12}]"#)[0].id, id(Some("12"), None));
        assert_eq!(rows(r#"[{"team_id":1.5,"integration_id":7}]"#)[0].id, id(None, Some("7")));
        assert_eq!(rows("[7]")[0].id, id(None, None));
    }

    #[test]
    fn the_request_is_bounded_and_its_error_quotes_nothing() {
        let error = |event: &str| parse(event).unwrap_err().to_string();
        let many = vec!["{}"; 101].join(",");
        for (integrations, got) in [
            (",\"integrations\":\"TTR_1\"".to_owned(), "got a string"),
            (",\"integrations\":{\"refresh_token\":\"TTR_1\"}".to_owned(), "got an object"),
            (format!(",\"integrations\":[{many}]"), "got 101 rows"),
            (String::new(), "missing"),
        ] {
            let expected =
                format!("bad event: integrations: {got}, expected an array of at most 100 objects");
            assert_eq!(error(&format!("{{\"action\":\"import\"{integrations}}}")), expected);
        }
        assert_eq!(rows(&format!("[{}]", vec!["{}"; 100].join(","))).len(), 100);
        assert!(rows("[]").is_empty());
        let unknown = error(r#"{"action":"import","integrations":[],"dry-run":true}"#);
        assert!(unknown.contains("unknown field `dry-run`"), "{unknown}");
    }

    proptest! {
        #[test]
        fn an_integer_id_is_kept_digit_for_digit(id in "-?(0|[1-9][0-9]{0,60})") {
            let rows = rows(&format!(r#"[{{"team_id":{id},"integration_id":"{id}","refresh_token":"r"}}]"#));
            let key = &rows[0].integration.as_ref().unwrap().key;
            prop_assert_eq!((&key.team_id, &key.integration_id), (&id, &id));
        }

        #[test]
        fn no_value_panics_or_is_quoted(field in "team_id|integration_id|status|access_token|refresh_token|open_id|granted_scopes|refresh_token_expires_at",
                                        value in "\\[\"TTR_[a-z]{9}\"\\]|\\{\"TTR_[a-z]{9}\":1\\}|true|[1-9][0-9]{0,39}\\.5|\"TTR_ [a-z]{9}\"") {
            let row = rows(&format!(r#"[{{"{field}":{value}}}]"#)).remove(0);
            let error = row.integration.unwrap_err();
            prop_assert!(!error.message.contains("TTR_"), "{}", error.message);
        }
    }
}
