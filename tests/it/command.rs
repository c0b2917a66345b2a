//! `tiktok-tokens`: the whole system on one machine, as a newcomer meets it, and the operator's commands against it.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
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
        shown.contains(
            "15 examined, 11 due, 8 refreshed, 2 not due, 1 locked, 3 cannot refresh, 2 newly marked, 1 failed"
        ),
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
    assert_eq!(state(after, "Garbled Garments"), "unreadable");
    assert_eq!(state(after, "Paused Plants"), "inactive");
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
    let counted = "15 examined, 1 due, 10 not due, 1 locked, 3 cannot refresh, 1 failed";
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

/// A local stack that runs, how to invoke it, and what it has told.
struct Stack {
    process: Child,
    url: String,
    told: String,
}

/// The body of the answer to a request.
fn blocking(request: reqwest::RequestBuilder) -> String {
    let send = async { request.send().await.unwrap().bytes().await.unwrap() };
    let body = tokio::runtime::Runtime::new().unwrap().block_on(send);
    String::from_utf8(body.to_vec()).unwrap()
}

impl Stack {
    fn start(folder: &TempDir) -> Self {
        let process = local(folder, &["--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stack = Self { process, url: String::new(), told: String::new() };
        let lines = BufReader::new(stack.process.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
        for line in lines {
            stack.told.push_str(&line);
            stack.told.push('\n');
            if let Some((_, rest)) = line.split_once("  Lambda       ") {
                rest.split(',').next().unwrap().clone_into(&mut stack.url);
            }
            if line.contains("reject-access-tokens") {
                break;
            }
        }
        assert!(!stack.url.is_empty(), "it says how to invoke it: {}", stack.told);
        stack
    }

    /// The function's answer to an event, by the command's own endpoint.
    fn answer(&self, event: &str) -> String {
        let url = format!("{}/2015-03-31/functions/tiktok-token-refresh/invocations", self.url);
        blocking(reqwest::Client::new().post(url).body(event.to_owned()))
    }

    /// How many refreshes TikTok Shop was asked for.
    fn refresh_calls(&self) -> u64 {
        let line = self.told.lines().find(|line| line.trim_start().starts_with("TikTok Shop")).unwrap();
        let url = line[line.find("http").unwrap()..].split(',').next().unwrap();
        let calls = blocking(reqwest::Client::new().get(format!("{url}/local/refresh-calls")));
        serde_json::from_str::<Value>(&calls).unwrap()["refresh_calls"].as_u64().unwrap()
    }

    async fn post(&self, function: &str, kind: &str, event: &str) -> reqwest::Response {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.url);
        let request = reqwest::Client::new().post(url).header("x-amz-invocation-type", kind);
        request.body(event.to_owned()).send().await.unwrap()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the command against a stack.
fn tokens(stack: &Stack, arguments: &[&str]) -> Output {
    tokens_with(stack, arguments, &[], "")
}

fn tokens_with(stack: &Stack, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"))
        .args(["--endpoint-url", &stack.url, "--region", "us-east-1"])
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
}

#[test]
fn a_forced_refresh_of_everything_is_confirmed() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let before = stack.refresh_calls();
    let unasked = tokens(&stack, &["refresh", "--force"]);
    assert_eq!(unasked.status.code(), Some(2), "without a terminal nobody can be asked");
    assert!(
        said(&unasked).contains("pass --yes, or choose a team with --team-id") && text(&unasked).is_empty()
    );
    let dry_run = tokens(&stack, &["refresh", "--force", "--dry-run"]);
    assert!(text(&dry_run).contains("15 examined"), "a dry run needs no confirmation");
    assert_eq!(stack.refresh_calls(), before);
    assert!(text(&tokens(&stack, &["refresh", "--force", "--yes"])).contains("15 examined"));
    assert!(stack.refresh_calls() > before);
    let team = tokens(&stack, &["refresh", "--force", "--team-id", "1"]);
    assert!(text(&team).contains("5 refreshed"), "a team's needs none: it is named");
}

/// What was asked for by name is found and done, or the exit code is 1 and a sentence says why.
#[test]
fn the_exit_code_tells_whether_what_was_asked_for_is_done() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let one = |id: &'static str| ["--team-id", &id[..1], "--integration-id", id];
    let nobody = ["--team-id", "8"];
    let cases: &[(&[&str], &[&str], i32, &str)] = &[
        (&["refresh"], &nobody, 1, "there is no integration of team 8"),
        (&["status"], &nobody, 1, "there is no integration of team 8"),
        (&["verify"], &nobody, 1, "there is no integration of team 8"),
        (&["cleanup"], &nobody, 1, "there is no integration of team 8"),
        (&["refresh"], &one("199"), 1, "there is no integration 199 of team 1"),
        (&["verify"], &one("199"), 1, "there is no integration 199 of team 1"),
        (&["ensure"], &one("199"), 1, "there is no usable access token"),
        (&["verify"], &one("304"), 1, "the integration was skipped: its status is \"paused\""),
        (&["refresh", "--force"], &one("304"), 1, "the integration was skipped: the row has the status"),
        (
            &["refresh", "--force"],
            &one("204"),
            1,
            "1 integration not refreshed: another attempt holds the lease",
        ),
        (&["refresh"], &one("204"), 0, ""),
        (&["refresh"], &one("101"), 0, ""),
        (&["refresh"], &one("304"), 0, ""),
        (&["status"], &["--team-id", "1"], 0, ""),
        (
            &["status"],
            &["--team-id", "3"],
            1,
            "1 integration cannot be read; 3 integrations cannot be refreshed",
        ),
    ];
    for (command, selection, code, sentence) in cases {
        for output in ["text", "json"] {
            let arguments = [*command, *selection, &["--output", output]].concat();
            let done = tokens(&stack, &arguments);
            assert_eq!(done.status.code(), Some(*code), "{arguments:?}: {} {}", text(&done), said(&done));
            assert!(said(&done).starts_with(sentence), "{arguments:?}: {}", said(&done));
            assert_eq!(said(&done).is_empty(), *code == 0, "{arguments:?}: {}", said(&done));
        }
    }
}

#[test]
fn the_counts_add_up_and_a_row_that_is_named_is_listed() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let report = tokens(&stack, &["status", "--format", "json"]);
    let report: Value = serde_json::from_str(&text(&report)).unwrap();
    let counts = report["counts"].as_object().unwrap();
    let states = counts.iter().filter(|(name, _)| *name != "total");
    assert_eq!(states.map(|(_, count)| count.as_u64().unwrap()).sum::<u64>(), 15, "{counts:?}");
    assert_eq!(
        (&counts["total"], &counts["inactive"], &counts["unreadable"]),
        (&json!(15), &json!(1), &json!(1))
    );
    let shown = text(&tokens(&stack, &["status", "--team-id", "3"]));
    let row = |seller: &str| shown.lines().find(|line| line.contains(seller)).unwrap().to_owned();
    assert!(row("305").contains("unreadable") && row("Paused Plants").contains("inactive"), "{shown}");
    for (id, outcome) in [("101", "not due"), ("304", "not due"), ("204", "locked")] {
        let done = tokens(&stack, &["refresh", "--team-id", &id[..1], "--integration-id", id]);
        assert!(
            text(&done).lines().any(|line| line.contains(id) && line.contains(outcome)),
            "{}",
            text(&done)
        );
    }
    for command in [&["verify", "--team-id", "1"][..], &["cleanup", "--dry-run"], &["refresh", "--dry-run"]] {
        let shown = text(&tokens(&stack, command));
        assert!(shown.contains("│ Team ┆ Id  ┆ Seller "), "{command:?}: {shown}");
    }
    let ensured = text(&tokens(&stack, &["ensure", "--team-id", "1", "--integration-id", "101"]));
    assert!(ensured.contains("(Fresh Flowers)"), "{ensured}");
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
        assert!(shown.contains("15 integrations: 9 healthy"), "{shown}");
        assert!(shown.contains("- integration 305 of team 3"), "{shown}");
    }
    let no_width = text(&tokens_with(&stack, &["status"], &[("COLUMNS", "0")], ""));
    let default = text(&tokens_with(&stack, &["status"], &[("COLUMNS", "100")], ""));
    assert_eq!(no_width.lines().next(), default.lines().next(), "0 is no width");
    let summary = text(&tokens(&stack, &["status", "--format", "summary"]));
    // The first line has the time, and another one counts down to an expiry.
    let without_times = |text: &str| {
        let lines = text.lines().skip(1).filter(|line| !line.starts_with("Soonest expiry"));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let own: String =
        serde_json::from_str(&stack.answer(r#"{"action":"status","format":"summary"}"#)).unwrap();
    assert_eq!(without_times(&summary), without_times(&own), "it is the function's own");
    let expected = r#"{"action":"status","generated_at":""#;
    let json = text(&tokens(&stack, &["status", "--output", "json"]));
    assert!(json.starts_with(expected), "the keys are in the function's order: {}", &json[..60]);
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
    let stack = Stack::start(&folder);
    let told = &stack.told;
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
    assert!(
        text(&answer)
            .starts_with("valid: integration 101 of team 1 (Fresh Flowers), whose access token expires at ")
    );
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

/// The auth code that the stack prints in the command for an integration.
fn code(stack: &Stack, integration_id: &str) -> String {
    let end = format!("--integration-id {integration_id}");
    let line = stack.told.lines().find(|line| line.contains("connect") && line.ends_with(&end)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn a_connect_is_rehearsed_with_the_codes_that_the_stack_prints() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let connect = |id: &'static str| ["connect", "--team-id", &id[..1], "--integration-id", id];
    let new = tokens_with(&stack, &connect("901"), &[], &code(&stack, "901"));
    assert_eq!(text(&new), "connected: integration 901 of team 9, seller New Noodles (seller-901)\n");
    let again = tokens_with(&stack, &connect("901"), &[], &code(&stack, "901"));
    assert!(said(&again).contains("works once"), "{}", said(&again));
    let same = tokens_with(&stack, &connect("301"), &[], &code(&stack, "301"));
    assert_eq!(text(&same), "reconnected: integration 301 of team 3, seller Revoked Rings (seller-301)\n");
    let another = tokens_with(&stack, &connect("101"), &[], &code(&stack, "101"));
    assert!(said(&another).contains("the row belongs to another seller"), "{}", said(&another));

    let tiktok = stack.told.lines().find(|line| line.trim_start().starts_with("TikTok Shop")).unwrap();
    let url = tiktok[tiktok.find("http").unwrap()..].split(',').next().unwrap();
    let more = format!("{url}/local/auth-codes?open_id=seller-902");
    let file = folder.path().join("code.txt");
    std::fs::write(&file, blocking(reqwest::Client::new().post(more))).unwrap();
    let from_a_file = ["--replace", "--code-file", file.to_str().unwrap()];
    let replaced = tokens(&stack, &[&connect("101")[..], &from_a_file].concat());
    assert_eq!(text(&replaced), "replaced: integration 101 of team 1, seller Another Atelier (seller-902)\n");
    let missing = tokens(&stack, &[&connect("101")[..], &["--code-file", "no-such-file"]].concat());
    assert_eq!((missing.status.code(), said(&missing).contains("no-such-file")), (Some(2), true));
}

/// A terminal, by script(1).
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_does_not_show_the_auth_code_and_is_asked_before_everything_is_forced() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let tty = folder.path().join("tty");
    // Types the input once the question is asked, and, for a secret, once the terminal shows nothing any more.
    let at_a_terminal = |arguments: &str, question: &str, is_secret: bool, input: &str| {
        let binary = env!("CARGO_BIN_EXE_tiktok-tokens");
        let command =
            format!("tty >{}; exec {binary} --endpoint-url {} {arguments}", tty.display(), stack.url);
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--echo", "always", "--command", &command, "/dev/null"])
            .env_remove("AWS_PROFILE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut shown = Vec::new();
        let mut output = child.stdout.take().unwrap();
        while !shown.ends_with(question.as_bytes()) {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        let device = std::fs::read_to_string(&tty).unwrap();
        let settings = || Command::new("stty").args(["-F", device.trim(), "-a"]).output().unwrap();
        while is_secret && !text(&settings()).contains(" -echo ") {
            std::thread::yield_now();
        }
        child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
        output.read_to_end(&mut shown).unwrap();
        (child.wait().unwrap().code(), String::from_utf8(shown).unwrap())
    };
    let code = code(&stack, "901");
    let (ended, shown) = at_a_terminal(
        "connect --team-id 9 --integration-id 901",
        "Auth code (not shown): ",
        true,
        &format!("{code}\n"),
    );
    assert!(ended == Some(0) && shown.contains("connected: integration 901"), "{shown}");
    assert!(shown.contains("Auth code (not shown): ") && !shown.contains(&code), "{shown}");
    let before = stack.refresh_calls();
    let (ended, shown) = at_a_terminal("refresh --force", "[y/N] ", false, "n\n");
    assert!(ended == Some(2) && shown.contains("canceled; nothing was refreshed"), "{ended:?} {shown}");
    assert_eq!(stack.refresh_calls(), before);
}

#[test]
fn two_stacks_never_share_a_folder_and_damaged_data_are_told() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    for arguments in [&[][..], &["--reset"]] {
        let second = once(&folder, arguments);
        assert_eq!(second.status.code(), Some(3));
        assert!(said(&second).contains("another local stack uses the folder .local"), "{}", said(&second));
    }
    let rows = tokens(&stack, &["status", "--format", "summary"]);
    assert!(text(&rows).contains("15 integrations"), "the first one's data are not touched");
    drop(stack);
    // With the write-ahead log beside it, from which SQLite could restore the pages.
    for entry in std::fs::read_dir(folder.path().join(".local")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("dynamodb.sqlite") {
            std::fs::write(path, "not a database, and longer than a header of one ".repeat(100)).unwrap();
        }
    }
    let damaged = once(&folder, &[]);
    assert_eq!(damaged.status.code(), Some(3), "{}", text(&damaged));
    assert!(said(&damaged).contains("--reset starts over"), "{}", said(&damaged));
    assert!(once(&folder, &["--reset"]).status.success());
}

#[test]
fn a_watch_goes_on_after_a_failure() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"))
        .args(["status", "--format", "summary", "--watch", "1", "--endpoint-url", &stack.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("TikTok Shop tokens at "));
    drop(stack);
    let mut errors = BufReader::new(watch.stderr.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..2 {
        let error = errors.next().unwrap();
        let (time, error) = error.split_once(": ").unwrap();
        assert!(time.ends_with(" UTC") && error.starts_with("error: nothing answers at "), "{error}");
        assert!(error.ends_with("; trying again in 1 s"), "{error}");
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// What a real bash completes at the end of a line.
fn completed(words: &[&str]) -> String {
    let script =
        Command::new(env!("CARGO_BIN_EXE_tiktok-tokens")).args(["completions", "bash"]).output().unwrap();
    let ask = r#"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        function=$(complete -p tiktok-tokens | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" tiktok-tokens "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[*]}""#;
    let output =
        Command::new("bash").args(["-c", &(text(&script) + ask), "bash"]).args(words).output().unwrap();
    text(&output).trim().to_owned()
}

#[test]
fn bash_completes_commands_options_and_values() {
    for (words, expected) in [
        (&["tiktok-tokens", "st"][..], "status"),
        (&["tiktok-tokens", "status", "--fo"], "--format"),
        (&["tiktok-tokens", "status", "--format", ""], "table summary json"),
        (&["tiktok-tokens", "status", "--format", "s"], "summary"),
        (&["tiktok-tokens", "--region", "eu-central-1", "refresh", "--dr"], "--dry-run"),
        (&["tiktok-tokens", "connect", "--code"], "--code-file"),
        (&["tiktok-tokens", "verify", "--output", ""], "text json"),
        (&["tiktok-tokens", "completions", "ba"], "bash"),
    ] {
        assert_eq!(completed(words), expected, "{words:?}");
    }
}

#[test]
fn a_command_without_configuration_says_what_is_missing() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    let bare = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tiktok-tokens"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", folder.path())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(environment.iter().copied()).output().unwrap()
    };
    let local = bare(&["status", "--team-id", "1"], &[("AWS_ENDPOINT_URL_LAMBDA", &stack.url)]);
    assert_eq!(local.status.code(), Some(0), "a function on this machine needs nothing: {}", said(&local));
    let no_scheme = bare(&["status", "--endpoint-url", "localhost:9000"], &[]);
    assert_eq!(no_scheme.status.code(), Some(2));
    assert!(said(&no_scheme).contains("such as http://localhost:9000"), "{}", said(&no_scheme));
    for (arguments, environment, told) in [
        (&["status"][..], &[][..], "no AWS region is configured: pass --region"),
        (&["status", "--profile", "nobody"], &[], "have no profile nobody"),
        (&["status"], &[("AWS_PROFILE", "nobody")], "have no profile nobody"),
        (&["status", "--region", "eu-central-1"], &[], "there are no AWS credentials"),
    ] {
        let failed = bare(arguments, environment);
        assert_eq!(failed.status.code(), Some(3));
        let said = said(&failed);
        assert!(said.contains(told) && said.lines().count() == 1, "{said}");
        assert_eq!(
            said.contains("aws sso login"),
            told.contains("credentials"),
            "hints only where they apply: {said}"
        );
    }
}

/// A folder's file of integrations.
fn lines(folder: &TempDir, lines: &[&str]) -> String {
    let file = folder.path().join("integrations.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn an_operator_imports_a_file() {
    let folder = TempDir::new().unwrap();
    let stack = Stack::start(&folder);
    // As doubles, two of these ids are the same.
    let good = [
        r#"{"team_id":8,"integration_id":9007199254740992,"refresh_token":"TTR_a"}"#,
        "",
        r#"{"team_id":8,"integration_id":9007199254740993,"refresh_token":"TTR_b","seller_name":"Ink"}"#,
    ];
    let file = lines(&folder, &good);
    let dry_run = tokens(&stack, &["import", &file, "--dry-run"]);
    assert_eq!((dry_run.status.code(), text(&dry_run)), (Some(0), "2 would create\n".into()));
    let created = tokens(&stack, &["import", &file]);
    assert_eq!((created.status.code(), text(&created)), (Some(0), "2 created\n".into()));
    let again = tokens(&stack, &["import", &file]);
    assert_eq!((again.status.code(), text(&again)), (Some(0), "2 exists\nexists: lines 1, 3\n".into()));
    let run = text(&tokens(&stack, &["refresh", "--team-id", "8", "--dry-run"]));
    assert!(run.contains("9007199254740992") && run.contains("9007199254740993"), "{run}");

    let another = r#"{"team_id":8,"integration_id":7,"refresh_token":"TTR_c"}"#;
    let bad = [
        another,
        r#"{"team_id":8,"integration_id":"7","refresh_token":"TTR_d"}"#,
        r#"{"team_id":8,"integration_id":6,"refresh_token":"eyJpdiI6Ik9r"}"#,
        "{\"team_id\":8,",
        r#"{"team_id":8,"integration_id":5,"refresh_token":"TTR_e","access_token_expires_at":604800}"#,
    ];
    let refused = tokens(&stack, &["import", &lines(&folder, &bad)]);
    let shown = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{shown}");
    for part in [
        "the same team_id and integration_id as line 1",
        "got a Laravel ciphertext",
        "not JSON: EOF while parsing",
        "looks like a duration",
        "4 invalid, 1 not written\ninvalid: lines 2-5\nNothing was written.\n",
    ] {
        assert!(shown.replace(" │\n│      ┆      ┆    ┆         ┆ ", " ").contains(part), "{part}: {shown}");
    }
    assert_eq!(said(&refused), "4 integrations invalid; 1 integration not written\n");
    let team = ["status", "--team-id", "8", "--output", "json"];
    let report: Value = serde_json::from_str(&text(&tokens(&stack, &team))).unwrap();
    assert_eq!(report["counts"]["total"], 2, "nothing else was written");

    // The same key in two requests.
    let many: Vec<String> = (0..150)
        .map(|id| format!(r#"{{"team_id":"many","integration_id":{},"refresh_token":"TTR_{id}"}}"#, id % 149))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let twice = tokens(&stack, &["import", &lines(&folder, &many)]);
    assert!(
        text(&twice).contains("as line 1 ") && text(&twice).contains("1 invalid, 149 not written"),
        "{}",
        text(&twice)
    );
    let created = tokens(&stack, &["import", &lines(&folder, &many[..149]), "--output", "json"]);
    let created: Value = serde_json::from_str(&text(&created)).unwrap();
    assert_eq!(
        created,
        json!({"action": "import", "dry_run": false, "counts": {"created": 149, "would_create": 0, "exists": 0, "invalid": 0, "not_written": 0}, "integrations": []})
    );
    for pipe in ["/dev/stdin", "/dev/null", "/"] {
        let piped = tokens(&stack, &["import", pipe]);
        assert_eq!(piped.status.code(), Some(2), "{}", said(&piped));
        assert!(said(&piped).contains("not a regular file"), "{}", said(&piped));
    }
    let missing = tokens(&stack, &["import", "no-such-file.jsonl"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(said(&missing).starts_with("error: no-such-file.jsonl: "), "{}", said(&missing));
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
    let process = Command::new("true").spawn().unwrap();
    let stack = Stack { process, url: format!("http://{nobody}"), told: String::new() };
    let gone = tokens(&stack, &["status"]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(
        said(&gone).contains("nothing answers at http://127.0.0.1:")
            && said(&gone).contains("start `tiktok-tokens local`")
            && !said(&gone).contains("aws configure"),
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
    let page = run(&["man"]).1;
    assert!(
        page.contains(".TH tiktok-tokens")
            && page.contains(".SH ENVIRONMENT")
            && page.contains(".SH EXAMPLES")
    );
    for option in ["valid\\-for", "code\\-file", "dry\\-run", "watch", "dynamodb\\-port", "endpoint\\-url"] {
        assert!(page.contains(option), "{option}: {page}");
    }
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

    let ended = Command::new("kill").args(["-TERM", &stack.process.id().to_string()]).status().unwrap();
    assert!(ended.success() && stack.process.wait().unwrap().success(), "told to end, it ends well");
}
