//! Converts DynamoDB items into rows. The error for a malformed row names the attribute and its type, never its value, which
//! may be a token.

use crate::domain::{
    integration::{Candidate, Integration, IntegrationKey, LastFailure, Lease, Notice, Status, UnixTime},
    report_row::ReportRow,
    secret::{AccessToken, Fingerprint, RefreshToken},
    shop::Shop,
};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::HashMap;

/// An item, as the SDK returns it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// A row with a missing or malformed attribute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{attribute} is {found}, expected {expected}")]
pub struct MalformedRow {
    /// The row's key.
    pub key: IntegrationKey,
    /// The attribute's name.
    pub attribute: &'static str,
    /// The attribute's actual type, or `missing`.
    pub found: &'static str,
    /// What the attribute must be.
    pub expected: &'static str,
}

/// The key of an item. The table's schema guarantees that both attributes exist.
pub(crate) fn key_of(item: &Item) -> IntegrationKey {
    let text = |name: &str| match item.get(name) {
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => String::from(text),
        _ => String::default(),
    };
    IntegrationKey { team_id: text("team_id"), integration_id: text("integration_id") }
}

/// Reads the attributes that a scan needs.
pub(crate) fn candidate(item: &Item) -> Result<Candidate, MalformedRow> {
    let row = Reader { item };
    let expected = "a string such as \"active\"";
    let status = row.text("status", expected)?.ok_or_else(|| row.malformed("status", expected))?;
    Ok(Candidate {
        key: key_of(item),
        status: Status::parse(status),
        app_key: row.text("app_key", "a string, or no such attribute")?.map(String::from),
        access_expires_at: row.time("access_token_expires_at")?,
        refresh_expires_at: row.time("refresh_token_expires_at")?,
        lease: row.time("lock_expires_at")?.map(|at| row.lease_expiring_at(at)),
        notice: row.notice(),
        seller_name: row.text_or_none("seller_name"),
        last_failure: row.last_failure(),
    })
}

/// Reads a whole row, including its tokens.
pub(crate) fn integration(item: &Item) -> Result<Integration, MalformedRow> {
    let row = Reader { item };
    Ok(Integration {
        candidate: candidate(item)?,
        access_token: row.text("access_token", "a string")?.map(|text| AccessToken::from(text.to_owned())),
        refresh_token: row.text("refresh_token", "a string")?.map(|text| RefreshToken::from(text.to_owned())),
        open_id: row.text_or_none("open_id"),
        authorization_id: row.text_or_none("authorization_id"),
        consecutive_failures: row.failures(),
        last_refreshed_at: row.time_or_none("last_refreshed_at"),
        error_at: row.time_or_none("error_at"),
        authorized_shops: row.shops(),
    })
}

/// Reads the attributes that the status report needs.
pub(crate) fn report_row(item: &Item) -> Result<ReportRow, MalformedRow> {
    let row = Reader { item };
    Ok(ReportRow {
        candidate: candidate(item)?,
        open_id: row.text_or_none("open_id"),
        last_refreshed_at: row.time_or_none("last_refreshed_at"),
        error_at: row.time_or_none("error_at"),
        consecutive_failures: row.failures(),
        authorized_shops: row.shops(),
    })
}

/// Reads a whole row and treats malformed attributes as missing. For a row that changed during its refresh: saving the new
/// token pair matters more than another writer's mistake.
pub(crate) fn leniently(item: &Item) -> Integration {
    let row = Reader { item };
    Integration {
        candidate: Candidate {
            key: key_of(item),
            status: Status::parse(&row.text_or_none("status").unwrap_or_default()),
            app_key: row.text_or_none("app_key"),
            access_expires_at: row.time_or_none("access_token_expires_at"),
            refresh_expires_at: row.time_or_none("refresh_token_expires_at"),
            lease: row.time_or_none("lock_expires_at").map(|at| row.lease_expiring_at(at)),
            notice: row.notice(),
            seller_name: row.text_or_none("seller_name"),
            last_failure: row.last_failure(),
        },
        access_token: row.text_or_none("access_token").map(AccessToken::from),
        refresh_token: row.text_or_none("refresh_token").map(RefreshToken::from),
        open_id: row.text_or_none("open_id"),
        authorization_id: row.text_or_none("authorization_id"),
        consecutive_failures: row.failures(),
        last_refreshed_at: row.time_or_none("last_refreshed_at"),
        error_at: row.time_or_none("error_at"),
        authorized_shops: row.shops(),
    }
}

struct Reader<'a> {
    item: &'a Item,
}

impl<'a> Reader<'a> {
    /// A string. An empty one, or NULL as some libraries write it, counts as missing.
    fn text(&self, name: &'static str, expected: &'static str) -> Result<Option<&'a str>, MalformedRow> {
        match self.item.get(name) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.malformed(name, expected)),
        }
    }

    fn text_or_none(&self, name: &'static str) -> Option<String> {
        self.text(name, "").ok().flatten().map(ToOwned::to_owned)
    }

    fn lease_expiring_at(&self, expires_at: UnixTime) -> Lease {
        Lease { owner: self.text_or_none("lock_owner").unwrap_or_default(), expires_at }
    }

    /// The number of failures since the last success, at least 0.
    fn failures(&self) -> i64 {
        self.time_or_none("consecutive_failures").map_or(0, |number| number.0.max(0))
    }

    fn time_or_none(&self, name: &'static str) -> Option<UnixTime> {
        self.time(name).ok().flatten()
    }

    fn last_failure(&self) -> Option<LastFailure> {
        let failure = LastFailure {
            reason: self.text_or_none("error_reason"),
            code: self.text_or_none("error_code"),
            message: self.text_or_none("error_message"),
            rejected_by: self.text_or_none("rejected_by").map(Fingerprint),
        };
        (failure != LastFailure::default()).then_some(failure)
    }

    /// The shops of the authorization; none, if the list is not as this function writes it.
    fn shops(&self) -> Vec<Shop> {
        let Some(AttributeValue::L(shops)) = self.item.get("authorized_shops") else { return Vec::new() };
        let shop = |shop: &AttributeValue| {
            let shop = shop.as_m().ok()?;
            let text = |name: &str| shop.get(name)?.as_s().ok().cloned();
            let optional = |name: &str| text(name).unwrap_or_default();
            Some(Shop {
                id: text("id")?,
                name: optional("name"),
                region: optional("region"),
                cipher: optional("cipher"),
            })
        };
        shops.iter().filter_map(shop).collect()
    }

    fn notice(&self) -> Option<Notice> {
        self.text_or_none("refresh_token_notice").and_then(|text| Notice::parse(&text))
    }

    /// A time in Unix seconds, or a counter. DynamoDB's numbers exceed `i64` and have fractions. They saturate and round up,
    /// so that comparisons give the same results as DynamoDB's own.
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
    fn time(&self, name: &'static str) -> Result<Option<UnixTime>, MalformedRow> {
        match self.item.get(name) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::N(number)) => number
                .parse::<i64>()
                .or_else(|_| number.parse::<f64>().map(|number| number.ceil() as i64))
                .map(|seconds| Some(UnixTime(seconds)))
                .map_err(|_| self.malformed(name, "a number of Unix seconds")),
            Some(_) => Err(self.malformed(name, "a number of Unix seconds")),
        }
    }

    fn malformed(&self, attribute: &'static str, expected: &'static str) -> MalformedRow {
        let found = match self.item.get(attribute) {
            None => "missing",
            Some(AttributeValue::S(text)) if text.is_empty() => "an empty string",
            Some(AttributeValue::S(_)) => "a string",
            Some(AttributeValue::N(_)) => "a number",
            Some(AttributeValue::Bool(_)) => "a boolean",
            Some(AttributeValue::Null(_)) => "null",
            Some(AttributeValue::L(_)) => "a list",
            Some(AttributeValue::M(_)) => "a map",
            Some(AttributeValue::B(_)) => "binary",
            Some(_) => "a set",
        };
        MalformedRow { key: key_of(self.item), attribute, found, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s(text: &str) -> AttributeValue {
        AttributeValue::S(text.into())
    }

    fn item(pairs: &[(&str, AttributeValue)]) -> Item {
        let keys = [("team_id", s("1")), ("integration_id", s("7")), ("status", s("active"))];
        keys.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn expiry(number: &str) -> Option<UnixTime> {
        candidate(&item(&[("access_token_expires_at", AttributeValue::N(number.into()))]))
            .unwrap()
            .access_expires_at
    }

    #[test]
    fn the_error_names_a_malformed_attribute_and_its_type_and_never_its_value() {
        let cases = [
            (
                "access_token_expires_at",
                s("TTP_x"),
                "access_token_expires_at is a string, expected a number of Unix seconds",
            ),
            (
                "status",
                AttributeValue::Bool(true),
                "status is a boolean, expected a string such as \"active\"",
            ),
            ("status", s(""), "status is an empty string, expected a string such as \"active\""),
            (
                "app_key",
                AttributeValue::L(Vec::new()),
                "app_key is a list, expected a string, or no such attribute",
            ),
            ("refresh_token", AttributeValue::N("5".into()), "refresh_token is a number, expected a string"),
        ];
        for (name, value, message) in cases {
            let error = integration(&item(&[(name, value)])).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.key.integration_id, "7");
        }
        let mut no_status = item(&[]);
        no_status.remove("status");
        assert!(candidate(&no_status).unwrap_err().to_string().starts_with("status is missing"));
    }

    #[test]
    fn a_null_attribute_is_the_same_as_an_absent_one() {
        for name in [
            "app_key",
            "access_token",
            "refresh_token",
            "access_token_expires_at",
            "refresh_token_expires_at",
            "lock_owner",
            "lock_expires_at",
            "open_id",
            "authorization_id",
            "refresh_token_notice",
            "last_refreshed_at",
            "error_at",
            "consecutive_failures",
            "seller_name",
            "error_reason",
            "error_code",
            "error_message",
            "rejected_by",
            "authorized_shops",
        ] {
            let null = integration(&item(&[(name, AttributeValue::Null(true))])).unwrap();
            assert_eq!(format!("{null:?}"), format!("{:?}", integration(&item(&[])).unwrap()), "{name}");
        }
    }

    #[test]
    fn numbers_beyond_i64_saturate_and_fractions_round_up() {
        assert_eq!(expiry("4841467787"), Some(UnixTime(4_841_467_787)));
        assert_eq!(expiry("1E+120"), Some(UnixTime(i64::MAX)));
        assert_eq!(expiry("-1E+120"), Some(UnixTime(i64::MIN)));
        assert_eq!(expiry("17.2"), Some(UnixTime(18)));
    }

    proptest! {
        #[test]
        fn no_attribute_panics_and_an_error_names_it(name in "status|app_key|access_token_expires_at|refresh_token|lock_expires_at", kind in 0..6, text in "\\PC{0,20}") {
            let value = match kind {
                0 => s(&text),
                1 => AttributeValue::N(text.clone()),
                2 => AttributeValue::Bool(true),
                3 => AttributeValue::Null(true),
                4 => AttributeValue::L(vec![s(&text)]),
                _ => AttributeValue::Ss(vec![text.clone()]),
            };
            if let Err(error) = integration(&item(&[(&name, value)])) {
                prop_assert_eq!(error.attribute, name);
            }
        }
    }
}
