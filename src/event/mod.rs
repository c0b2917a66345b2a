//! Parses an invocation's JSON event into a [`Request`]. An unknown field or a wrong type is an error that names the
//! field: a typo in `team_id` must never select all teams.

mod connect;
mod ensure;
mod http;
mod import;
mod read;
mod status;

pub use connect::{ConnectByState, ConnectLinkRequest, ConnectRequest};
pub use http::{HttpRequest, parse_http};
pub use read::BadEvent;
pub use status::{Format, StatusRequest};

use crate::domain::{
    ensure::EnsureRequest,
    import::ImportRequest,
    integration::IntegrationKey,
    quoted::quoted,
    selection::{CleanupRequest, RefreshRequest, Selection, Trigger},
};
use read::{Id, MAX_INTEGRATION_ID, MAX_TEAM_ID, Object, read};
use serde::{Deserialize, de};
use serde_json::{Map, Value, value::RawValue};
use std::fmt;

/// The action that an event requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Refresh the integrations that are due.
    Refresh(RefreshRequest),
    /// Report the health of the tokens.
    Status(StatusRequest),
    /// Return the help text of the CloudWatch widget.
    Describe,
    /// Mark integrations as expired whose refresh token has expired.
    Cleanup(CleanupRequest),
    /// Call TikTok with each active integration's token.
    Verify(Selection),
    /// Exchange an auth code and store the integration.
    Connect(ConnectRequest),
    /// Exchange an auth code and store the integration that a link was made for.
    ConnectByState(ConnectByState),
    /// Make a link with which a seller connects an integration.
    ConnectLink(ConnectLinkRequest),
    /// Make sure that one integration's access token is usable.
    Ensure(EnsureRequest),
    /// Create rows for existing tokens.
    Import(ImportRequest),
    /// Process messages of the function's own queue.
    Queue(Vec<QueueRecord>),
}

/// An SQS message as Lambda delivers it.
/// <https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueRecord {
    /// Identifies the message in the batch response.
    pub message_id: String,
    /// The message's text, which may hold a token pair.
    pub body: String,
    event_source: String,
}

impl fmt::Debug for QueueRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueRecord({})", self.message_id)
    }
}

/// Parses an event.
///
/// # Errors
/// [`BadEvent`] if the event is not a JSON object, or a field is unknown, missing or of the wrong type.
pub fn parse(event: &str) -> Result<Request, BadEvent> {
    let kind: EventKind = read(event)?;
    if kind.detail_type.is_some() {
        return scheduled(&read(event)?);
    }
    if kind.records.is_some() {
        return queue(read(event)?);
    }
    if kind.describe == Some(true) {
        return read::<status::DescribeEvent>(event).map(|_| Request::Describe);
    }
    if kind.request_context.is_some() {
        return Err(BadEvent(
            "requestContext: got an HTTP request, which only the public function (PUBLIC_ENDPOINT=true) answers".into(),
        ));
    }
    match kind.action.as_deref() {
        None | Some("refresh") => refresh(read(event)?),
        Some("status") => status::request(read(event)?),
        Some("cleanup") => Ok(cleanup(read(event)?)),
        Some("connect") => connect::request(read(event)?),
        Some("connect_link") => connect::link_request(read(event)?),
        Some("verify") => verify(read(event)?),
        Some("ensure") => ensure::request(read(event)?),
        Some("import") => import::request(read(event)?),
        Some(other) => Err(BadEvent(format!(
            "action: got {}, expected \"refresh\", \"ensure\", \"status\", \"verify\", \"connect\", \
             \"connect_link\", \"import\" or \"cleanup\"",
            quoted(other)
        ))),
    }
}

/// Parses an event that came through the alias `ensure`, which is what applications may invoke: it accepts no other action.
///
/// # Errors
/// [`BadEvent`], as [`parse`], or if the event requests anything but `ensure`.
pub fn parse_ensure(event: &str) -> Result<EnsureRequest, BadEvent> {
    match parse(event)? {
        Request::Ensure(request) => Ok(request),
        _ => Err(BadEvent(
            "action: the alias \"ensure\" accepts only \"ensure\"; invoke the function itself".into(),
        )),
    }
}

/// The fields that distinguish the kinds of events.
#[derive(Deserialize)]
struct EventKind {
    #[serde(rename = "detail-type")]
    detail_type: Option<de::IgnoredAny>,
    #[serde(rename = "Records")]
    records: Option<de::IgnoredAny>,
    #[serde(rename = "requestContext")]
    request_context: Option<de::IgnoredAny>,
    describe: Option<bool>,
    action: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshEvent {
    #[serde(rename = "action")]
    _action: Option<String>,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    #[serde(default)]
    integration_id: Id<MAX_INTEGRATION_ID>,
    force: Option<bool>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CleanupEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    dry_run: Option<bool>,
}

fn cleanup(event: CleanupEvent) -> Request {
    let selection = event.team_id.selection();
    Request::Cleanup(CleanupRequest { selection, dry_run: event.dry_run.unwrap_or(false) })
}

fn refresh(event: RefreshEvent) -> Result<Request, BadEvent> {
    let selection = selection(event.team_id, event.integration_id)?;
    Ok(Request::Refresh(RefreshRequest {
        selection,
        force: event.force.unwrap_or(false),
        dry_run: event.dry_run.unwrap_or(false),
        trigger: Trigger::Manual,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    #[serde(default)]
    integration_id: Id<MAX_INTEGRATION_ID>,
}

fn verify(event: VerifyEvent) -> Result<Request, BadEvent> {
    selection(event.team_id, event.integration_id).map(Request::Verify)
}

fn selection(
    team_id: Id<MAX_TEAM_ID>,
    integration_id: Id<MAX_INTEGRATION_ID>,
) -> Result<Selection, BadEvent> {
    match (team_id.0, integration_id.0) {
        (None, None) => Ok(Selection::All),
        (Some(team_id), None) => Ok(Selection::Team(team_id)),
        (Some(team_id), Some(integration_id)) => {
            Ok(Selection::One(IntegrationKey { team_id, integration_id }))
        }
        (None, Some(_)) => Err(BadEvent(
            "integration_id: expected a team_id as well, because an integration_id is unique only within its team"
                .into(),
        )),
    }
}

/// An SQS event. Unknown fields of a record are ignored, because AWS may add some.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueEvent {
    #[serde(rename = "Records")]
    records: Vec<Object<QueueRecord>>,
}

fn queue(event: QueueEvent) -> Result<Request, BadEvent> {
    let records: Vec<_> = event.records.into_iter().map(|Object(record)| record).collect();
    if let Some(index) = records.iter().position(|record| record.event_source != "aws:sqs") {
        let got = quoted(&records[index].event_source);
        return Err(BadEvent(format!("Records[{index}].eventSource: got {got}, expected \"aws:sqs\"")));
    }
    Ok(Request::Queue(records))
}

/// An event of an EventBridge rule or of EventBridge Scheduler, with the fields that AWS documents:
/// <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html>.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduledEvent {
    #[serde(rename = "detail-type")]
    detail_type: String,
    source: String,
    detail: Option<Box<RawValue>>,
    #[serde(rename = "version")]
    _version: Option<de::IgnoredAny>,
    #[serde(rename = "id")]
    _id: Option<de::IgnoredAny>,
    #[serde(rename = "account")]
    _account: Option<de::IgnoredAny>,
    #[serde(rename = "time")]
    _time: Option<de::IgnoredAny>,
    #[serde(rename = "region")]
    _region: Option<de::IgnoredAny>,
    #[serde(rename = "resources")]
    _resources: Option<de::IgnoredAny>,
    #[serde(rename = "replay-name")]
    _replay_name: Option<de::IgnoredAny>,
}

fn scheduled(event: &ScheduledEvent) -> Result<Request, BadEvent> {
    if event.detail_type != "Scheduled Event" {
        let got = quoted(&event.detail_type);
        return Err(BadEvent(format!("detail-type: got {got}, expected \"Scheduled Event\"")));
    }
    if !matches!(event.source.as_str(), "aws.events" | "aws.scheduler") {
        let got = quoted(&event.source);
        return Err(BadEvent(format!("source: got {got}, expected \"aws.events\" or \"aws.scheduler\"")));
    }
    if !event.detail.as_deref().is_none_or(is_empty_detail) {
        return Err(BadEvent(
            "detail: expected {}; to refresh a single team, give the schedule a constant input such as \
             {\"action\":\"refresh\",\"team_id\":1}"
                .into(),
        ));
    }
    Ok(Request::Refresh(RefreshRequest {
        selection: Selection::All,
        force: false,
        dry_run: false,
        trigger: Trigger::Schedule,
    }))
}

/// Whether `detail` is empty. A rule sends the object `{}`, Scheduler the string `"{}"`.
fn is_empty_detail(detail: &RawValue) -> bool {
    let is_empty =
        |json: &str| serde_json::from_str::<Map<String, Value>>(json).is_ok_and(|map| map.is_empty());
    is_empty(detail.get()) || serde_json::from_str::<String>(detail.get()).is_ok_and(|text| is_empty(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::display::Display;
    use proptest::prelude::*;

    #[test]
    fn queue_messages_come_only_from_sqs_and_debug_output_hides_them() {
        let event = |source: &str| {
            format!(
                r#"{{"Records":[{{"messageId":"m","receiptHandle":"h","body":"TTR_x","attributes":{{}},
                    "messageAttributes":{{}},"md5OfBody":"d","eventSource":"{source}","awsRegion":"r"}}]}}"#
            )
        };
        let Ok(Request::Queue(records)) = parse(&event("aws:sqs")) else { panic!("expected messages") };
        assert_eq!((records[0].message_id.as_str(), records[0].body.as_str()), ("m", "TTR_x"));
        assert_eq!(format!("{records:?}"), "[QueueRecord(m)]");
        assert_eq!(
            error(&event("aws:s3")),
            "bad event: Records[0].eventSource: got \"aws:s3\", expected \"aws:sqs\""
        );
        assert_eq!(
            error(r#"{"Records":7}"#),
            "bad event: Records: invalid type: integer `7`, expected an array"
        );
        assert_eq!(error(r#"{"Records":{}}"#), "bad event: Records: invalid type: object, expected an array");
        assert_eq!(
            error(r#"{"Records":[7]}"#),
            "bad event: Records[0]: invalid type: integer `7`, expected an object"
        );
        assert_eq!(
            error(r#"{"Records":[["m","{}","aws:sqs"]]}"#),
            "bad event: Records[0]: invalid type: array, expected an object"
        );
        assert!(error(r#"{"Records":[],"team_id":1}"#).contains("unknown field `team_id`"));
    }

    fn refresh_of(selection: Selection) -> Request {
        let trigger = Trigger::Manual;
        Request::Refresh(RefreshRequest { selection, force: false, dry_run: false, trigger })
    }

    fn error(event: &str) -> String {
        parse(event).expect_err(event).to_string()
    }

    #[test]
    fn an_empty_object_refreshes_what_is_due() {
        assert_eq!(parse("{}"), Ok(refresh_of(Selection::All)));
        assert_eq!(parse(r#" {"action":"refresh"}"#), Ok(refresh_of(Selection::All)));
        assert_eq!(parse(r#"{"action":null,"team_id":null}"#), Ok(refresh_of(Selection::All)));
    }

    #[test]
    fn an_id_may_be_a_string_or_an_integer() {
        for event in [r#"{"team_id":1}"#, r#"{"team_id":"1"}"#] {
            assert_eq!(parse(event), Ok(refresh_of(Selection::Team("1".into()))));
        }
        let one = IntegrationKey { team_id: "-3".into(), integration_id: "18446744073709551615".into() };
        assert_eq!(
            parse(r#"{"team_id":-3,"integration_id":18446744073709551615}"#),
            Ok(refresh_of(Selection::One(one)))
        );
    }

    #[test]
    fn force_and_dry_run_are_read() {
        let Ok(Request::Refresh(request)) = parse(r#"{"team_id":1,"force":true,"dry_run":true}"#) else {
            panic!("expected a refresh")
        };
        assert!(request.force && request.dry_run);
    }

    #[test]
    fn a_team_id_of_the_wrong_type_never_means_all() {
        for bad in ["true", "1.5", "[]", "[1]", "{}", r#""""#, "1e2", "99999999999999999999999"] {
            let error = error(&format!(r#"{{"team_id":{bad}}}"#));
            assert!(
                error.starts_with("bad event: team_id: ") && error.contains("expected"),
                "{bad}: {error}"
            );
        }
        let long = "x".repeat(MAX_TEAM_ID + 1);
        assert_eq!(
            error(&format!(r#"{{"team_id":"{long}"}}"#)),
            "bad event: team_id: got 2049 bytes, expected at most 2048"
        );
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        for key in ["team", "teamId", "Team_id", "dryrun", "x"] {
            let error = error(&format!(r#"{{"{key}":1}}"#));
            assert!(
                error.contains(&format!("unknown field `{key}`")) && error.contains("`team_id`"),
                "{error}"
            );
        }
        assert!(error(r#"{"team_id":1,"team_id":2}"#).contains("duplicate field `team_id`"));
        // Whoever mixed up a key and its value may have sent a token.
        let odd = error(r#"{"TTR_0123456789abcdef0123":"refresh_token"}"#);
        assert!(
            odd.starts_with("bad event: unknown field of 24 characters, expected one of `action`"),
            "{odd}"
        );
    }

    #[test]
    fn status_and_cleanup_accept_only_their_own_fields() {
        let status = |selection, format| Ok(Request::Status(StatusRequest { selection, format }));
        assert_eq!(parse(r#"{"action":"status"}"#), status(Selection::All, Format::Json));
        let team = Selection::Team("1".into());
        assert_eq!(
            parse(r#"{"action":"status","team_id":1,"format":"table"}"#),
            status(team.clone(), Format::Table)
        );
        let cleanup = CleanupRequest { selection: team, dry_run: true };
        assert_eq!(
            parse(r#"{"action":"cleanup","team_id":"1","dry_run":true}"#),
            Ok(Request::Cleanup(cleanup))
        );
        assert_eq!(
            error(r#"{"action":"status","format":"xml"}"#),
            "bad event: format: got \"xml\", expected \"json\", \"table\", \"summary\" or \"html\""
        );
        assert_eq!(
            error(r#"{"action":"status","format":7}"#),
            "bad event: format: invalid type: integer `7`, expected a string"
        );
        let widget = r#"{"action":"status","format":"html","widgetContext":{"theme":"dark","width":588,"timezone":
            {"label":"Local","offsetISO":"+07:00","offsetInMinutes":-420}}}"#;
        let display = Display { dark: true, offset_minutes: 420, zone: "UTC+07:00".into() };
        assert_eq!(parse(widget), status(Selection::All, Format::Html(display)));
        let utc = Format::Html(Display { zone: "UTC".into(), ..Display::default() });
        for context in ["", r#","widgetContext":{}"#, r#","widgetContext":{"timezone":{"offsetISO":"noon"}}"#]
        {
            let event = format!(r#"{{"action":"status","format":"html"{context}}}"#);
            assert_eq!(parse(&event), status(Selection::All, utc.clone()), "{context}");
        }
        assert!(error(r#"{"action":"status","widgetContext":{}}"#).starts_with("bad event: widgetContext: "));
        let describe = r#"{"describe":true,"action":"status","format":"html","widgetContext":{}}"#;
        assert_eq!(
            (parse(r#"{"describe":true}"#), parse(describe)),
            (Ok(Request::Describe), Ok(Request::Describe))
        );
        assert!(error(r#"{"describe":true,"team":1}"#).contains("unknown field `team`"));
        assert!(error(r#"{"describe":false}"#).contains("unknown field `describe`"));
        assert!(error(r#"{"action":"status","force":true}"#).contains("unknown field `force`"));
        assert!(
            error(r#"{"action":"cleanup","integration_id":7}"#).contains("unknown field `integration_id`")
        );
        assert!(error(r#"{"action":"cleanup","team_id":[]}"#).starts_with("bad event: team_id: "));
    }

    #[test]
    fn connect_needs_both_ids_and_a_code_which_no_error_quotes() {
        let event =
            r#"{"action":"connect","team_id":1,"integration_id":"7","auth_code":"ROW_x","replace":true}"#;
        let Ok(Request::Connect(request)) = parse(event) else { panic!("expected a connect request") };
        assert_eq!(
            (request.key.integration_id.as_str(), request.replace, request.app_key.clone()),
            ("7", true, None)
        );
        assert_eq!(request.auth_code.expose(), "ROW_x");
        let Ok(Request::Connect(pasted)) = parse(&event.replace("ROW_x", "\u{feff} ROW_x\\n")) else {
            panic!()
        };
        assert_eq!(pasted.auth_code.expose(), "ROW_x");
        assert!(!format!("{request:?}").contains("ROW_x"));
        for name in ["team_id", "integration_id", "auth_code"] {
            let without = event.replace(&format!("\"{name}\":"), &format!("\"{name}\":null,\"app_key\":"));
            let without = without.replace("\"app_key\":1", "\"app_key\":\"a\"");
            assert!(error(&without).starts_with(&format!("bad event: {name}: ")), "{without}");
        }
        let number = event.replace("\"ROW_x\"", "424242");
        assert_eq!(error(&number), "bad event: auth_code: expected a non-empty string");
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        assert_eq!(
            error(r#"{"team_id":true}"#),
            "bad event: team_id: invalid type: boolean `true`, expected a string of 1 to 2048 bytes, an integer or null"
        );
        assert_eq!(
            error(r#"{"force":"yes"}"#),
            "bad event: force: invalid type: string \"yes\", expected a boolean"
        );
        assert!(error(r#"{"action":"refrehs"}"#).starts_with("bad event: action: got \"refrehs\", expected"));
        assert!(error(r#"{"action":7}"#).starts_with("bad event: action: "));
        assert!(
            error(r#"{"integration_id":7}"#).starts_with("bad event: integration_id: expected a team_id")
        );
        for event in ["[]", "null", "7", r#""refresh""#, ""] {
            assert!(error(event).contains("expected a JSON object"), "{event}");
        }
    }

    #[test]
    fn errors_call_shapes_as_json_does() {
        assert_eq!(error(r#"{"action":[]}"#), "bad event: action: invalid type: array, expected a string");
        assert_eq!(error(r#"{"action":{}}"#), "bad event: action: invalid type: object, expected a string");
        let widget = |context: &str| {
            error(&format!(r#"{{"action":"status","format":"html","widgetContext":{context}}}"#))
        };
        for (context, got) in [("7", "integer `7`"), ("[\"dark\"]", "array"), ("\"dark\"", "string \"dark\"")]
        {
            assert_eq!(
                widget(context),
                format!("bad event: widgetContext: invalid type: {got}, expected an object")
            );
        }
        assert_eq!(
            widget(r#"{"timezone":"+07:00"}"#),
            "bad event: widgetContext.timezone: invalid type: string \"+07:00\", expected an object"
        );
        assert_eq!(
            widget(r#"{"timezone":{"offsetISO":7}}"#),
            "bad event: widgetContext.timezone.offsetISO: invalid type: integer `7`, expected a string"
        );
    }

    #[test]
    fn broken_json_is_reported_with_its_position() {
        for (event, cause) in [
            ("{", "EOF while parsing an object at line 1 column 1"),
            (r#"{"team_id":1,}"#, "trailing comma at line 1 column 14"),
            ("{team_id:1}", "key must be a string at line 1 column 2"),
            ("{} {}", "trailing characters at line 1 column 4"),
        ] {
            assert_eq!(error(event), format!("bad event: invalid JSON: {cause}"));
        }
    }

    #[test]
    fn an_empty_or_long_field_leaves_the_error_readable() {
        let fields = "expected one of `action`, `team_id`, `integration_id`, `force`, `dry_run`";
        assert_eq!(error(r#"{"":1}"#), format!("bad event: \"\": unknown field ``, {fields}"));
        let long = "x".repeat(5_000);
        let unknown = error(&format!(r#"{{"{long}":1}}"#));
        assert!(unknown.ends_with(fields) && unknown.chars().count() < 800, "{unknown}");
        let wrong = error(&format!(r#"{{"force":"{long}"}}"#));
        assert!(wrong.starts_with("bad event: force: invalid type: string of "), "{wrong}");
        assert!(!wrong.contains("xxx"), "a token in the wrong place is not repeated: {wrong}");
        assert!(wrong.ends_with("5000 characters, expected a boolean"), "{wrong}");
        for confusing in ["x at line 1 column 9", "expected a sequence", "sequence", "a\", expected b"] {
            let event = serde_json::json!({ "force": confusing }).to_string();
            let told = format!("invalid type: string {confusing:?}, expected a boolean");
            assert!(error(&event).ends_with(&told), "{}", error(&event));
        }
    }

    const RULE: &str = r#"{"version":"0","id":"53dc4d37","detail-type":"Scheduled Event","source":"aws.events",
        "account":"123456789012","time":"2026-11-23T02:00:00Z","region":"eu-central-1","resources":["r"],"detail":{}}"#;

    #[test]
    fn a_rule_and_scheduler_start_a_run_of_all_integrations() {
        let scheduler = RULE.replace("aws.events", "aws.scheduler").replace("{}}", r#""{}"}"#);
        for event in [RULE, &scheduler] {
            let Ok(Request::Refresh(request)) = parse(event) else { panic!("{event}") };
            assert_eq!((request.trigger, request.selection), (Trigger::Schedule, Selection::All));
            assert!(!request.force && !request.dry_run);
        }
    }

    #[test]
    fn a_scheduled_event_with_any_other_content_is_refused() {
        let detail = RULE.replace(r#""detail":{}"#, r#""detail":{"team_id":1}"#);
        assert!(error(&detail).starts_with("bad event: detail: expected {}"));
        assert!(error(&RULE.replace(r#""detail":{}"#, r#""detail":[]"#)).contains("detail: expected {}"));
        assert!(error(&RULE.replace("aws.events", "aws.s3")).contains("source: got \"aws.s3\""));
        assert!(error(&RULE.replace("Scheduled Event", "Object Created")).contains("detail-type: got"));
        assert!(error(&RULE.replace(r#""account""#, r#""team_id""#)).contains("unknown field `team_id`"));
    }

    proptest! {
        #[test]
        fn no_field_panics_or_widens_the_selection(team in "[ -~]{0,12}", key in "[a-zA-Z_-]{1,12}") {
            let event = serde_json::json!({ key.clone(): team }).to_string();
            if let Ok(Request::Refresh(request)) = parse(&event) {
                match request.selection {
                    Selection::Team(id) => prop_assert!(key == "team_id" && id == team),
                    // Only the default action, by name, may leave the selection open.
                    Selection::All => prop_assert!(key == "action" && team == "refresh"),
                    Selection::One(_) => prop_assert!(false, "{event}"),
                }
            }
        }

        #[test]
        fn no_text_panics(event in "\\PC{0,64}") {
            let _ = parse(&event);
        }
    }
}
