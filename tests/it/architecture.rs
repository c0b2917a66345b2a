//! The walls between the folders of `src`: imports run one way, and the pure core knows no outside system.

use std::{fs, path::Path};

/// What each folder may import from this crate, beside itself.
const MAY_IMPORT: [(&str, &[&str]); 13] = [
    ("domain", &[]),
    ("event", &["domain"]),
    ("response", &["domain"]),
    ("status_report", &["domain"]),
    ("settings", &["domain"]),
    ("logging", &[]),
    ("aws", &["domain"]),
    ("tiktok", &["domain"]),
    ("services", &["domain", "settings", "aws", "tiktok"]),
    ("refresh", &["domain", "services", "aws", "tiktok"]),
    ("run", &["domain", "services", "aws", "tiktok", "refresh", "response"]),
    (
        "actions",
        &["domain", "event", "services", "aws", "tiktok", "refresh", "run", "response", "status_report"],
    ),
    ("http", &["domain", "event", "services", "aws", "tiktok", "actions"]),
];
/// The entries, which may import everything.
const ENTRIES: [&str; 6] = ["main", "lib", "handler", "bin", "cli", "local"];
/// Outside systems, which the pure folders know nothing of.
const PURE: [&str; 5] = ["domain", "event", "response", "status_report", "settings"];
const OUTSIDE: [&str; 5] = ["aws_", "reqwest", "lambda_runtime", "tokio", "axum"];
/// Only who sends or stores a secret may ask for its text.
const MAY_EXPOSE: [&str; 6] = ["domain", "aws", "tiktok", "refresh", "actions", "local"];

/// Every source file: its folder or top-level module, its path, and its code without unit tests and comments.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let module = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            sources.push((module, name, code.join("\n")));
        }
    }
    sources
}

/// The modules of this crate that a file names in a path: `crate::aws::…`, or `crate::{aws::…, domain::…}`.
fn imported(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for part in code.split("crate::").skip(1) {
        let Some(group) = part.strip_prefix('{') else {
            modules.push(part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        };
        let (mut depth, mut name) = (0, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => modules.push(std::mem::take(&mut name)),
                _ if depth == 0 => name.push(c),
                _ => {}
            }
        }
        modules.push(name);
    }
    let first = |path: String| path.trim().split("::").next().unwrap_or_default().to_owned();
    modules.into_iter().map(first).filter(|module| !module.is_empty()).collect()
}

#[test]
fn imports_run_one_way() {
    for (module, file, code) in sources() {
        if ENTRIES.contains(&module.as_str()) {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{file}: say in this test what `{module}` may import"));
        for import in imported(&code) {
            assert!(import == module || allowed.contains(&import.as_str()), "{file} imports {import}");
        }
    }
}

#[test]
fn the_pure_folders_know_no_outside_system() {
    for (module, file, code) in sources() {
        if PURE.contains(&module.as_str()) {
            for word in OUTSIDE {
                assert!(!code.contains(word), "{file} names {word}");
            }
        }
    }
}

#[test]
fn a_secrets_text_is_asked_for_only_where_it_is_sent_or_stored() {
    for (module, file, code) in sources() {
        assert!(MAY_EXPOSE.contains(&module.as_str()) || !code.contains("expose"), "{file}");
    }
}

#[test]
fn the_reader_of_imports_sees_them_all() {
    let code = "use crate::{\n aws::{self, dynamodb::{Table, Update}},\n domain::clock::Clock,\n};\ncrate::refresh::x();";
    assert_eq!(imported(code), ["aws", "domain", "refresh"]);
}
