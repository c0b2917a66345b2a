//! `tiktok-tokens`: the whole system on one machine, as a newcomer meets it, and the operator's commands against it.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
};
use tempfile::TempDir;

fn local(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"));
    command.current_dir(folder.path()).arg("local").args(arguments);
    command
}

fn once(folder: &TempDir, arguments: &[&str]) -> Output {
    local(folder, arguments).args(["--once", "--port", "0"]).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn it_shows_the_integrations_before_the_run_and_after_it() {
    let folder = TempDir::new().unwrap();
    let first = once(&folder, &[]);
    let shown = text(&first);
    assert!(first.status.success(), "{shown} {}", String::from_utf8_lossy(&first.stderr));
    assert!(
        shown.contains("15 examined, 11 due: 8 refreshed, 1 locked, 3 cannot be refreshed, 1 failed"),
        "{shown}"
    );
    let (before, after) = shown.split_once("The scheduled run took").unwrap();
    let state = |part: &str, seller: &str| {
        let row = part.lines().rfind(|line| line.contains(seller)).unwrap();
        row.trim_end_matches([' ', '│']).rsplit('┆').next().unwrap().trim().to_owned()
    };
    assert_eq!(
        (state(before, "Yesterday's Toys"), state(after, "Yesterday's Toys")),
        ("expired".into(), "healthy".into())
    );
    assert_eq!(
        (state(before, "Revoked Rings"), state(after, "Revoked Rings")),
        ("needs refresh".into(), "cannot refresh".into())
    );
    assert_eq!(state(after, "Garbled Garments"), "malformed");
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "it fits");
    assert!(!shown.contains("TTP_") && !shown.contains("TTR_"), "tokens show by their ends alone");
    let log = std::fs::read_to_string(folder.path().join(".local/function.log")).unwrap();
    assert!(log.contains("\"_aws\"") && log.contains("completed successfully") && !log.contains("TTR_"));
}

#[test]
fn a_second_start_goes_on_where_the_first_ended_and_reset_starts_over() {
    let folder = TempDir::new().unwrap();
    once(&folder, &[]);
    let second = text(&once(&folder, &[]));
    // The rows that TikTok rejected are marked, and not asked for again.
    let counted = "15 examined, 1 due: 0 refreshed, 1 locked, 3 cannot be refreshed, 1 failed";
    assert!(second.contains(counted), "{second}");
    assert!(second.contains("--reset starts over"), "{second}");
    assert!(text(&once(&folder, &["--reset"])).contains("8 refreshed"));
}

#[test]
fn a_taken_port_is_told_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = TempDir::new().unwrap();
    for arguments in [&["--port", &port][..], &["--port", "0", "--dynamodb-port", &port]] {
        let output = local(&folder, &["--once"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8(output.stderr).unwrap();
        let option = arguments[arguments.len() - 2];
        let expected = format!("error: port {port} is taken");
        assert!(said.starts_with(&expected) && said.contains(&format!("{option} 0")), "{said}");
    }
    assert!(!folder.path().join(".local").exists(), "the other stack's data are not touched");
}

struct Stack(Child, String);

impl Stack {
    fn start(folder: &TempDir) -> Self {
        Self::start_telling(folder).0
    }

    /// The stack, and what it told until it was ready.
    fn start_telling(folder: &TempDir) -> (Self, String) {
        let child = local(folder, &["--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stack = Self(child, String::new());
        let lines = BufReader::new(stack.0.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
        let mut told = Vec::new();
        for line in lines {
            told.push(line.clone());
            if let Some((_, rest)) = line.split_once("aws lambda invoke --endpoint-url ") {
                rest.split(' ').next().unwrap().clone_into(&mut stack.1);
                break;
            }
        }
        assert!(!stack.1.is_empty(), "it says how to invoke it");
        (stack, told.join("\n"))
    }

    async fn post(&self, function: &str, kind: &str, event: &str) -> reqwest::Response {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.1);
        let request = reqwest::Client::new().post(url).header("x-amz-invocation-type", kind);
        request.body(event.to_owned()).send().await.unwrap()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the command against a stack.
fn tokens(stack: &Stack, arguments: &[&str]) -> Output {
    tokens_with(stack, arguments, &[], "")
}

fn tokens_with(stack: &Stack, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"))
        .args(["--endpoint-url", &stack.1, "--region", "us-east-1"])
        .args(arguments)
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_operator_refreshes_and_the_exit_code_tells_whether_all_is_well() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let team = tokens(&stack, &["refresh", "--team-id", "1", "--force"]);
    assert_eq!(team.status.code(), Some(0), "{}", said(&team));
    assert!(text(&team).contains("5 examined, 5 due, 5 refreshed"), "{}", text(&team));
    let all = tokens_with(&stack, &["refresh"], &[("COLUMNS", "200")], "");
    assert_eq!(all.status.code(), Some(1), "a malformed row, and sellers who must connect again");
    assert!(text(&all).contains("expected a number"), "{}", text(&all));
    assert!(!said(&all).contains('\u{1b}') && !text(&all).contains('\u{1b}'), "no colours but on a terminal");
    let one = ["refresh", "--team-id", "2", "--integration-id", "204", "--dry-run", "--output", "json"];
    let answer: Value = serde_json::from_str(&text(&tokens(&stack, &one))).unwrap();
    assert_eq!((&answer["dry_run"], &answer["integrations"][0]["outcome"]), (&json!(true), &json!("locked")));
    // Without a terminal nobody can be asked, so a forced run of everything goes ahead.
    assert!(text(&tokens(&stack, &["refresh", "--force"])).contains("15 examined"));
}

#[test]
fn an_operator_sees_the_tokens_health_at_any_width() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    for (columns, width) in [("80", 80), ("200", 200)] {
        let shown = tokens_with(&stack, &["status"], &[("COLUMNS", columns)], "");
        assert_eq!(shown.status.code(), Some(1));
        let shown = text(&shown);
        let rows = shown.lines().filter(|line| line.starts_with('│'));
        let widest = rows.map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= width, "{widest} at {width}:\n{shown}");
        assert!(shown.contains("15 total, 9 healthy"), "{shown}");
        assert!(shown.contains("warning: integration 305 of team 3"), "{shown}");
    }
    assert_eq!(
        text(&tokens(&stack, &["status", "--team-id", "1", "--format", "summary"])),
        "5 total, 5 healthy\n\
         refresh tokens: 0 expired, 0 within 1 day, 0 within 7 days, 0 within 14 days, 0 within 30 days\n"
    );
    let report: Value =
        serde_json::from_str(&text(&tokens(&stack, &["status", "--format", "json"]))).unwrap();
    assert_eq!(report["counts"]["total"], 15);
}

#[test]
fn an_operator_verifies_cleans_up_and_connects() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let verified = tokens(&stack, &["verify", "--team-id", "1"]);
    assert!(
        text(&verified).contains("5 examined") && text(&verified).contains("7495"),
        "{}",
        text(&verified)
    );
    let cleanup = tokens(&stack, &["cleanup", "--dry-run"]);
    assert!(text(&cleanup).contains("1 would mark"), "{}", text(&cleanup));
    let connect = ["connect", "--team-id", "9", "--integration-id", "901"];
    let refused = tokens_with(&stack, &connect, &[], "no-such-code\n");
    assert_eq!(refused.status.code(), Some(3));
    assert!(said(&refused).contains("error: the auth code was not exchanged"), "{}", said(&refused));
}

#[tokio::test]
async fn an_application_is_developed_against_the_stack() {
    let folder = TempDir::new().unwrap();
    let (stack, told) = Stack::start_telling(&folder);
    let url = |service: &str| {
        let line = told.lines().find(|line| line.trim_start().starts_with(service)).unwrap();
        line[line.find("http").unwrap()..].split(',').next().unwrap().to_owned()
    };
    let tiktok = url("TikTok Shop");
    assert!(told.contains("table tiktok-shop-integrations"), "{told}");
    assert!(told.contains("app key local-app, app secret local-secret"), "{told}");
    let dynamodb = reqwest::get(url("DynamoDB")).await.unwrap();
    assert!(dynamodb.status().as_u16() < 500, "it answers");

    let one = ["ensure", "--team-id", "1", "--integration-id", "101", "--valid-for", "1h"];
    let answer = tokens(&stack, &one);
    assert_eq!(answer.status.code(), Some(0), "{}", said(&answer));
    assert!(text(&answer).starts_with("valid: integration 101 of team 1, whose access token expires at "));
    let through_the_alias =
        [&["--function-name", "tiktok-token-refresh:ensure", "--output", "json"], &one[..]];
    let answer: Value = serde_json::from_str(&text(&tokens(&stack, &through_the_alias.concat()))).unwrap();
    assert_eq!((&answer["outcome"], &answer["valid"]), (&json!("valid"), &json!(true)));
    let marked = tokens(&stack, &["ensure", "--team-id", "3", "--integration-id", "303"]);
    assert_eq!(marked.status.code(), Some(1), "{}", text(&marked));
    let bad = tokens(&stack, &[&one[..6], &["2d"]].concat());
    assert_eq!((bad.status.code(), said(&bad).contains("from 0s to 24h")), (Some(2), true), "{}", said(&bad));

    let calls = async || json_of(reqwest::get(format!("{tiktok}/local/refresh-calls")).await.unwrap()).await;
    let before = calls().await["refresh_calls"].as_u64().unwrap();
    let reject = |seller: &str| {
        let url = format!("{tiktok}/local/reject-access-tokens?open_id={seller}");
        reqwest::Client::new().post(url).send()
    };
    assert_eq!(reject("nobody").await.unwrap().status(), 404);
    assert_eq!(reject("seller-101").await.unwrap().status(), 204);
    let verify = tokens(&stack, &["verify", "--team-id", "1", "--integration-id", "101"]);
    assert!(text(&verify).contains("1 valid after refresh"), "{}", text(&verify));
    assert_eq!(calls().await["refresh_calls"], before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_goes_from_the_link_by_the_consent_page_to_the_good_page() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let ids = ["connect-link", "--team-id", "9", "--integration-id", "901", "--valid-for", "1h"];
    let printed = text(&tokens(&stack, &ids));
    let link = reqwest::Url::parse(printed.strip_suffix('\n').unwrap()).expect("the link alone");
    let consent = reqwest::get(link.clone()).await.unwrap().text().await.unwrap();
    assert!(consent.contains("Authorize local-app?") && consent.contains("Phở Mới"), "{consent}");

    let state = link.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let chosen = async |answer: &str| {
        let choice = [("state", state.as_str()), ("seller", "seller-new"), ("answer", answer)];
        let url =
            reqwest::Url::parse_with_params(link.join("/local/authorize").unwrap().as_str(), choice).unwrap();
        reqwest::get(url).await.unwrap()
    };
    let declined = chosen("decline").await;
    assert_eq!(
        (declined.status().as_u16(), declined.headers()["cache-control"].as_bytes()),
        (200, &b"no-store"[..])
    );
    assert!(declined.text().await.unwrap().contains("<h1>Not connected</h1>"));
    let connected = chosen("authorize").await;
    let reloaded = connected.url().clone();
    assert!(connected.text().await.unwrap().contains("<h1>Phở Mới is connected</h1>"));
    assert!(
        reqwest::get(reloaded)
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("<h1>Your shop is connected</h1>")
    );
    assert!(text(&tokens(&stack, &["status", "--team-id", "9"])).contains("healthy"));

    let log = std::fs::read_to_string(folder.path().join(".local/function.log")).unwrap();
    assert!(log.contains("answered a request to the public endpoint"));
    assert!(!log.contains(&state) && !log.contains("TTC_"), "a link and a code are secrets");
}

#[test]
fn errors_say_the_next_step() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let missing = tokens(&stack, &["status", "--function-name", "another"]);
    assert_eq!(missing.status.code(), Some(3));
    assert!(said(&missing).contains("there is no function another") && said(&missing).contains("--region"));
    let usage = tokens(&stack, &["refresh", "--team-id", ""]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(said(&usage).contains("bad event: team_id"), "{}", said(&usage));
    assert_eq!(tokens(&stack, &["refresh", "--integration-id", "7"]).status.code(), Some(2));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stack = Stack(Command::new("true").spawn().unwrap(), format!("http://{nobody}"));
    let gone = tokens(&stack, &["status"]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(
        said(&gone).contains("could not be reached") && said(&gone).contains("aws configure"),
        "{}",
        said(&gone)
    );
}

#[test]
fn the_command_explains_itself() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens")).args(arguments).output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, help) = run(&["--help"]);
    assert!(code == Some(0) && help.contains("Exit codes") && help.contains("connect"), "{help}");
    assert!(run(&["refresh", "--help"]).1.contains("--dry-run"));
    assert!(run(&["completions", "bash"]).1.contains("complete -F"));
    assert!(run(&["man"]).1.contains(".TH tiktok-tokens"));
}

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn it_stays_up_and_answers_as_lambdas_invoke_endpoint_does() {
    let folder = TempDir::new().unwrap();
    let mut stack = Stack::start(&folder);
    let name = "tiktok-token-refresh";

    let response = stack.post(name, "RequestResponse", include_str!("../../events/manual-team.json")).await;
    assert!(response.status() == 200 && !response.headers().contains_key("x-amz-function-error"));
    let answer = json_of(response).await;
    assert_eq!(
        (&answer["team_id"], &answer["trigger"], &answer["counts"]["examined"]),
        (&json!("1"), &json!("manual"), &json!(5))
    );

    let response = stack.post(name, "RequestResponse", r#"{"team":1}"#).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-amz-function-error"]),
        (200, &"Unhandled".parse().unwrap())
    );
    assert_eq!(json_of(response).await["errorType"], "BadEvent");

    assert_eq!(
        json_of(stack.post(name, "RequestResponse", "").await).await["counts"]["examined"],
        15,
        "no payload is {{}}"
    );
    assert_eq!(stack.post(name, "Event", "{}").await.status(), 202);
    assert_eq!(stack.post(name, "DryRun", "{}").await.status(), 204);
    assert_eq!(stack.post(name, "RequestResponse", "{").await.status(), 400);
    let missing = stack.post("another-function", "RequestResponse", "{}").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.headers()["x-amzn-errortype"], "ResourceNotFoundException");

    let ended = Command::new("kill").args(["-TERM", &stack.0.id().to_string()]).status().unwrap();
    assert!(ended.success() && stack.0.wait().unwrap().success(), "told to end, it ends well");
}
