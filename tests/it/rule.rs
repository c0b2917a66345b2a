//! The rule is stated twice: in Rust, and in DynamoDB's language in the condition of the lease. They must agree for
//! every row.

use super::support::{NIGHT, World, world::TABLE};
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::TimeDelta;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::collections::HashMap;
use tiktok_token_refresh::{
    aws::dynamodb::{Acquired, InUse, LeaseRequest, Table},
    domain::{
        due::{DuePolicy, SkipReason},
        integration::{Candidate, Integration, IntegrationKey, LastFailure, Lease, Seen, Status, UnixTime},
        secret::Fingerprint,
    },
};

const IN_USE: &str = "in-use";

/// Moments at and around every border, and far beyond.
fn moment() -> impl Strategy<Value = Option<i64>> {
    const BORDERS: [i64; 6] = [0, 300, 1800, 48 * 3600, 30 * 24 * 3600, 400 * 24 * 3600];
    let near = (proptest::sample::select(&BORDERS[..]), -1_i64..=1)
        .prop_map(|(border, by)| Some(NIGHT + border + by));
    prop_oneof![6 => near, 1 => Just(None), 1 => (-1_i64..=1).prop_map(Some), 1 => any::<i64>().prop_map(Some)]
}

fn token() -> impl Strategy<Value = Option<String>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(String::new())), 4 => Just(Some("TTX_1".to_owned()))]
}

fn row() -> impl Strategy<Value = (Integration, HashMap<String, AttributeValue>)> {
    let status =
        prop_oneof![4 => Just("active"), 4 => Just("error"), 1 => Just("expired"), 1 => Just("paused")];
    let failure = (
        proptest::sample::select(
            &[None, Some("reauthorize"), Some("probably_lost_answer"), Some("refused"), Some("")][..],
        ),
        proptest::sample::select(&[None, Some("36004001"), Some("refresh_token_expired"), Some("1")][..]),
        proptest::sample::select(&[None, Some(IN_USE), Some("others"), Some("")][..]),
        proptest::sample::select(&[None, Some("app"), Some("another")][..]),
    );
    (status, moment(), moment(), moment(), token(), token(), failure).prop_map(
        |(status, access, refresh, lock, at, rt, (reason, code, rejected_by, app_key))| {
            let text = |text: &str| AttributeValue::S(text.to_owned());
            let number = |number: i64| AttributeValue::N(number.to_string());
            let mut item = HashMap::from([
                ("team_id".to_owned(), text("1")),
                ("integration_id".to_owned(), text("7")),
                ("status".to_owned(), text(status)),
            ]);
            let mut set = |name: &str, value: Option<AttributeValue>| {
                value.map(|value| item.insert(name.to_owned(), value));
            };
            set("access_token_expires_at", access.map(number));
            set("refresh_token_expires_at", refresh.map(number));
            set("lock_expires_at", lock.map(number));
            set("lock_owner", lock.map(|_| text("somebody")));
            set("access_token", at.as_deref().map(text));
            set("refresh_token", rt.as_deref().map(text));
            set("error_reason", reason.map(text));
            set("error_code", code.map(text));
            set("rejected_by", rejected_by.map(text));
            set("app_key", app_key.map(text));
            let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(ToOwned::to_owned);
            let last_failure = LastFailure {
                reason: some(reason),
                code: some(code),
                message: None,
                rejected_by: some(rejected_by).map(Fingerprint),
            };
            let row = Integration {
                candidate: Candidate {
                    key: IntegrationKey { team_id: "1".into(), integration_id: "7".into() },
                    status: Status::parse(status),
                    app_key: app_key.map(ToOwned::to_owned),
                    access_expires_at: access.map(UnixTime),
                    refresh_expires_at: refresh.map(UnixTime),
                    lease: lock.map(|at| Lease { owner: "somebody".into(), expires_at: UnixTime(at) }),
                    notice: None,
                    seller_name: None,
                    last_failure: (last_failure != LastFailure::default()).then_some(last_failure),
                },
                access_token: at.filter(|text| !text.is_empty()).map(Into::into),
                refresh_token: rt.filter(|text| !text.is_empty()).map(Into::into),
                open_id: None,
                authorization_id: None,
                consecutive_failures: 0,
                last_refreshed_at: None,
                error_at: None,
                authorized_shops: Vec::new(),
            };
            (row, item)
        },
    )
}

#[tokio::test]
async fn the_leases_condition_and_the_pure_rule_agree_for_every_row() {
    let world = World::new().await;
    let store = Table::new(world.table.clone(), TABLE);
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut healed) = (0, 0);
    for n in 0..1500 {
        let (row, item) = row().new_tree(&mut runner).unwrap().current();
        let rule = DuePolicy {
            now: world.now(),
            refresh_ahead: TimeDelta::hours(48),
            force: n % 3 == 0,
            unless_refreshed_since: None,
        };
        world.table.put_item().table_name(TABLE).set_item(Some(item)).send().await.unwrap();
        let fingerprint = Fingerprint(IN_USE.into());
        // Mostly the row's own app: a mark heals under no other.
        let row_app = row.candidate.app_key.as_deref();
        let app_key = if n % 4 > 0 { row_app } else { [None, Some("app")][n / 4 % 2] };
        let in_use = (n % 5 > 0).then_some(InUse { app_key, fingerprint: &fingerprint });
        let claim = LeaseRequest { attempt_id: "me", expires_at: UnixTime(NIGHT + 960), in_use, seen: None };
        let same_app = in_use.filter(|in_use| in_use.app_key == row.candidate.app_key.as_deref());
        let acquired = store.acquire(&row.candidate.key, &rule, claim).await.unwrap();
        match (row.may_acquire(&rule, same_app.map(|in_use| in_use.fingerprint)), acquired) {
            (Ok(_), Acquired::Leased(before)) => {
                taken += 1;
                healed += usize::from(row.candidate.status == Status::Error && !rule.force);
                assert_eq!(before.candidate, row.candidate, "the row as it was before the lease");
            }
            (Err(expected), Acquired::Skipped(skip, _)) => assert_eq!(skip, expected),
            (expected, acquired) => panic!("{expected:?} and {acquired:?} for {:?}, {rule:?}", row.candidate),
        }
    }
    assert!((100..1400).contains(&taken), "both ends are met often: {taken}");
    assert!(healed > 10, "marked rows are met often: {healed}");
}

#[tokio::test]
async fn an_on_demand_caller_acquires_only_a_row_that_is_as_it_was_read() {
    let world = World::new().await;
    let store = Table::new(world.table.clone(), TABLE);
    let (text, number) = (|s: &str| AttributeValue::S(s.into()), |n: i64| AttributeValue::N(n.to_string()));
    let tokens = [None, Some(text("a")), Some(text("b")), Some(text("")), Some(AttributeValue::Null(true))];
    let times =
        [None, Some(number(5)), Some(number(6)), Some(AttributeValue::Null(true)), Some(text("soon"))];
    let (mut taken, mut left) = (0, 0);
    for status in ["active", "error"] {
        for (token, time) in tokens.iter().flat_map(|token| times.iter().map(move |time| (token, time))) {
            for (seen_token, seen_at) in
                [(None, None), (Some("a"), None), (None, Some(5)), (Some("a"), Some(5))]
            {
                let pairs = [
                    ("team_id", Some(text("1"))),
                    ("integration_id", Some(text("7"))),
                    ("status", Some(text(status))),
                    ("refresh_token", Some(text("r"))),
                    ("access_token", token.clone()),
                    ("error_at", time.clone()),
                ];
                let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
                world
                    .table
                    .put_item()
                    .table_name(TABLE)
                    .set_item(Some(pairs.collect()))
                    .send()
                    .await
                    .unwrap();
                let key = IntegrationKey { team_id: "1".into(), integration_id: "7".into() };
                let row = store.read(&key).await.unwrap().unwrap();
                let seen_token = seen_token.map(|token| token.to_owned().into());
                let seen = Seen { access_token: seen_token.as_ref(), error_at: seen_at.map(UnixTime) };
                let rule = DuePolicy {
                    now: world.now(),
                    refresh_ahead: TimeDelta::hours(48),
                    force: true,
                    unless_refreshed_since: None,
                };
                let expires_at = UnixTime(NIGHT + 100);
                let claim = LeaseRequest { attempt_id: "me", expires_at, in_use: None, seen: Some(seen) };
                match (row.is_as(seen), store.acquire(&key, &rule, claim).await.unwrap()) {
                    (true, Acquired::Leased(_)) => taken += 1,
                    (false, Acquired::Skipped(SkipReason::Changed, _)) => left += 1,
                    (expected, acquired) => panic!("{expected} and {acquired:?} for {row:?}, {seen:?}"),
                }
            }
        }
    }
    assert!(taken > 10 && left > 10, "{taken} {left}");
}
