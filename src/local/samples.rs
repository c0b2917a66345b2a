//! Sample integrations: at least one in each state, and rows that a run must handle with care.

use super::tiktok::{Behaviour, Pair, TikTokStandIn};
use crate::aws::dynamodb::row::Item;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};

/// The `open_id` of the seller whose first call TikTok throttles.
const BUSY: &str = "seller-205";
/// The `open_id`s of the sellers whose authorization has ended: one revoked it, and the other's has expired.
const ENDED: [&str; 2] = ["seller-301", "seller-302"];

/// The attributes in which the samples differ.
struct Sample {
    id: u32,
    seller: &'static str,
    status: &'static str,
    /// Unix seconds; `None` omits the attribute.
    access_expires_at: Option<i64>,
    refresh_expires_in: TimeDelta,
    extra: Vec<(&'static str, AttributeValue)>,
}

/// The samples as table items, with expiries relative to `now`.
pub(super) fn items(now: DateTime<Utc>, tiktok: &TikTokStandIn) -> Vec<Item> {
    let within = |delta: TimeDelta| Some((now + delta).timestamp());
    let sample = |id, seller, access_expires_at| Sample {
        id,
        seller,
        status: "active",
        access_expires_at,
        refresh_expires_in: TimeDelta::days(200),
        extra: Vec::new(),
    };
    let lease = |until: TimeDelta| {
        vec![
            ("lock_owner", AttributeValue::S("another-attempt".into())),
            ("lock_expires_at", AttributeValue::N((now + until).timestamp().to_string())),
        ]
    };
    let malformed = vec![("access_token_expires_at", AttributeValue::S("tomorrow".into()))];
    let hour = TimeDelta::hours(1);
    let samples = [
        sample(101, "Fresh Flowers", within(TimeDelta::days(5))),
        sample(102, "Noodles by Night", within(TimeDelta::hours(20))),
        sample(103, "Ten Minute Tea", within(TimeDelta::minutes(10))),
        sample(104, "Yesterday's Toys", within(TimeDelta::hours(-3))),
        sample(105, "Never Refreshed Books", None),
        sample(201, "Century Crafts", Some(4_841_467_787)),
        sample(202, "Duration Dresses", Some(604_800)),
        Sample { extra: lease(-hour), ..sample(203, "Lost Lease Lamps", within(hour)) },
        Sample { extra: lease(hour), ..sample(204, "Locked Lanterns", within(hour)) },
        sample(205, "Busy Bakery", within(hour)),
        sample(301, "Revoked Rings", within(hour)),
        Sample { refresh_expires_in: TimeDelta::days(-2), ..sample(302, "Old Grant Ovens", within(-hour)) },
        Sample { status: "error", ..sample(303, "Marked Mugs", within(-hour)) },
        Sample { status: "paused", ..sample(304, "Paused Plants", within(-hour)) },
        Sample { extra: malformed, ..sample(305, "Garbled Garments", None) },
    ];
    samples.into_iter().map(|sample| item(sample, now, tiktok)).collect()
}

fn item(sample: Sample, now: DateTime<Utc>, tiktok: &TikTokStandIn) -> Item {
    let open_id = format!("seller-{}", sample.id);
    let pair = tiktok.authorize(&open_id, sample.seller);
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let number = |value: i64| AttributeValue::N(value.to_string());
    let mut item: Item = [
        ("team_id", text(&(sample.id / 100).to_string())),
        ("integration_id", text(&sample.id.to_string())),
        ("status", text(sample.status)),
        ("access_token", text(&pair.access_token)),
        ("refresh_token", text(&pair.refresh_token)),
        ("refresh_token_expires_at", number((now + sample.refresh_expires_in).timestamp())),
        ("open_id", text(&open_id)),
        ("seller_name", text(sample.seller)),
        ("note", text("a custom attribute: every write preserves it")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if let Some(at) = sample.access_expires_at {
        item.insert("access_token_expires_at".into(), number(at));
    }
    item.extend(sample.extra.into_iter().map(|(name, value)| (name.to_owned(), value)));
    item
}

/// Registers the table's sellers with the stand-in, as an earlier process may have written the table. Then sets up the
/// throttled seller and the ended authorizations.
pub(super) fn prepare(items: &[Item], tiktok: &TikTokStandIn) {
    for item in items {
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
        let tokens = (text("access_token"), text("refresh_token"));
        if let (Some(open_id), (Some(access_token), Some(refresh_token))) = (text("open_id"), tokens) {
            let pair = Pair { access_token: access_token.clone(), refresh_token: refresh_token.clone() };
            tiktok.adopt(open_id, text("seller_name").map_or("", String::as_str), &pair);
        }
    }
    tiktok.next(BUSY, [Behaviour::Status(429, "too many requests", Some(1))]);
    for open_id in ENDED {
        tiktok.revoke(open_id);
    }
}
