//! The README, the log page and the page for applications agree with the code.

use std::{collections::BTreeSet, fs, path::Path};
use tiktok_token_refresh::{
    domain::{
        ensure::{Answer, EnsureOutcome},
        integration::IntegrationKey,
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
fn the_readme_lists_every_setting_and_every_example_event() {
    let readme = read("README.md");
    let source = read("src/settings.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    let settings =
        quoted(code, |text| text.len() > 4 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    assert!(settings.len() >= 12, "{settings:?}");
    for name in settings {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(readme.contains(&format!("(events/{file})")), "{file}");
    }
}

#[test]
fn the_readmes_example_answer_has_the_keys_of_a_real_one() {
    let readme = read("README.md");
    let example = readme.split("```json\n").find(|part| part.starts_with("{\"action\"")).unwrap();
    let example: serde_json::Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let answer = read("src/response/refresh.rs") + &read("src/domain/outcome.rs");
    for key in keys(&example).into_iter().chain(keys(&example["counts"])) {
        assert!(answer.contains(&format!("{key}:")), "{key}");
    }
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
    let sources = sources();
    // The code chooses this one in an expression that the search below does not find.
    let mut reasons = BTreeSet::from(["probably_lost_answer"]);
    for code in &sources {
        // The first argument of each call that takes a reason, the consts of a reason and its message, and the methods.
        for call in [".because(", "no_token(", "VerifyReport::failed("] {
            for arguments in code.split(call).skip(1) {
                let argument = arguments.split(',').next().unwrap();
                reasons.extend(quoted(argument, |_| true));
            }
        }
        for pair in code.split("(&str, &str) =").skip(1) {
            reasons.extend(quoted(pair, |_| true).first());
        }
        for method in code.split("fn reason(").skip(1) {
            reasons.extend(quoted(method.split("\n    }\n").next().unwrap(), |_| true));
        }
    }
    assert!(reasons.len() > 35, "{reasons:?}");
    for reason in reasons {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
    }
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
    let source = read("src/domain/ensure.rs");
    let code = source.split("fn as_str(self)").nth(1).unwrap().split("\n    }\n").next().unwrap();
    let outcomes = quoted(code, |_| true);
    assert_eq!(outcomes.len(), 7, "{outcomes:?}");
    for outcome in outcomes {
        assert!(page.contains(&format!("| `{outcome}` |")), "{outcome}");
    }
    let example = page.split("```json\n").find(|part| part.contains("\"valid\":")).unwrap();
    let example: serde_json::Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
    let answer = EnsureResponse::new(
        IntegrationKey { team_id: "1".into(), integration_id: "101".into() },
        None,
        Answer::new(EnsureOutcome::CannotRefresh),
    );
    let keys = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(example), keys(serde_json::to_value(answer).unwrap()));
}
