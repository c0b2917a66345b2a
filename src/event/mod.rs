//! JSON in, a [`Request`] out. Whatever is not understood is refused with an error that names the key: a slip in
//! `team_id` must never come to mean "all teams".

mod read;
mod status;

pub use read::BadEvent;
pub use status::{Format, StatusRequest};

use crate::domain::{
    integration::IntegrationKey,
    secret::AuthCode,
    selection::{CleanupRequest, RefreshRequest, Selection, Trigger},
};
use read::{Id, MAX_INTEGRATION_ID, MAX_TEAM_ID, quoted, read};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, value::RawValue};
use std::fmt;

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Refresh what is due.
    Refresh(RefreshRequest),
    /// Tell how healthy the tokens are.
    Status(StatusRequest),
    /// Tell what the CloudWatch widget shows.
    Describe,
    /// Mark what has expired as expired.
    Cleanup(CleanupRequest),
    /// Call TikTok with each active token.
    Verify(Selection),
    /// Exchange an auth code and store the integration.
    Connect(ConnectRequest),
    /// Do what these messages of the function's own queue say.
    Queue(Vec<QueueRecord>),
}

/// Which integration is to be connected, and by what.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// Which integration: a new one, or one whose seller connects again.
    pub key: IntegrationKey,
    /// What TikTok gave the seller's browser.
    pub auth_code: AuthCode,
    /// Which app; else the row's own, else the default app.
    pub app_key: Option<String>,
    /// Lets another seller's row be taken over.
    pub replace: bool,
}

impl PartialEq for ConnectRequest {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.app_key, self.replace) == (&other.key, &other.app_key, other.replace)
            && self.auth_code.is_same_as(&other.auth_code)
    }
}

impl Eq for ConnectRequest {}

/// One message as SQS delivers it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueRecord {
    /// By which SQS is told that the message could not be done.
    pub message_id: String,
    /// The message's text, which may hold tokens.
    pub body: String,
    event_source: String,
}

impl fmt::Debug for QueueRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueRecord({})", self.message_id)
    }
}

/// Reads one event.
///
/// # Errors
/// [`BadEvent`] for anything that the function does not know: no key is ever ignored.
pub fn parse(event: &str) -> Result<Request, BadEvent> {
    let looks: EventShape = read(event)?;
    if looks.detail_type.is_some() {
        return scheduled(&read(event)?);
    }
    if looks.records.is_some() {
        return queue(read(event)?);
    }
    if looks.describe == Some(true) {
        return read::<status::DescribeEvent>(event).map(|_| Request::Describe);
    }
    match looks.action.as_deref() {
        None | Some("refresh") => manual(read(event)?),
        Some("status") => status::request(read(event)?),
        Some("cleanup") => Ok(cleanup(read(event)?)),
        Some("connect") => connect(read(event)?),
        Some("verify") => verify(read(event)?),
        Some(other) => Err(BadEvent(format!(
            "action: got {}, expected \"refresh\", \"status\", \"verify\", \"connect\" or \"cleanup\"",
            quoted(other)
        ))),
    }
}

/// The few keys that tell kinds of events apart.
#[derive(Deserialize)]
struct EventShape {
    #[serde(rename = "detail-type")]
    detail_type: Option<de::IgnoredAny>,
    #[serde(rename = "Records")]
    records: Option<de::IgnoredAny>,
    describe: Option<bool>,
    action: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manual {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectEvent {
    #[serde(rename = "action")]
    _action: String,
    #[serde(default)]
    team_id: Id<MAX_TEAM_ID>,
    #[serde(default)]
    integration_id: Id<MAX_INTEGRATION_ID>,
    #[serde(default, deserialize_with = "unquoted")]
    auth_code: Option<AuthCode>,
    app_key: Option<String>,
    replace: Option<bool>,
}

/// Reads a secret without ever quoting it, as the parser's own error would.
fn unquoted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AuthCode>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(code) if !code.is_empty() => Ok(Some(code.into())),
        _ => Err(de::Error::custom("expected a string that is not empty")),
    }
}

fn connect(event: ConnectEvent) -> Result<Request, BadEvent> {
    let missing = |name: &str, what: &str| BadEvent(format!("{name}: is missing, expected {what}"));
    let id = "a string or an integer";
    let key = IntegrationKey {
        team_id: event.team_id.0.ok_or_else(|| missing("team_id", id))?.into(),
        integration_id: event.integration_id.0.ok_or_else(|| missing("integration_id", id))?.into(),
    };
    Ok(Request::Connect(ConnectRequest {
        key,
        auth_code: event
            .auth_code
            .ok_or_else(|| missing("auth_code", "the code that TikTok gave the seller"))?,
        app_key: event.app_key.filter(|key| !key.is_empty()),
        replace: event.replace.unwrap_or(false),
    }))
}

fn manual(event: Manual) -> Result<Request, BadEvent> {
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
            let (team_id, integration_id) = (team_id.into(), integration_id.into());
            Ok(Selection::One(IntegrationKey { team_id, integration_id }))
        }
        (None, Some(_)) => Err(BadEvent(
            "integration_id: expected a team_id beside it, as integrations are numbered within their team"
                .into(),
        )),
    }
}

/// An SQS event. Its records are not written by hand, so that keys which AWS adds to them do no harm.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    #[serde(rename = "Records")]
    records: Vec<QueueRecord>,
}

fn queue(event: Queue) -> Result<Request, BadEvent> {
    if let Some(stranger) = event.records.iter().find(|record| record.event_source != "aws:sqs") {
        let got = quoted(&stranger.event_source);
        return Err(BadEvent(format!("Records: got one of eventSource {got}, expected \"aws:sqs\"")));
    }
    Ok(Request::Queue(event.records))
}

/// An EventBridge rule's or Scheduler's event, with the keys that AWS documents for it:
/// <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html>.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scheduled {
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

fn scheduled(event: &Scheduled) -> Result<Request, BadEvent> {
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
            "detail: expected {}; to refresh only a part, give the schedule a constant input such as \
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

/// A rule sends `{}`; Scheduler sends the same as a string.
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
    fn messages_of_the_queue_are_taken_from_sqs_alone_and_never_shown() {
        let event = |source: &str| {
            format!(
                r#"{{"Records":[{{"messageId":"m","receiptHandle":"h","body":"TTR_x","attributes":{{}},
                    "messageAttributes":{{}},"md5OfBody":"d","eventSource":"{source}","awsRegion":"r"}}]}}"#
            )
        };
        let Ok(Request::Queue(records)) = parse(&event("aws:sqs")) else { panic!("expected messages") };
        assert_eq!((records[0].message_id.as_str(), records[0].body.as_str()), ("m", "TTR_x"));
        assert_eq!(format!("{records:?}"), "[QueueRecord(m)]");
        assert!(refusal(&event("aws:s3")).contains("eventSource \"aws:s3\", expected \"aws:sqs\""));
        assert!(refusal(r#"{"Records":7}"#).starts_with("bad event: Records: "));
        assert!(refusal(r#"{"Records":[],"team_id":1}"#).contains("unknown field `team_id`"));
    }

    fn refresh(selection: Selection) -> Request {
        let trigger = Trigger::Manual;
        Request::Refresh(RefreshRequest { selection, force: false, dry_run: false, trigger })
    }

    fn refusal(event: &str) -> String {
        parse(event).expect_err(event).to_string()
    }

    #[test]
    fn an_empty_object_refreshes_what_is_due() {
        assert_eq!(parse("{}"), Ok(refresh(Selection::All)));
        assert_eq!(parse(r#" {"action":"refresh"}"#), Ok(refresh(Selection::All)));
        assert_eq!(parse(r#"{"action":null,"team_id":null}"#), Ok(refresh(Selection::All)));
    }

    #[test]
    fn an_id_may_be_a_string_or_an_integer() {
        for event in [r#"{"team_id":1}"#, r#"{"team_id":"1"}"#] {
            assert_eq!(parse(event), Ok(refresh(Selection::Team("1".into()))));
        }
        let one = IntegrationKey { team_id: "-3".into(), integration_id: "18446744073709551615".into() };
        assert_eq!(
            parse(r#"{"team_id":-3,"integration_id":18446744073709551615}"#),
            Ok(refresh(Selection::One(one)))
        );
    }

    #[test]
    fn force_and_dry_run_are_taken_over() {
        let Ok(Request::Refresh(request)) = parse(r#"{"team_id":1,"force":true,"dry_run":true}"#) else {
            panic!("expected a refresh")
        };
        assert!(request.force && request.dry_run);
    }

    #[test]
    fn a_team_id_of_the_wrong_type_never_means_all() {
        for bad in ["true", "1.5", "[]", "[1]", "{}", r#""""#, "1e2", "99999999999999999999999"] {
            let said = refusal(&format!(r#"{{"team_id":{bad}}}"#));
            assert!(said.starts_with("bad event: team_id: ") && said.contains("expected"), "{bad}: {said}");
        }
        let long = "x".repeat(MAX_TEAM_ID + 1);
        assert_eq!(
            refusal(&format!(r#"{{"team_id":"{long}"}}"#)),
            "bad event: team_id: got 2049 bytes, expected at most 2048"
        );
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        for key in ["team", "teamId", "Team_id", "dryrun", "x"] {
            let said = refusal(&format!(r#"{{"{key}":1}}"#));
            assert!(said.contains(&format!("unknown field `{key}`")) && said.contains("`team_id`"), "{said}");
        }
        assert!(refusal(r#"{"team_id":1,"team_id":2}"#).contains("duplicate field `team_id`"));
    }

    #[test]
    fn a_status_report_and_a_clean_up_take_their_own_keys_alone() {
        let of = |selection, format| Ok(Request::Status(StatusRequest { selection, format }));
        assert_eq!(parse(r#"{"action":"status"}"#), of(Selection::All, Format::Json));
        let team = Selection::Team("1".into());
        assert_eq!(
            parse(r#"{"action":"status","team_id":1,"format":"table"}"#),
            of(team.clone(), Format::Table)
        );
        let cleanup = CleanupRequest { selection: team, dry_run: true };
        assert_eq!(
            parse(r#"{"action":"cleanup","team_id":"1","dry_run":true}"#),
            Ok(Request::Cleanup(cleanup))
        );
        assert!(
            refusal(r#"{"action":"status","format":"xml"}"#)
                .starts_with("bad event: format: unknown variant `xml`")
        );
        let widget = r#"{"action":"status","format":"html","widgetContext":{"theme":"dark","width":588,"timezone":
            {"label":"Local","offsetISO":"+07:00","offsetInMinutes":-420}}}"#;
        let place = Display { dark: true, offset_minutes: 420, zone: "UTC+07:00".into() };
        assert_eq!(parse(widget), of(Selection::All, Format::Html(place)));
        let utc = Format::Html(Display { zone: "UTC".into(), ..Display::default() });
        for odd in ["", r#","widgetContext":{}"#, r#","widgetContext":{"timezone":{"offsetISO":"noon"}}"#] {
            let event = format!(r#"{{"action":"status","format":"html"{odd}}}"#);
            assert_eq!(parse(&event), of(Selection::All, utc.clone()), "{odd}");
        }
        assert!(
            refusal(r#"{"action":"status","widgetContext":{}}"#).starts_with("bad event: widgetContext: ")
        );
        let describe = r#"{"describe":true,"action":"status","format":"html","widgetContext":{}}"#;
        assert_eq!(
            (parse(r#"{"describe":true}"#), parse(describe)),
            (Ok(Request::Describe), Ok(Request::Describe))
        );
        assert!(refusal(r#"{"describe":true,"team":1}"#).contains("unknown field `team`"));
        assert!(refusal(r#"{"describe":false}"#).contains("unknown field `describe`"));
        assert!(refusal(r#"{"action":"status","force":true}"#).contains("unknown field `force`"));
        assert!(
            refusal(r#"{"action":"cleanup","integration_id":7}"#).contains("unknown field `integration_id`")
        );
        assert!(refusal(r#"{"action":"cleanup","team_id":[]}"#).starts_with("bad event: team_id: "));
    }

    #[test]
    fn a_connection_needs_both_ids_and_a_code_which_is_never_quoted() {
        let event =
            r#"{"action":"connect","team_id":1,"integration_id":"7","auth_code":"ROW_x","replace":true}"#;
        let Ok(Request::Connect(request)) = parse(event) else { panic!("expected a connection") };
        assert_eq!(
            (request.key.integration_id.as_str(), request.replace, request.app_key.clone()),
            ("7", true, None)
        );
        assert_eq!(request.auth_code.expose(), "ROW_x");
        assert!(!format!("{request:?}").contains("ROW_x"));
        for name in ["team_id", "integration_id", "auth_code"] {
            let without = event.replace(&format!("\"{name}\":"), &format!("\"{name}\":null,\"app_key\":"));
            let without = without.replace("\"app_key\":1", "\"app_key\":\"a\"");
            assert!(refusal(&without).starts_with(&format!("bad event: {name}: ")), "{without}");
        }
        let number = event.replace("\"ROW_x\"", "424242");
        assert_eq!(refusal(&number), "bad event: auth_code: expected a string that is not empty");
    }

    #[test]
    fn what_was_expected_is_said() {
        assert_eq!(
            refusal(r#"{"team_id":true}"#),
            "bad event: team_id: invalid type: boolean `true`, expected a string of 1 to 2048 bytes, an integer or null"
        );
        assert_eq!(
            refusal(r#"{"force":"yes"}"#),
            "bad event: force: invalid type: string \"yes\", expected a boolean"
        );
        assert!(
            refusal(r#"{"action":"refrehs"}"#).starts_with("bad event: action: got \"refrehs\", expected")
        );
        assert!(refusal(r#"{"action":7}"#).starts_with("bad event: action: "));
        assert!(
            refusal(r#"{"integration_id":7}"#).starts_with("bad event: integration_id: expected a team_id")
        );
        for event in ["[]", "null", "7", r#""refresh""#, ""] {
            assert!(refusal(event).contains("expected a JSON object"), "{event}");
        }
    }

    const RULE: &str = r#"{"version":"0","id":"53dc4d37","detail-type":"Scheduled Event","source":"aws.events",
        "account":"123456789012","time":"2026-11-23T02:00:00Z","region":"eu-central-1","resources":["r"],"detail":{}}"#;

    #[test]
    fn a_rule_and_scheduler_start_the_nightly_run() {
        let scheduler = RULE.replace("aws.events", "aws.scheduler").replace("{}}", r#""{}"}"#);
        for event in [RULE, &scheduler] {
            let Ok(Request::Refresh(request)) = parse(event) else { panic!("{event}") };
            assert_eq!((request.trigger, request.selection), (Trigger::Schedule, Selection::All));
            assert!(!request.force && !request.dry_run);
        }
    }

    #[test]
    fn a_scheduled_event_with_anything_else_in_it_is_refused() {
        let detail = RULE.replace(r#""detail":{}"#, r#""detail":{"team_id":1}"#);
        assert!(refusal(&detail).starts_with("bad event: detail: expected {}"));
        assert!(refusal(&RULE.replace(r#""detail":{}"#, r#""detail":[]"#)).contains("detail: expected {}"));
        assert!(refusal(&RULE.replace("aws.events", "aws.s3")).contains("source: got \"aws.s3\""));
        assert!(refusal(&RULE.replace("Scheduled Event", "Object Created")).contains("detail-type: got"));
        assert!(refusal(&RULE.replace(r#""account""#, r#""team_id""#)).contains("unknown field `team_id`"));
    }

    proptest! {
        #[test]
        fn no_json_event_panics_or_widens_the_selection(team in "[ -~]{0,12}", key in "[a-zA-Z_-]{1,12}") {
            let event = serde_json::json!({ key.clone(): team }).to_string();
            if let Ok(Request::Refresh(request)) = parse(&event) {
                match request.selection {
                    Selection::Team(id) => prop_assert!(key == "team_id" && id == team),
                    // Only a word for the action itself may leave the selection open.
                    Selection::All => prop_assert!(key == "action" && team == "refresh"),
                    Selection::One(_) => prop_assert!(false, "{event}"),
                }
            }
        }

        #[test]
        fn no_text_at_all_panics(event in "\\PC{0,64}") {
            let _ = parse(&event);
        }
    }
}
