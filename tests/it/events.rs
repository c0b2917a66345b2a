//! Each file of `events/` does what its name says.

use super::support::{World, hours};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path};

fn files() -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let read = |path: &Path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), read(&path)))
        .collect()
}

#[tokio::test]
async fn each_example_event_is_answered_as_its_name_says() {
    for (file, event) in files() {
        let world = World::new().await;
        world.integration().team("1").id("101").insert().await;
        world.integration().team("1").id("102").expiring_in(hours(1)).insert().await;
        world.integration().team("2").id("201").expiring_in(hours(1)).insert().await;
        if file == "connect.json" {
            // An example cannot hold a real code: it gets as far as TikTok, which says so.
            assert_eq!(world.invoke(&event).await.unwrap_err().error_type(), "CodeRefused");
            continue;
        }
        if file == "connect-link.json" {
            // It gets as far as the secret, which in this world has no service_id.
            assert_eq!(world.invoke(&event).await.unwrap_err().error_type(), "NoServiceId");
            continue;
        }
        let answer = world.refresh(event).await;
        let told = match file.as_str() {
            "status.json" => Some((answer["counts"]["total"].clone(), json!(3))),
            "status-team-table.json" => {
                Some((json!(answer.as_str().unwrap().contains("2 integrations")), json!(true)))
            }
            "status-summary.json" => {
                Some((json!(answer.as_str().unwrap().contains("3 integrations")), json!(true)))
            }
            "status-widget.json" => Some((json!(answer.as_str().unwrap().contains("<svg")), json!(true))),
            "status-widget-describe.json" => {
                Some((json!(answer.as_str().unwrap().contains("```")), json!(true)))
            }
            "ensure.json" => Some((answer["outcome"].clone(), json!("valid"))),
            "import.json" => Some((answer["counts"]["would_create"].clone(), json!(1))),
            "verify.json" => Some((answer["counts"]["valid"].clone(), json!(2))),
            "cleanup.json" => {
                Some((json!([answer["counts"]["examined"], answer["dry_run"]]), json!([3, false])))
            }
            "cleanup-dry-run.json" => {
                Some((json!([answer["counts"]["examined"], answer["dry_run"]]), json!([3, true])))
            }
            _ => None,
        };
        if let Some((told, expected)) = told {
            assert_eq!(told, expected, "{file}");
            continue;
        }
        // Trigger, examined, refreshed, would be refreshed.
        let expected = match file.as_str() {
            "scheduled.json" | "scheduler.json" => json!(["schedule", 3, 2, 0]),
            "manual.json" => json!(["manual", 3, 2, 0]),
            "manual-team.json" => json!(["manual", 2, 1, 0]),
            "manual-integration-force.json" => json!(["manual", 1, 1, 0]),
            "manual-dry-run.json" => json!(["manual", 3, 0, 2]),
            "manual-force-dry-run.json" => json!(["manual", 3, 0, 3]),
            unknown => panic!("{unknown} is an example that no test knows"),
        };
        let counts = &answer["counts"];
        let told =
            json!([answer["trigger"], counts["examined"], counts["refreshed"], counts["would_refresh"]]);
        assert_eq!(told, expected, "{file}");
    }
}
