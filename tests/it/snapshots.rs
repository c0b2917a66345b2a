//! What a person reads, word for word: reports, the command's output, errors and logs. A change of any text shows here.
//!
//! `cargo insta review` shows what has changed and accepts it. Without that tool, `INSTA_UPDATE=always cargo test
//! --all-features --test it snapshots` accepts everything, and `git diff` shows it.

use super::support::{
    Behaviour, Fault, NIGHT, Step, World,
    aws::Gate,
    days, hours, logs, minutes,
    world::{self, Shop},
};
use aws_sdk_dynamodb::types::AttributeValue;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tiktok_token_refresh::{
    handler::{Function, InvocationError},
    settings::Settings,
};
use tokio::net::TcpListener;

/// One thing at a time, so that a run does everything in the same order each time.
const ONE_AT_A_TIME: (&str, &str) = ("MAX_CONCURRENCY", "1");
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&";

/// Holds a text by the snapshot of this name. Control characters show as escapes.
pub(super) fn hold(name: &str, text: &str) {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() && c != '\n' { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

/// An answer as JSON, its keys in their order, without what varies.
fn pretty(answer: &impl Serialize) -> String {
    serde_json::to_string_pretty(answer).unwrap().lines().map(steady).collect::<Vec<_>>().join("\n")
}

/// HTML with a line break between each two tags and rules. A line break of its own shows as ⏎.
fn in_lines(html: &str) -> String {
    html.replace('\n', "⏎").replace("><", ">\n<").replace("}.", "}\n.")
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A team with an integration in every state and every oddity, and another team that is well. The oddities are in one
/// team, whose rows are always read in the same order.
async fn town() -> World {
    let world = World::with(&[ONE_AT_A_TIME]).await;
    let row = |id: &str, seller: &str| world.integration().team("1").id(id).text("seller_name", seller);
    let fresh = row("101-healthy", "Bánh Mì 25").number("last_refreshed_at", NIGHT - 86_400);
    fresh.insert().await;
    row("102-needs-refresh", "Phở Thìn Lò Đúc").expiring_in(hours(20)).insert().await;
    row("103-expiring-soon", "Cà Phê Trứng Giảng").expiring_in(minutes(20)).insert().await;
    let expired = row("104-expired", "Nón Lá Huế").expiring_in(hours(-1)).refreshable_for(days(6));
    let expired = expired.text("error_code", "429").number("error_at", NIGHT - 86_400);
    expired.number("consecutive_failures", 1).insert().await;
    row("105-no-access-token", "Lụa Hà Đông").without("access_token").insert().await;
    let marked = row("106-marked", "Gốm Bát Tràng").expiring_in(days(-2)).status("error");
    let marked = marked.text("error_code", "36004005").number("error_at", NIGHT - 3 * 86_400);
    let said =
        "the seller must connect again: TikTok responded with 36004005 \"can not find related auth record\"";
    marked.text("error_message", said).number("consecutive_failures", 3).insert().await;
    row("107-old", "Chợ Bến Thành").refreshable_for(days(-1)).insert().await;
    row("108-no-refresh-token", "Đèn Lồng Hội An").without("refresh_token").insert().await;
    row("109-paused", "Kẹo Dừa Bến Tre").expiring_in(hours(-3)).status("paused").insert().await;
    let garbled = row("110-unreadable", "Mắm Phú Quốc");
    garbled.attribute("access_token_expires_at", text("tomorrow")).insert().await;
    row("111-cut-off", "Trà Thái Nguyên").expiring_in(hours(1)).leased_for(minutes(-1)).insert().await;
    row("112-locked", "Cốm Làng Vòng").expiring_in(hours(2)).leased_for(minutes(10)).insert().await;
    row("113-twin", "Mây Tre Phú Vinh").text("open_id", "one-seller").insert().await;
    row("114-twin", "Mây Tre Phú Vinh").text("open_id", "one-seller").insert().await;
    let hostile = row("115-hostile", HOSTILE).expiring_in(hours(-2)).status("error");
    let hostile = hostile.text("error_message", &format!("{HOSTILE}\u{1b}[31mred\u{7}\nnext line"));
    hostile.insert().await;
    row(&format!("116-{HOSTILE}"), HOSTILE).expiring_in(minutes(3)).status(HOSTILE).insert().await;
    let absurd = row("117-absurd", &"Áo Dài Thái Tuấn ".repeat(4));
    absurd.number("access_token_expires_at", 4_841_467_787).insert().await;
    row("118-cleaned-up", "").refreshable_for(days(-40)).status("expired").insert().await;
    let ending = row("119-ending", "Tranh Đông Hồ").without("seller_name").refreshable_for(hours(20));
    ending.without("access_token_expires_at").insert().await;
    row("120-unknown-app", "Sơn Mài").expiring_in(hours(3)).text("app_key", "nobody").insert().await;
    world.integration().team("2").id("201").expiring_in(hours(100)).insert().await;
    world
}

async fn status(world: &World, event: Value) -> String {
    let mut event = event;
    event["action"] = json!("status");
    world.refresh(event).await.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_widget() {
    let world = town().await;
    let widget = |theme: &str, zone: &str| {
        json!({"format": "html", "widgetContext": {
            "theme": theme, "timezone": {"label": "Local", "offsetISO": zone, "offsetInMinutes": 0}}})
    };
    hold("widget-light", &in_lines(&status(&world, widget("light", "+00:00")).await));
    hold("widget-dark", &in_lines(&status(&world, widget("dark", "+07:00")).await));
    hold("widget-of-one", &in_lines(&status(&world, json!({"format": "html", "team_id": 2})).await));
    let empty = json!({"format": "html", "team_id": "nobody"});
    hold("widget-empty", &in_lines(&status(&world, empty).await));
    hold("widget-help", world.refresh(json!({"describe": true})).await.as_str().unwrap());
}

#[tokio::test]
async fn a_widget_of_more_than_it_shows() {
    let world = World::new().await;
    for n in 100..160 {
        let row = world.integration().team("1").id(&n.to_string()).expiring_in(hours(-1));
        row.leased_for(minutes(-1)).insert().await;
    }
    let html = in_lines(&status(&world, json!({"format": "html"})).await);
    let more: Vec<&str> = html.lines().filter(|line| line.contains("more")).collect();
    hold("widget-more", &more.join("\n"));
}

#[tokio::test]
async fn the_status_report() {
    let world = town().await;
    hold("status-table", &status(&world, json!({"format": "table"})).await);
    hold("status-summary", &status(&world, json!({"format": "summary"})).await);
    let report = world.function.handle(r#"{"action":"status"}"#, world.deadline()).await.unwrap();
    hold("status-json", &pretty(&report));
    let nobody = json!({"format": "table", "team_id": "nobody"});
    hold("status-table-empty", &status(&world, nobody).await);
}

/// Lambda's Invoke endpoint for a world's function: what the command shows goes by the world's clock.
async fn endpoint(world: &World) -> String {
    let router = Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .with_state((world.function.clone(), world.deadline()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn invoke(
    State((function, deadline)): State<(Arc<Function>, DateTime<Utc>)>,
    Path(name): Path<String>,
    event: String,
) -> Response {
    if name != "tiktok-token-refresh" {
        return (StatusCode::NOT_FOUND, [("x-amzn-errortype", "ResourceNotFoundException")]).into_response();
    }
    match world::invoke(&function, &serde_json::from_str(&event).unwrap(), deadline).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let told = json!({"errorType": error.error_type(), "errorMessage": error.to_string()});
            ([("x-amz-function-error", "Unhandled")], Json(told)).into_response()
        }
    }
}

/// The command, with an environment of its own.
struct Terminal {
    url: String,
    columns: Option<&'static str>,
}

impl Terminal {
    async fn at(world: &World) -> Self {
        Self { url: endpoint(world).await, columns: None }
    }

    /// Runs a command; what it was, what it said and its exit code.
    async fn run(&self, arguments: &'static [&'static str], input: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"));
        command.args(arguments).args(["--endpoint-url", &self.url, "--region", "us-east-1"]);
        command.env_clear().env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        if let Some(columns) = self.columns {
            command.env("COLUMNS", columns);
        }
        let input = input.to_owned();
        let told = tokio::task::spawn_blocking(move || transcript(command, arguments, &input)).await;
        of_any_machine(&told.unwrap())
    }
}

/// Runs a command to its end; what it was, what it said and its exit code.
fn transcript(mut command: Command, arguments: &[&str], input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let complained =
        if complained.is_empty() { complained } else { format!("[standard error]\n{complained}") };
    let code = output.status.code().unwrap();
    let arguments: String = arguments
        .iter()
        .map(|argument| if argument.is_empty() { " \"\"".to_owned() } else { format!(" {argument}") })
        .collect();
    format!("$ tiktok-tokens{arguments}\n{said}{complained}[exit code {code}]\n\n")
}

#[tokio::test]
async fn the_commands_refresh() {
    let world = town().await;
    world.tiktok.revoke("seller-1-104-expired");
    let terminal = Terminal::at(&world).await;
    hold("command-refresh-dry-run", &terminal.run(&["refresh", "--dry-run"], "").await);
    hold("command-refresh", &terminal.run(&["refresh"], "").await);
    hold("command-refresh-one-team", &terminal.run(&["refresh", "--team-id", "2", "--force"], "").await);
    let one = &["refresh", "--team-id", "2", "--integration-id", "999"];
    hold("command-refresh-nothing", &terminal.run(one, "").await);
}

#[tokio::test]
async fn the_commands_status() {
    let world = town().await;
    let mut terminal = Terminal::at(&world).await;
    hold("command-status", &terminal.run(&["status"], "").await);
    terminal.columns = Some("80");
    hold("command-status-80", &terminal.run(&["status"], "").await);
    terminal.columns = Some("200");
    hold("command-status-200", &terminal.run(&["status"], "").await);
    hold("command-status-summary", &terminal.run(&["status", "--format", "summary"], "").await);
    let one_team = &["status", "--team-id", "2", "--format", "summary"];
    hold("command-status-summary-one-team", &terminal.run(one_team, "").await);
}

#[tokio::test]
async fn the_commands_verify() {
    let world = town().await;
    world.tiktok.revoke("seller-1-104-expired");
    let terminal = Terminal::at(&world).await;
    hold("command-verify", &terminal.run(&["verify", "--team-id", "1"], "").await);
}

#[tokio::test]
async fn the_commands_cleanup() {
    let world = town().await;
    let terminal = Terminal::at(&world).await;
    hold("command-cleanup-dry-run", &terminal.run(&["cleanup", "--team-id", "1", "--dry-run"], "").await);
    hold("command-cleanup", &terminal.run(&["cleanup", "--team-id", "1"], "").await);
}

#[tokio::test]
async fn the_commands_connect() {
    let world = town().await;
    let terminal = Terminal::at(&world).await;
    let new = &["connect", "--team-id", "9", "--integration-id", "901"];
    let known = &["connect", "--team-id", "1", "--integration-id", "101-healthy"];
    let replace = &["connect", "--team-id", "1", "--integration-id", "101-healthy", "--replace"];
    let app = &["connect", "--team-id", "9", "--integration-id", "902", "--app-key", "nobody"];
    let code = |open_id: &str| format!("{}\n", world.tiktok.auth_code(open_id, "Bánh Cuốn Bà Hoành"));
    let told = [
        terminal.run(new, &code("seller-9")).await,
        terminal.run(new, &code("seller-9")).await,
        terminal.run(known, &code("a-stranger")).await,
        terminal.run(replace, &code("a-stranger")).await,
        terminal.run(app, &code("seller-9")).await,
        terminal.run(new, "no-such-code\n").await,
        terminal.run(new, "\n").await,
    ];
    hold("command-connect", &told.concat());
}

#[tokio::test]
async fn the_commands_errors() {
    let world = World::with(&[("TABLE_NAME", "no-such-table")]).await;
    let terminal = Terminal::at(&world).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = Terminal { url: format!("http://{nobody}"), columns: None };
    let told = [
        terminal.run(&["refresh"], "").await,
        terminal.run(&["status"], "").await,
        terminal.run(&["refresh", "--team-id", ""], "").await,
        terminal.run(&["refresh", "--integration-id", "7"], "").await,
        terminal.run(&["status", "--watch", "0"], "").await,
        terminal.run(&["status", "--function-name", "another"], "").await,
        gone.run(&["status"], "").await,
    ];
    hold("command-errors", &told.concat());
}

/// Runs the command without a function.
fn alone(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"));
    command.args(arguments).env_clear();
    transcript(command, arguments, "").replace(env!("CARGO_PKG_VERSION"), "[version]")
}

#[test]
fn the_command_explains_itself() {
    let subcommands = [
        "refresh",
        "ensure",
        "status",
        "verify",
        "connect",
        "connect-link",
        "import",
        "cleanup",
        "local",
        "completions",
        "man",
    ];
    hold("command-help", &[alone(&["--help"]), alone(&[]), alone(&["--version"])].concat());
    let each = subcommands.map(|subcommand| alone(&[subcommand, "--help"]));
    hold("command-help-subcommands", &each.concat());
    hold("command-man", &alone(&["man"]));
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The local stack goes by the real clock. What depends on it is left out, and so is what aligns the tables.
#[test]
fn the_local_stack() {
    let folder = TempDir::new().unwrap();
    let local = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"));
        command.arg("local").args(arguments).env_clear().current_dir(folder.path());
        command
    };
    let once = ["--once", "--port", "0"];
    let first = transcript(local(&once), &["local", "--once", "--port", "0"], "");
    hold("local-once", &first.lines().filter_map(without_the_time).collect::<Vec<_>>().join("\n"));

    let stays = local(&["--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stays = Running(stays);
    let lines = BufReader::new(stays.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut told = String::new();
    for line in lines.skip_while(|line| !line.starts_with("An earlier run")) {
        told += &(without_the_code(&of_any_machine(&line)) + "\n");
        if line.contains("reject-access-tokens") {
            break;
        }
    }
    hold("local-stays-up", &told);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = transcript(local(&["--port", &port]), &["local", "--port", &port], "");
    hold("local-port-taken", &refused.replace(&port, "[port]"));
}

/// A line without the auth code, which is new each time.
fn without_the_code(line: &str) -> String {
    line.split(' ')
        .map(|word| if word.starts_with("TTC_") { "[code]" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

/// A line of the local stack's; none if it only draws a table.
fn without_the_time(line: &str) -> Option<String> {
    if line.starts_with(['┌', '╞', '└']) {
        return None;
    }
    if line.starts_with("The scheduled run took") {
        return Some("The scheduled run took [duration] ms:".into());
    }
    let cell = |cell: &str| match cell.trim() {
        token if token.starts_with('…') => "[token's end]".to_owned(),
        moment if moment.starts_with("in ") || moment.ends_with(" ago") => "[when]".to_owned(),
        message if message.starts_with("another attempt holds the lease") => "[locked]".to_owned(),
        cell => cell.to_owned(),
    };
    Some(line.trim_matches('│').split('┆').map(cell).collect::<Vec<_>>().join(" | "))
}

/// A text without this machine's ports and numbers of errors.
fn of_any_machine(text: &str) -> String {
    ["127.0.0.1:", "os error "].into_iter().fold(text.to_owned(), |text, before| {
        let mut parts = text.split(before);
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        rest.fold(first, |text, rest| text + before + "[number]" + rest)
    })
}

/// A setting's value or an event, cut where it runs long.
fn cut(text: &str) -> String {
    if text.trim().is_empty() {
        return format!("{text:?}");
    }
    match text.char_indices().nth(160) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
    }
}

/// A line of a table: what there was, and what was said of it.
fn told(what: &str, said: &str) -> String {
    format!("{what}\n    → {said}\n")
}

const BAD_IDS: [&str; 8] = ["true", "1.5", "1e2", "99999999999999999999999", "[]", "[1]", "{}", "\"\""];
const NO_BOOLEANS: [&str; 4] = ["\"yes\"", "1", "[]", "{}"];
const NO_TEXTS: [&str; 4] = ["7", "true", "[]", "{}"];

/// A text in which each of the values stands in place of `[]`.
fn each(shape: &str, values: &[&str]) -> Vec<String> {
    values.iter().map(|value| shape.replace("[]", value)).collect()
}

/// An event in each of these other versions: what to replace, and by what.
fn odd(event: &str, versions: &[(&str, &str)]) -> Vec<String> {
    let version = |(from, to): &(&str, &str)| {
        assert!(event.contains(from), "{from}");
        event.replacen(from, to, 1)
    };
    versions.iter().map(version).collect()
}

fn no_objects() -> Vec<String> {
    let no_objects = ["", " ", "null", "true", "7", "\"refresh\"", "refresh", "[]", "[{\"team_id\":1}]"];
    let no_json = [
        "{",
        "{\"team_id\":",
        "{\"team_id\":1,}",
        "{team_id:1}",
        "{'team_id':1}",
        "{} {}",
        "{\"team_id\":1}]",
    ];
    no_objects.into_iter().chain(no_json).map(ToOwned::to_owned).collect()
}

fn bad_refreshes() -> Vec<String> {
    let long = ["x".repeat(2049), "x".repeat(1025), "x".repeat(300)];
    let unknown = ["team", "teamId", "Team_id", "dryrun", "", "format", "widgetContext", &long[2]];
    [
        each(r#"{"action":[]}"#, &NO_TEXTS),
        each(r#"{"action":"[]"}"#, &["delete", "Refresh", "", "refresh "]),
        each(r#"{"team_id":[]}"#, &BAD_IDS),
        each(r#"{"team_id":"[]"}"#, &[&long[0]]),
        each(r#"{"team_id":1,"integration_id":[]}"#, &BAD_IDS),
        each(r#"{"team_id":1,"integration_id":"[]"}"#, &[&long[1]]),
        each(r#"{"integration_id":[]}"#, &["7"]),
        each(r#"{"team_id":null,"integration_id":[]}"#, &["7"]),
        each(r#"{"force":[]}"#, &NO_BOOLEANS),
        each(r#"{"dry_run":[]}"#, &NO_BOOLEANS),
        each(r#"{"[]":1}"#, &unknown),
        each(r#"{"action":"refresh","[]":1}"#, &["replace", "auth_code", "records"]),
    ]
    .concat()
}

fn keys_that_are_there_twice() -> Vec<String> {
    let connecting = ["team_id", "integration_id", "app_key", "replace"];
    [
        each(r#"{"[]":null,"[]":null}"#, &["action", "team_id", "integration_id", "force", "dry_run"]),
        each(r#"{"action":"status","[]":null,"[]":null}"#, &["team_id", "format", "widgetContext"]),
        each(r#"{"action":"cleanup","[]":null,"[]":null}"#, &["team_id", "dry_run"]),
        each(r#"{"action":"verify","[]":null,"[]":null}"#, &["team_id", "integration_id"]),
        each(r#"{"action":"connect","[]":null,"[]":null}"#, &connecting),
        each(r#"{"action":"ensure","[]":null,"[]":null}"#, &["valid_for", "rejected_token_sha256"]),
        each(r#"{"action":"connect","auth_code":[],"auth_code":[]}"#, &["\"hidden\""]),
        each(r#"{"describe":[],"describe":[]}"#, &["true"]),
        each(r#"{"detail-type":[],"detail-type":[]}"#, &["\"Scheduled Event\""]),
        each(r#"{"detail-type":"Scheduled Event","source":[],"source":[]}"#, &["\"aws.events\""]),
        each(r#"{"Records":[],"Records":[]}"#, &["[]"]),
    ]
    .concat()
}

fn bad_status_reports() -> Vec<String> {
    let widget = r#"{"action":"status","format":"html","widgetContext":[]}"#;
    [
        each(r#"{"action":"status","format":[]}"#, &["7", "true", "{}", "\"xml\"", "\"HTML\"", "\"\""]),
        each(r#"{"action":"status","team_id":[]}"#, &BAD_IDS),
        each(r#"{"action":"status","[]":true}"#, &["force", "dry_run", "integration_id", "team"]),
        each(r#"{"action":"status","widgetContext":[]}"#, &["{}", "7"]),
        each(r#"{"action":"status","format":"[]","widgetContext":{}}"#, &["json", "table", "summary"]),
        each(widget, &["7", "\"dark\"", "true", "[7]"]),
        each(widget, &[r#"{"theme":7}"#, r#"{"timezone":7}"#, r#"{"timezone":{"offsetISO":7}}"#]),
        each(widget, &[r#"{"theme":"dark","theme":"dark"}"#, r#"{"timezone":"+07:00"}"#]),
        each(r#"{"describe":[]}"#, &["false", "null", "\"yes\"", "1", "{}"]),
        each(r#"{"describe":true,"[]":1}"#, &["team", "force", "action", "format"]),
        each(r#"{"describe":true,"team_id":[]}"#, &BAD_IDS),
        each(r#"{"describe":true,"format":"[]"}"#, &["xml"]),
    ]
    .concat()
}

fn bad_cleanups_and_verifications() -> Vec<String> {
    [
        each(r#"{"action":"cleanup","team_id":[]}"#, &BAD_IDS),
        each(r#"{"action":"cleanup","dry_run":[]}"#, &NO_BOOLEANS),
        each(r#"{"action":"cleanup","[]":7}"#, &["integration_id", "force", "format"]),
        each(r#"{"action":"verify","team_id":[]}"#, &BAD_IDS),
        each(r#"{"action":"verify","team_id":1,"integration_id":[]}"#, &BAD_IDS),
        each(r#"{"action":"verify","integration_id":[]}"#, &["7"]),
        each(r#"{"action":"verify","[]":true}"#, &["force", "dry_run", "format"]),
    ]
    .concat()
}

fn bad_requests_for_a_token() -> Vec<String> {
    let ensure = r#"{"action":"ensure","team_id":1,"integration_id":7}"#;
    let missing = [(r#""team_id":1,"#, ""), (r#","integration_id":7"#, "")];
    let durations = ["300", "\"\"", "\"soon\"", "\"25h\"", "\"-5m\"", "true", "[]"];
    let hashes = ["7", "\"\"", "\"hidden\"", "true", "[\"hidden\"]"];
    [
        odd(ensure, &missing),
        each(&ensure.replace(":1,", ":[],"), &BAD_IDS),
        each(&ensure.replace(":7", ":[]"), &BAD_IDS),
        each(&ensure.replace('}', ",\"valid_for\":[]}"), &durations),
        each(&ensure.replace('}', ",\"rejected_token_sha256\":[]}"), &hashes),
        each(&ensure.replace('}', ",\"[]\":\"hidden\"}"), &["force", "access_token"]),
    ]
    .concat()
}

fn bad_connections() -> Vec<String> {
    let connect = r#"{"action":"connect","team_id":1,"integration_id":7,"auth_code":"hidden"}"#;
    let missing = [(r#""team_id":1,"#, ""), (r#""integration_id":7,"#, ""), (r#","auth_code":"hidden""#, "")];
    let codes = ["424242", "\"\"", "null", "true", "[\"hidden\"]", "{\"hidden\":1}"];
    [
        odd(connect, &missing),
        each(&connect.replace(":1,", ":[],"), &BAD_IDS),
        each(&connect.replace(":7,", ":[],"), &BAD_IDS),
        each(&connect.replace("\"hidden\"", "[]"), &codes),
        each(&connect.replace('}', ",\"app_key\":[]}"), &NO_TEXTS),
        each(&connect.replace('}', ",\"replace\":[]}"), &NO_BOOLEANS),
        each(&connect.replace('}', ",\"[]\":\"hidden\"}"), &["force", "authcode"]),
    ]
    .concat()
}

fn bad_scheduled_events() -> Vec<String> {
    let scheduled = r#"{"detail-type":"Scheduled Event","source":"aws.events","detail":{}}"#;
    let kinds = ["7", "null", "{}", "\"\"", "\"Object Created\"", "\"scheduled event\""];
    let details = ["[]", "7", "\"x\"", "\"\"", r#"{"team_id":1}"#, r#""{\"team_id\":1}""#];
    let more = [r#"{},"team_id":1"#, r#"{},"action":"refresh""#, r#"{},"Records":[]"#];
    [
        each(&scheduled.replace("\"Scheduled Event\"", "[]"), &kinds),
        each(&scheduled.replace("\"aws.events\"", "[]"), &["7", "null", "\"\"", "\"aws.s3\""]),
        odd(scheduled, &[(r#""source":"aws.events","#, "")]),
        each(&scheduled.replace("{}", "[]"), &details),
        each(&scheduled.replace("{}", "[]"), &more),
    ]
    .concat()
}

fn bad_events_of_a_queue() -> Vec<String> {
    let records = [
        "null",
        "7",
        "{}",
        "[7]",
        "[null]",
        "[{}]",
        r#"[{"messageId":"m"}]"#,
        r#"[{"messageId":"m","body":"{}"}]"#,
        r#"[{"messageId":7,"body":"{}","eventSource":"aws:sqs"}]"#,
        r#"[{"messageId":"m","body":7,"eventSource":"aws:sqs"}]"#,
        r#"[{"messageId":"m","body":"{}","eventSource":"aws:s3"}]"#,
        r#"[{"messageId":"m","body":"{}","eventSource":7}]"#,
        r#"[],"team_id":1"#,
        r#"[],"action":"refresh""#,
    ];
    each(r#"{"Records":[]}"#, &records)
}

#[tokio::test]
async fn what_is_said_of_bad_events() {
    let world = World::new().await;
    let mut table = String::new();
    let events = [
        no_objects(),
        bad_refreshes(),
        keys_that_are_there_twice(),
        bad_status_reports(),
        bad_cleanups_and_verifications(),
        bad_requests_for_a_token(),
        bad_connections(),
        bad_scheduled_events(),
        bad_events_of_a_queue(),
    ];
    for event in events.concat() {
        let Err(error) = world.function.handle(&event, world.deadline()).await else {
            panic!("{event} was understood")
        };
        table += &told(&cut(&event), &format!("{}: {error}", error.error_type()));
    }
    hold("bad-events", &table);
}

fn parsed(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let value =
        |name: &str| variables.iter().rfind(|(known, _)| *known == name).map(|(_, value)| (*value).into());
    Settings::parse(value).map_err(|error| error.to_string())
}

#[test]
fn what_is_said_of_bad_settings() {
    let long = "9".repeat(150);
    let word = "x".repeat(150);
    let bad = [
        ("TABLE_NAME", ""),
        ("TABLE_NAME", " "),
        ("APP_CREDENTIALS_SECRET_ID", ""),
        ("REFRESH_AHEAD", "2 nights"),
        ("REFRESH_AHEAD", "48"),
        ("REFRESH_AHEAD", "-5m"),
        ("REFRESH_AHEAD", "0s"),
        ("REFRESH_AHEAD", "31d"),
        ("MAX_CONCURRENCY", "0"),
        ("MAX_CONCURRENCY", "401"),
        ("MAX_CONCURRENCY", "-1"),
        ("MAX_CONCURRENCY", "1.5"),
        ("MAX_CONCURRENCY", "many"),
        ("MAX_CONCURRENCY", &long),
        ("MAX_CONCURRENCY", &word),
        ("MAX_REQUESTS_PER_SECOND", "0"),
        ("MAX_REQUESTS_PER_SECOND", "10001"),
        ("MAX_REQUESTS_PER_SECOND", "fast"),
        ("TIKTOK_TIMEOUT", "99ms"),
        ("TIKTOK_TIMEOUT", "61s"),
        ("TIKTOK_TIMEOUT", "10"),
        ("TIKTOK_TIMEOUT", "soon"),
        ("TIKTOK_AUTH_URL", "auth"),
        ("TIKTOK_AUTH_URL", "http://auth.example"),
        ("TIKTOK_AUTH_URL", "ftp://127.0.0.1"),
        ("TIKTOK_AUTH_URL", "https://auth.example?x=1"),
        ("TIKTOK_AUTH_URL", "https://auth.example/#x"),
        ("TIKTOK_AUTH_URL", "https://somebody:hidden@auth.example"),
        ("TIKTOK_AUTH_URL", "https://:hidden@auth.example"),
        ("TIKTOK_API_URL", "http://10.0.0.1"),
        ("TIKTOK_API_URL", "https://api.example?x=1"),
        ("TIKTOK_API_URL", "https://somebody@api.example"),
        ("WORK_QUEUE_URL", "queue"),
        ("WORK_QUEUE_URL", "http://sqs.example/1/queue"),
        ("WORK_QUEUE_URL", "https://sqs.example/1/queue?x"),
        ("WORK_QUEUE_URL", "https://somebody:hidden@sqs.example/1/queue"),
        ("FAN_OUT_ABOVE", "0"),
        ("FAN_OUT_ABOVE", "1000001"),
        ("FAN_OUT_ABOVE", "all"),
        ("LOG_LEVEL", "loud"),
        ("LOG_LEVEL", "7"),
        ("LOG_LEVEL", "off"),
    ];
    let mut table = String::new();
    let mut add = |variables: &[(&str, &str)]| {
        let error = parsed(variables).expect_err(&format!("{variables:?}"));
        let (name, value) = variables.last().unwrap();
        table += &told(&format!("{name}={}", cut(value)), &error.replace('\n', "\n      "));
    };
    for setting in bad {
        add(&[("TABLE_NAME", "t"), ("APP_CREDENTIALS_SECRET_ID", "s"), setting]);
    }
    add(&[("TABLE_NAME", "t"), ("TIKTOK_SHOP_APP_KEY", "k")]);
    add(&[("TABLE_NAME", "t"), ("TIKTOK_SHOP_APP_SECRET", "hidden")]);
    hold("bad-settings", &table);

    let names =
        ["REFRESH_AHEAD", "MAX_CONCURRENCY", "MAX_REQUESTS_PER_SECOND", "TIKTOK_TIMEOUT", "TIKTOK_AUTH_URL"];
    let more = ["TIKTOK_API_URL", "WORK_QUEUE_URL", "FAN_OUT_ABOVE", "LOG_LEVEL"];
    let everything: Vec<(&str, &str)> = names.into_iter().chain(more).map(|name| (name, "wrong")).collect();
    let all = parsed(&everything).unwrap_err();
    let mut function = Command::new(env!("CARGO_BIN_EXE_tiktok-token-refresh"));
    let output = function.env_clear().envs(everything).output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    hold(
        "bad-settings-all",
        &format!("{all}\n\n[the function's standard output]\n{said}[its standard error]\n{complained}"),
    );
}

/// The log's levels; each prints its own lines and those of the levels before it.
const LEVELS: [&str; 4] = ["ERROR", "WARN", "INFO", "DEBUG"];

/// The log's lines that hold `mark`, as a subscriber at `level` prints them, without what varies.
fn log(mark: &str, level: &str) -> String {
    let printed = LEVELS.iter().take_while(|each| **each != level).chain([&level]);
    let printed: Vec<String> = printed.map(|each| format!("\"level\":\"{each}\"")).collect();
    let lines = logs::text();
    let lines = lines.lines().filter(|line| line.contains(mark));
    let lines = lines.filter(|line| printed.iter().any(|level| line.contains(level)));
    lines.map(|line| steady(line) + "\n").collect()
}

/// A line of the log or of an answer, without what varies and without the modules that lines come from.
fn steady(line: &str) -> String {
    let steady =
        ["timestamp", "run_id", "duration_ms", "wait_ms"].into_iter().fold(line.to_owned(), |line, name| {
            let key = format!("\"{name}\":");
            let Some((before, after)) = line.split_once(&key) else { return line };
            let end = after.find([',', '}']).unwrap();
            let space = if after.starts_with(' ') { " " } else { "" };
            format!("{before}{key}{space}[{name}]{}", &after[end..])
        });
    match steady.split_once("\"target\":\"tiktok_token_refresh") {
        None => steady,
        Some((before, after)) => {
            let (_, after) = after.split_once('"').unwrap();
            format!("{before}\"target\":\"tiktok_token_refresh[module]\"{after}")
        }
    }
}

fn run_id(answer: &Value) -> String {
    answer["run_id"].as_str().unwrap().to_owned()
}

/// The log of a run, at its most talkative level.
fn log_of(answer: &Value) -> String {
    log(&run_id(answer), "DEBUG")
}

/// The log of the last refresh, also if it failed as a whole.
fn log_of_the_last(world: &World) -> String {
    log_of(world.metrics().last().unwrap())
}

/// One run in which integrations end in every way, each at its place.
struct Night {
    world: World,
    shops: HashMap<i64, Shop>,
    /// Every lease is asked for here.
    gate: Gate,
}

impl Night {
    async fn new() -> Self {
        let world = World::with(&[ONE_AT_A_TIME, ("EVENT_BUS_NAME", "platform")]).await;
        let row = |id: &str| world.integration().team("1").id(id);
        let due = |place: i64, id: &str| row(&format!("{place}-{id}")).expiring_in(minutes(place));
        // The first one's task panics; the second proves the app, so that those whom TikTok rejects are marked at once.
        let due = [
            due(10, "lost-by-a-bug"),
            due(11, "refreshed"),
            due(12, "busy-at-first"),
            due(13, "cut-off-before").leased_for(minutes(-1)),
            due(14, "asked-twice"),
            due(15, "superseded"),
            due(16, "table-refuses"),
            due(17, "deleted-before"),
            due(18, "deleted-in-flight"),
            due(19, "rejected-and-connected"),
            due(20, "revoked"),
            due(21, "lost-answer").leased_for(minutes(-1)),
            due(22, "another-seller"),
            due(23, "no-refresh-token").without("refresh_token"),
            due(24, "locked").leased_for(minutes(10)),
            due(25, "garbled-token").attribute("access_token", number(7)),
            due(26, "unknown-app").text("app_key", "nobody"),
            due(27, "refused"),
            due(28, "busy"),
            due(29, "server-error"),
            due(30, "unanswered"),
            due(31, "refused-and-not-noted"),
            due(32, "refused-and-overtaken"),
            due(33, "not-saved"),
            due(34, "no-time"),
            due(35, "no-time"),
        ];
        let mut shops = HashMap::new();
        for (place, due) in (10..).zip(due) {
            shops.insert(place, due.insert().await);
        }
        let others = [
            row("50-fresh"),
            row("51-ending").refreshable_for(days(3)),
            row("52-old").refreshable_for(days(-1)),
            row("53-marked").expiring_in(hours(-1)).status("error"),
            row("54-cleaned-up").expiring_in(hours(-1)).status("expired"),
            row("55-paused").expiring_in(hours(-1)).status("paused"),
            row("56-garbled").attribute("access_token_expires_at", text("tomorrow")),
            row("57-no-status").without("status"),
        ];
        for other in others {
            other.insert().await;
        }
        let night = Self { world, shops, gate: Gate::new() };
        night.set_the_scene();
        night
    }

    /// What TikTok, the table and the event bus do by themselves.
    fn set_the_scene(&self) {
        let busy = |wait| Behaviour::Status(429, "too many requests", wait);
        let refused = Behaviour::Code(36_009_999, "something new");
        let behaviours = [
            (12, vec![busy(Some(0))]),
            (14, vec![Behaviour::CutAfterRedeeming]),
            (22, vec![Behaviour::With(json!({"open_id": "another-seller"}))]),
            (27, vec![refused.clone()]),
            (28, vec![Behaviour::Status(503, "", Some(3_600))]),
            (29, vec![Behaviour::Code(36_009_003, "internal error")]),
            (30, vec![Behaviour::Garbled("{\"code\":0}"); 2]),
            (31, vec![refused.clone()]),
            (32, vec![refused]),
        ];
        for (place, behaviours) in behaviours {
            self.world.tiktok.next(&self.shops[&place].open_id, behaviours);
        }
        for revoked in [19, 20, 21] {
            self.world.tiktok.revoke(&self.shops[&revoked].open_id);
        }
        let aws = &self.world.aws;
        // The sixth of those that ask for a lease is 16.
        aws.fault_at(Step::Acquire, 6, denied());
        aws.fault(Step::Acquire, usize::MAX, Fault::Hold(self.gate.clone()));
        aws.fault(Step::Publish, 1, Fault::RefuseEntries(1));
        self.world.panic_in_the_next_task();
    }

    /// What else happens to the integrations, while the run is at them.
    async fn takes_its_course(&self) {
        let (world, shop) = (&self.world, |place| &self.shops[&place]);
        // 11 to 14.
        self.pass(4).await;
        let save = self.until(Step::Save).await;
        self.connect(shop(15)).await;
        save.open();
        self.gate.reached().await;
        world.delete(shop(17)).await;
        self.gate.open();
        let save = self.until(Step::Save).await;
        world.delete(shop(18)).await;
        save.open();
        let mark = self.until(Step::Settle).await;
        self.connect(shop(19)).await;
        mark.open();
        // 20 to 30 without 26, which asks for no lease.
        self.pass(10).await;
        self.gate.reached().await;
        world.aws.fault(Step::Settle, 1, denied());
        self.gate.open();
        let note = self.until(Step::Settle).await;
        world.write(shop(32), &[("lock_owner", text("another-attempt"))]).await;
        note.open();
        // The first save is refused, the second meets a changed row at the last moment, the third is refused.
        self.gate.reached().await;
        world.aws.fault(Step::Save, 1, denied());
        let save = world.aws.hold(Step::Save);
        world.aws.fault(Step::Save, usize::MAX, denied());
        self.gate.open();
        save.reached().await;
        world.write(shop(33), &[("status", text("paused"))]).await;
        world.pass(minutes(15));
        save.open();
    }

    /// The next integrations go through.
    async fn pass(&self, count: usize) {
        for _ in 0..count {
            self.gate.reached().await;
            self.gate.open();
        }
    }

    /// The next integration goes through and stops before a step.
    async fn until(&self, step: Step) -> Gate {
        self.gate.reached().await;
        let next = self.world.aws.hold(step);
        self.gate.open();
        next.reached().await;
        next
    }

    /// A seller connects again.
    async fn connect(&self, shop: &Shop) {
        let pair = self.world.tiktok.authorize(&shop.open_id, "S");
        let expiry = self.world.now() + days(8);
        let pair = [
            ("access_token", text(&pair.access_token)),
            ("refresh_token", text(&pair.refresh_token)),
            ("access_token_expires_at", number(expiry.timestamp())),
        ];
        self.world.write(shop, &pair).await;
    }
}

fn denied() -> Fault {
    Fault::Refuse(400, "AccessDeniedException")
}

#[tokio::test]
async fn a_night_in_which_everything_happens() {
    let night = Night::new().await;
    let world = &night.world;
    let run = Box::pin(world.function.handle("{}", world.deadline()));
    let both = async { tokio::join!(run, night.takes_its_course()).0 };
    let answer = Box::pin(tokio::time::timeout(Duration::from_mins(2), both)).await;
    let answer = answer.expect("the integrations come in this order").unwrap();
    let run_id = run_id(&serde_json::to_value(&answer).unwrap());
    for level in LEVELS {
        hold(&format!("night-log-{}", level.to_lowercase()), &log(&run_id, level));
    }
    hold("night-answer", &pretty(&answer));
    let told =
        ["integration_id", "status", "error_code", "error_message", "error_at", "consecutive_failures"];
    let mut rows = told.join(" | ") + "\n";
    for row in world.everything().await {
        let told = told.map(|name| match row.get(name) {
            Some(AttributeValue::S(value) | AttributeValue::N(value)) => value.clone(),
            _ => "-".into(),
        });
        rows += &(told.join(" | ") + "\n");
    }
    hold("night-rows", &rows);
}

#[tokio::test]
async fn the_logs_of_other_runs() {
    let world = town().await;
    world.tiktok.revoke("seller-1-104-expired");
    let one_team = |action: &str| json!({"action": action, "team_id": 1});
    let dry_run = json!({"dry_run": true, "team_id": 1});
    hold("log-dry-run", &log_of(&world.refresh(dry_run).await));
    hold("log-verify", &log_of(&world.refresh(one_team("verify")).await));
    hold("log-cleanup", &log_of(&world.refresh(one_team("cleanup")).await));
    let nobody = world.refresh(json!({"team_id": "nobody"})).await;
    let not_found = world.refresh(json!({"team_id": 2, "integration_id": 999})).await;
    hold("log-nothing-found", &(log_of(&nobody) + &log_of(&not_found)));
}

/// Lines of which each is told once: how often something is tried again depends on the machine.
fn once(lines: &str) -> String {
    let mut told = HashSet::new();
    lines.lines().filter(|line| told.insert(*line)).map(|line| line.to_owned() + "\n").collect()
}

#[tokio::test]
async fn the_logs_of_the_queue() {
    let queue = ("WORK_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/work");
    let world = World::with(&[ONE_AT_A_TIME, queue, ("FAN_OUT_ABOVE", "1")]).await;
    // Only the first can be asked for proof.
    for (id, expires_in) in [("1", hours(1)), ("2", hours(-1))] {
        world.integration().team("1").id(id).expiring_in(expires_in).insert().await;
    }
    hold("log-fan-out", &log_of(&world.refresh_all().await));
    world.deliver().await;
    hold("log-fanned-out", &log_of_the_last(&world));

    // The table would not take a pair for a while; the queue has it.
    let world = World::with(&[ONE_AT_A_TIME, queue]).await;
    world.integration().team("waiting").id("7").expiring_in(hours(1)).insert().await;
    world.aws.fault(Step::Save, usize::MAX, denied());
    world.refresh_all().await;
    world.deliver().await;
    world.aws.heal();
    world.deliver().await;
    let work = json!({"kind": "work", "work": {
        "force": false, "run_started_at": NIGHT,
        "integrations": vec![json!({"team_id": "waiting", "integration_id": "7"}); 51]}});
    let rescue = json!({"kind": "rescue", "rescue": {"team_id": "waiting", "integration_id": "7"}});
    for body in ["no JSON".to_owned(), work.to_string(), rescue.to_string()] {
        let record = json!({"messageId": "waiting", "body": body, "eventSource": "aws:sqs"});
        world.refresh(json!({"Records": [record]})).await;
    }
    hold("log-rescue", &once(&log("\":\"waiting\"", "DEBUG")));
}

#[tokio::test]
async fn what_is_said_when_a_run_fails() {
    let mut table = String::new();
    let mut add = |case: &str, error: &InvocationError| {
        table += &told(case, &format!("{}: {error}", error.error_type()));
    };
    let events =
        [json!({}), json!({"action": "status"}), json!({"action": "verify"}), json!({"action": "cleanup"})];
    let missing = World::with(&[("TABLE_NAME", "no-such-table")]).await;
    for event in &events {
        add(&format!("no table, {event}"), &missing.invoke(event).await.unwrap_err());
    }
    // Two worlds: the credentials of a run that could read them would serve the next.
    let world = World::new().await;
    for code in ["AccessDeniedException", "UnrecognizedClientException", "ValidationException"] {
        world.aws.fault(Step::Scan, usize::MAX, Fault::Refuse(400, code));
        add(&format!("the table says {code}"), &world.invoke(&json!({})).await.unwrap_err());
        world.aws.heal();
    }
    let world = World::new().await;
    for code in ["AccessDeniedException", "DecryptionFailure", "InvalidRequestException"] {
        world.aws.fault(Step::Secret, usize::MAX, Fault::Refuse(400, code));
        add(&format!("the secret's store says {code}"), &world.invoke(&json!({})).await.unwrap_err());
        world.aws.heal();
    }
    let secrets = [
        "hidden",
        "[]",
        "{}",
        r#"{"app_key":"a"}"#,
        r#"{"app_secret":"hidden"}"#,
        r#"{"app_key":"a","app_secret":7}"#,
        r#"{"app_key":"a","app_secret":""}"#,
        r#"{"apps":[]}"#,
        r#"{"apps":7}"#,
        r#"{"apps":[{"app_key":"a"}]}"#,
    ];
    for secret in secrets {
        world.aws.set_secret(Some(secret));
        add(&format!("the secret is {secret}"), &world.invoke(&json!({})).await.unwrap_err());
    }
    world.aws.set_secret(None);
    for event in [json!({}), json!({"action": "verify"})] {
        add(&format!("no secret, {event}"), &world.invoke(&event).await.unwrap_err());
    }
    hold("failed-runs", &table);
    hold("log-no-secret", &log_of_the_last(&world));
}

/// A world with so many integrations that are due.
async fn with_due(count: i64) -> World {
    let world = World::with(&[ONE_AT_A_TIME]).await;
    for n in 1..=count {
        world.integration().team("1").id(&n.to_string()).expiring_in(minutes(10 + n)).insert().await;
    }
    world
}

#[tokio::test]
async fn what_is_said_when_an_app_is_refused() {
    // The app's secret was replaced, and what was stored is not the new one.
    let world = with_due(5).await;
    world.tiktok.set_apps(vec![world::app(world::APP_KEY, "app-secret-rotated")]);
    let error = world.invoke(&json!({})).await.unwrap_err();
    hold("app-refused", &format!("{}: {error}\n\n{}", error.error_type(), log_of_the_last(&world)));

    // The new one is stored, but not current yet.
    let pending = json!({"app_key": world::APP_KEY, "app_secret": "app-secret-rotated"}).to_string();
    world.aws.set_version("AWSPENDING", Some(&pending));
    hold("log-rotation", &log_of(&world.refresh_all().await));

    let world = with_due(6).await;
    for n in 1..=6 {
        world.tiktok.revoke(&format!("seller-1-{n}"));
    }
    let error = world.invoke(&json!({})).await.unwrap_err();
    hold("app-rejects-all", &format!("{}: {error}\n\n{}", error.error_type(), log_of_the_last(&world)));

    let world = with_due(21).await;
    world.tiktok.always(Some(Behaviour::Code(36_009_003, "internal error")));
    let told = world.refresh_all().await["integrations"][20].to_string();
    hold("app-is-down", &told);
}

#[tokio::test]
async fn what_is_said_when_tiktok_cannot_be_reached() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::with(&[("TIKTOK_AUTH_URL", &format!("http://{nobody}"))]).await;
    world.integration().team("1").id("7").expiring_in(hours(1)).insert().await;
    hold("tiktok-unreachable", &of_any_machine(&log_of(&world.refresh_all().await)));
}

#[tokio::test]
async fn what_is_said_when_a_call_is_refused() {
    let world = World::new().await;
    world.integration().team("1").id("7").insert().await;
    let mut table = String::new();
    for (status, code, message) in [
        (401, 105_002, "access token is expired"),
        (401, 105_005, "access scope is missing"),
        (401, 106_001, "sign is invalid"),
        (400, 36_009_004, "timestamp is invalid"),
        (403, 101_000, "token not for this shop"),
        (403, 36_009_043, "shop is inactive"),
        (400, 36_009_004, "app_key is invalid"),
        (403, 36_009_033, "IP address is not in the IP allow list"),
        (429, 36_009_002, "rate limit"),
        (500, 36_009_003, "internal error"),
        (401, 0, ""),
    ] {
        world.tiktok.open_api_answers(Some((status, code, message)));
        let answer = world.refresh(json!({"action": "verify"})).await;
        let text = |name: &str| answer["integrations"][0][name].as_str().unwrap().to_owned();
        table += &told(
            &format!("{status} {code} {message:?}"),
            &format!("{}: {}", text("reason"), text("message")),
        );
    }
    hold("refused-calls", &table);
}
