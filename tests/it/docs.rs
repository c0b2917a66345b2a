//! The pages agree with the code and with each other.

use super::support::{
    World, minutes,
    world::{APP_KEY, APP_SECRET},
};
use pulldown_cmark::{Event, Parser, Tag};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use strum::VariantArray;
use tiktok_token_refresh::{
    domain::{
        ensure::{Answer, EnsureOutcome},
        integration::IntegrationKey,
        reason::Reason,
    },
    response::EnsureResponse,
};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The texts between quotes in a source file that look like `shape`.
fn quoted(source: &str, shape: impl Fn(&str) -> bool) -> Vec<&str> {
    source.split('"').skip(1).step_by(2).filter(|text| shape(text)).collect()
}

#[test]
fn the_reference_lists_every_setting_and_every_example_event() {
    let page = read("docs/REFERENCE.md");
    let source = read("src/settings.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    let settings =
        quoted(code, |text| text.len() > 4 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    assert!(settings.len() >= 12, "{settings:?}");
    for name in settings {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&format!("(../events/{file})")), "{file}");
    }
}

/// The keys of a JSON value and of what it holds. An array counts as its first element.
fn keys(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = format!("{path}.{key}");
                keys(&path, value, found);
                found.insert(path);
            }
        }
        Value::Array(array) => array.iter().take(1).for_each(|first| keys(path, first, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_references_example_responses_have_the_keys_of_real_ones() {
    let page = read("docs/REFERENCE.md");
    let mut examples = BTreeMap::new();
    for text in page.split("```json\n").skip(1).map(|part| part.split("```").next().unwrap()) {
        let example: Value = serde_json::from_str(text).unwrap();
        if let Some(action) = example["action"].as_str() {
            examples.insert(action.to_owned(), example);
        }
    }

    let world = World::new().await;
    let secret = json!({"app_key": APP_KEY, "app_secret": APP_SECRET, "service_id": "7431862345987123456"});
    world.aws.set_secret(Some(&secret.to_string()));
    let due = world.integration().text("seller_name", "S").expiring_in(minutes(1)).insert().await;
    let over = world.integration().text("seller_name", "S").refreshable_for(minutes(-1));
    let over = over.team("a-team-with-an-old-token").insert().await;
    let (team, id) = (&due.team_id, &due.integration_id);
    let events = [
        json!({"team_id": team}),
        json!({"action": "verify", "team_id": team}),
        json!({"action": "status", "team_id": team}),
        json!({"action": "cleanup", "team_id": over.team_id, "dry_run": true}),
        json!({"action": "connect_link", "team_id": team, "integration_id": id}),
        json!({"action": "connect", "team_id": "new", "integration_id": "new", "auth_code": world.tiktok.auth_code("o", "S")}),
        json!({"action": "import", "dry_run": true,
               "integrations": [{"team_id": "9", "integration_id": "9", "refresh_token": "TTR_1"}]}),
    ];
    assert_eq!(examples.len(), events.len(), "{:?}", examples.keys());
    for event in events {
        let real = world.invoke(&event).await.unwrap();
        let action = real["action"].as_str().unwrap();
        let [example, real] = [&examples[action], &real].map(|value| {
            let mut found = BTreeSet::new();
            keys(action, value, &mut found);
            found
        });
        assert_eq!(example, real);
    }
}

#[test]
fn the_readme_is_short_and_shows_what_the_local_stack_really_prints() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 180, "what a newcomer does not need belongs on another page");
    // The snapshot is of the real command; it has neither the frames nor what the clock says.
    let snapshot = read("tests/it/snapshots/local-once.snap");
    let really = snapshot.split("The scheduled run took ").nth(1).unwrap().split("\n\n").next().unwrap();
    let shown = readme.split("The scheduled run took ").nth(1).unwrap().split("\n```").next().unwrap();
    let plain = |text: &str| {
        let cells =
            |line: &str| line.split(['│', '┆', '|']).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut rows: Vec<Vec<String>> = text
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with(['┌', '╞', '└']))
            .map(|line| cells(line.trim_matches(['│', ' '])))
            .collect();
        for row in rows.iter_mut().filter(|row| row.get(2).is_some_and(|outcome| outcome == "locked")) {
            row[3].clear();
        }
        rows
    };
    assert_eq!(plain(shown), plain(really));
}

/// The pages that people read.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for folder in ["", "docs", "infra"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The anchors that GitHub gives the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let (mut anchors, mut heading) = (BTreeSet::new(), None::<String>);
    for event in Parser::new(page) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::End(pulldown_cmark::TagEnd::Heading(_)) => {
                let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
                let heading: String = heading.take().unwrap().to_lowercase().chars().filter(kept).collect();
                anchors.insert(heading.replace(' ', "-"));
            }
            _ => {}
        }
    }
    anchors
}

#[test]
fn no_link_is_dead() {
    let mut dead = Vec::new();
    let mut links = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for event in Parser::new(&text) {
            let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = event else {
                continue;
            };
            if dest_url.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, anchor) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let is_there = target.exists()
                && (anchor.is_empty() || anchors(&fs::read_to_string(&target).unwrap()).contains(anchor));
            if !is_there {
                dead.push(format!("{}: {dest_url}", page.display()));
            }
        }
    }
    assert!(links > 80, "{links}");
    assert!(dead.is_empty(), "{dead:#?}");
}

/// The code of every source file, without its unit tests.
fn sources() -> Vec<String> {
    let (mut folders, mut sources) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let source = fs::read_to_string(path).unwrap();
                sources.push(source.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned());
            }
        }
    }
    sources
}

#[test]
fn the_log_page_explains_every_reason() {
    let page = read("docs/LOGGING.md");
    let tables = page.split("\n| reason |").skip(1).map(|table| table.split("\n\n").next().unwrap());
    let first_cells = tables.flat_map(str::lines).map(|row| row.split(" | ").next().unwrap());
    let explained: BTreeSet<&str> = first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert_eq!(explained, Reason::VARIANTS.iter().map(|reason| reason.as_str()).collect());
}

#[test]
fn the_log_page_lists_every_message() {
    let page = read("docs/LOGGING.md");
    let mut messages = BTreeSet::new();
    let sources = sources();
    for code in &sources {
        for (at, _) in code.match_indices("!(") {
            let is_log = ["error", "warn", "info", "debug", "trace", "line"];
            if is_log.iter().any(|name| code[..at].ends_with(name)) {
                // The message is the call's first text. What follows a colon is its detail.
                let message = code[at..].split('"').nth(1).unwrap();
                messages.insert(message.split(": ").next().unwrap());
            }
        }
    }
    assert!(messages.len() > 35, "{messages:?}");
    for message in messages {
        // A placeholder may stand for any text.
        let texts = message.split(['{', '}']).step_by(2).map(|text| text.trim_matches([' ', ',', ':']));
        for text in texts.filter(|text| !text.is_empty()) {
            assert!(page.contains(text), "{message}");
        }
    }
}

#[test]
fn the_performance_page_has_a_block_for_every_bench() {
    let (page, manifest) = (read("docs/PERFORMANCE.md"), read("Cargo.toml"));
    let benches: Vec<_> = manifest.split("[[bench]]\nname = \"").skip(1).collect();
    assert_eq!(benches.len(), 4);
    for bench in benches {
        let bench = bench.split('"').next().unwrap();
        let [begin, end] = ["", "/"].map(|slash| page.find(&format!("<!-- {slash}{bench} -->")));
        assert!(begin.is_some() && begin < end, "{bench}");
    }
}

#[test]
fn every_test_that_answers_an_attack_is_there() {
    let page = read("docs/ARCHITECTURE.md");
    let table = page.split("| attack | answer | shown by |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let tests =
        ["src/domain/connect_link.rs", "src/http/page.rs", "tests/it/connect_link.rs"].map(read).concat()
            + &read("infra/tests/test_template.py");
    let named: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(" | ").nth(2))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| !name.contains('/'))
        .collect();
    assert!(named.len() > 12, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("fn {name}(")) || tests.contains(&format!("def {name}(")), "{name}");
    }
}

#[test]
fn the_vietnamese_readme_is_kept_equal() {
    let (english, vietnamese) = (read("README.md"), read("README.vi.md"));
    let outline = |text: &str| {
        let mut is_code = false;
        let mut outline = Vec::new();
        for line in text.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
            }
            if is_code || line.starts_with("```") {
                outline.push(line.to_owned());
            } else if line.starts_with('#') {
                outline.push(format!("heading {}", line.chars().take_while(|c| *c == '#').count()));
            } else if line.starts_with('|') {
                outline.push(format!("row of {}", line.matches('|').count()));
            }
        }
        outline
    };
    for (english, vietnamese) in outline(&english).iter().zip(outline(&vietnamese).iter()) {
        assert_eq!(english, vietnamese);
    }
    assert_eq!(outline(&english).len(), outline(&vietnamese).len());
}

#[test]
fn the_page_for_applications_shows_the_clients_as_they_are() {
    let page = read("docs/APPLICATIONS.md");
    for (language, file) in [
        ("python", "clients/python/tiktok_tokens.py"),
        ("js", "clients/node/tiktok-tokens.mjs"),
        ("php", "clients/php/TikTokShopTokens.php"),
    ] {
        let shown = format!("[`{file}`](../{file}):\n\n```{language}\n{}```\n", read(file));
        assert!(page.contains(&shown), "the page shows another {file}: copy the file into its code block");
    }
}

#[test]
fn the_page_for_applications_explains_every_outcome_and_names_every_key_of_the_answer() {
    let page = read("docs/APPLICATIONS.md");
    assert_eq!(EnsureOutcome::VARIANTS.len(), 7);
    for outcome in EnsureOutcome::VARIANTS {
        let outcome = outcome.as_str();
        assert!(page.contains(&format!("| `{outcome}` |")), "{outcome}");
    }
    let example = page.split("```json\n").find(|part| part.contains("\"valid\":")).unwrap();
    let example: serde_json::Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
    let answer = EnsureResponse::new(
        IntegrationKey { team_id: "1".into(), integration_id: "101".into() },
        Some("Revoked Rings".into()),
        Answer::new(EnsureOutcome::CannotRefresh),
    );
    let keys = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(example), keys(serde_json::to_value(answer).unwrap()));
}
