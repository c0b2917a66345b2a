//! The house's rules, kept by a test.

use std::{fs, path::Path};

fn source(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap()
}

/// The code of a file without its unit tests and comments.
fn code(file: &str) -> String {
    let text = source(file);
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

const CORE: [&str; 21] = [
    "event/mod.rs",
    "event/read.rs",
    "event/status.rs",
    "answer/mod.rs",
    "answer/refresh.rs",
    "answer/verify.rs",
    "answer/connect.rs",
    "answer/cleanup.rs",
    "report.rs",
    "integration.rs",
    "grant.rs",
    "message.rs",
    "census.rs",
    "bounded_list.rs",
    "health/mod.rs",
    "health/html.rs",
    "health/text.rs",
    "breaker.rs",
    "settings.rs",
    "secret.rs",
    "clock.rs",
];
const ADAPTERS: [(&str, &[&str]); 7] = [
    ("tiktok", &["tiktok/mod.rs", "tiktok/answer.rs", "tiktok/api.rs", "tiktok/error.rs", "tiktok/sign.rs"]),
    ("store", &["store/mod.rs", "store/change.rs", "store/scan.rs", "store/row.rs", "store/error.rs"]),
    ("credentials", &["credentials.rs"]),
    ("queue", &["queue.rs"]),
    ("announce", &["announce.rs"]),
    ("metrics", &["metrics.rs"]),
    ("logging", &["logging.rs"]),
];

const PROTOCOL: [&str; 17] = [
    "refresh/mod.rs",
    "refresh/ask.rs",
    "refresh/save.rs",
    "refresh/mark.rs",
    "refresh/rate.rs",
    "services.rs",
    "fleet/mod.rs",
    "fleet/survey.rs",
    "fleet/todo.rs",
    "fleet/pool.rs",
    "fleet/hand_over.rs",
    "fleet/log.rs",
    "worker.rs",
    "status.rs",
    "cleanup.rs",
    "connect.rs",
    "verify.rs",
];

#[test]
fn the_pure_core_knows_neither_an_adapter_nor_an_outside_system() {
    for file in CORE {
        let code = code(file);
        for word in ["aws_", "reqwest", "lambda_runtime", "tokio"] {
            assert!(!code.contains(word), "{file} names {word}");
        }
        for room in ["tiktok", "store", "credentials", "metrics", "refresh", "fleet", "handler", "local"] {
            for path in [format!("crate::{room}"), format!("    {room}::")] {
                assert!(!code.contains(&path), "{file} imports {room}");
            }
        }
    }
}

#[test]
fn no_adapter_knows_another_nor_what_stands_above_it() {
    for (own, files) in ADAPTERS {
        for file in files {
            let code = code(file);
            let above = ["refresh", "fleet", "handler", "local"];
            for room in ADAPTERS.iter().map(|(name, _)| *name).chain(above).filter(|room| *room != own) {
                for path in [format!("crate::{room}::"), format!("    {room}::")] {
                    assert!(!code.contains(&path), "{file} imports {room}");
                }
            }
        }
    }
}

#[test]
fn nothing_but_the_entries_knows_the_handler() {
    for file in PROTOCOL {
        assert!(!code(file).contains("handler"), "{file}");
    }
    assert!(!code("refresh/mod.rs").contains("fleet"));
}

#[test]
fn every_source_file_is_in_one_of_these_lists() {
    let above = PROTOCOL.into_iter().chain(["lib.rs", "main.rs", "handler.rs", "sdk.rs"]);
    let known: Vec<&str> = CORE
        .into_iter()
        .chain(ADAPTERS.iter().flat_map(|(_, files)| files.iter().copied()))
        .chain(above)
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            match (path.is_dir(), name.as_str()) {
                (true, "bin" | "cli" | "local") => {}
                (true, _) => folders.push(path),
                (false, name) => assert!(known.contains(&name), "{name} is in no room"),
            }
        }
    }
}

#[test]
fn a_secrets_text_is_asked_for_only_where_it_is_sent_or_stored() {
    for file in [
        "fleet/mod.rs",
        "fleet/log.rs",
        "handler.rs",
        "main.rs",
        "answer/refresh.rs",
        "metrics.rs",
        "logging.rs",
        "event/mod.rs",
        "breaker.rs",
    ] {
        assert!(!code(file).contains("expose"), "{file}");
    }
}
