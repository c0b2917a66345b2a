//! What the README and the log page promise is what the code holds.

use std::{fs, path::Path};

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

#[test]
fn the_log_page_explains_every_reason() {
    let page = read("docs/LOGGING.md");
    let mut reasons = Vec::new();
    let sources = [
        "src/domain/outcome.rs",
        "src/tiktok/error.rs",
        "src/refresh/mod.rs",
        "src/refresh/mark.rs",
        "src/refresh/save.rs",
        "src/run/mod.rs",
        "src/run/scan.rs",
        "src/run/fan_out.rs",
    ];
    let sources: Vec<String> = sources.iter().map(|file| read(file)).collect();
    for source in &sources {
        let code = source.split("#[cfg(test)]").next().unwrap();
        for call in code.split(".because(").skip(1) {
            reasons.extend(quoted(call.split(',').next().unwrap(), |_| true));
        }
        reasons.extend(
            code.split("(&str, &str) =").skip(1).filter_map(|pair| quoted(pair, |_| true).first().copied()),
        );
        for arm in code.split("} => \"").skip(1) {
            reasons.push(arm.split('"').next().unwrap());
        }
    }
    assert!(reasons.len() > 15, "{reasons:?}");
    // Of these the message says all there is to say.
    for told in ["no_readable_answer", "leased", "status", "changed_meanwhile", "out_of_time"] {
        reasons.retain(|reason| *reason != told);
    }
    for reason in reasons {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
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
