//! DynamoDB's attributes into rows. A row that cannot be read is named, with the attribute, what was found in its
//! place and what was expected: never the value, which may be a token.

use crate::domain::{
    integration::{Candidate, Integration, IntegrationKey, Lease, Notice, Status, UnixTime},
    report_row::ReportRow,
    secret::{AccessToken, RefreshToken},
};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::HashMap;

/// One item as the SDK gives it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// What a row lacks or garbles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{attribute} is {found}, expected {expected}")]
pub struct MalformedRow {
    /// Which row.
    pub key: IntegrationKey,
    /// Which attribute.
    pub attribute: &'static str,
    /// The shape of what is there.
    pub found: &'static str,
    /// What should be there.
    pub expected: &'static str,
}

/// The key of an item. The table's schema sees to it that both are there.
pub(crate) fn key_of(item: &Item) -> IntegrationKey {
    let text = |name: &str| match item.get(name) {
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => String::from(text),
        _ => String::default(),
    };
    IntegrationKey { team_id: text("team_id"), integration_id: text("integration_id") }
}

pub(crate) fn candidate(item: &Item) -> Result<Candidate, MalformedRow> {
    let row = Reader { item };
    let status = row.text("status", "a string such as \"active\"")?;
    let Some(status) = status else { return Err(row.malformed("status", "a string such as \"active\"")) };
    Ok(Candidate {
        key: key_of(item),
        status: Status::parse(status),
        app_key: row.text("app_key", "a string, or no such attribute")?.map(String::from),
        access_expires_at: row.time("access_token_expires_at")?,
        refresh_expires_at: row.time("refresh_token_expires_at")?,
        lease: row.time("lock_expires_at")?.map(|at| row.lease_until(at)),
        notice: row.notice(),
    })
}

pub(crate) fn integration(item: &Item) -> Result<Integration, MalformedRow> {
    let row = Reader { item };
    Ok(Integration {
        candidate: candidate(item)?,
        access_token: row.text("access_token", "a string")?.map(|text| AccessToken::from(text.to_owned())),
        refresh_token: row.text("refresh_token", "a string")?.map(|text| RefreshToken::from(text.to_owned())),
        open_id: row.loose_text("open_id"),
        authorization_id: row.loose_text("authorization_id"),
        consecutive_failures: row.failures(),
        last_refreshed_at: row.loose_time("last_refreshed_at"),
        error_at: row.loose_time("error_at"),
    })
}

/// A row as the status report sees it.
pub(crate) fn report_row(item: &Item) -> Result<ReportRow, MalformedRow> {
    let row = Reader { item };
    Ok(ReportRow {
        candidate: candidate(item)?,
        open_id: row.loose_text("open_id"),
        seller_name: row.loose_text("seller_name"),
        last_refreshed_at: row.loose_time("last_refreshed_at"),
        error_code: row.loose_text("error_code"),
        error_message: row.loose_text("error_message"),
        error_at: row.loose_time("error_at"),
        consecutive_failures: row.failures(),
    })
}

/// Reads what can be read: whatever is garbled counts as absent. For a row that changed in mid-flight, where a
/// token in hand matters more than what somebody wrote beside the old one.
pub(crate) fn leniently(item: &Item) -> Integration {
    let row = Reader { item };
    Integration {
        candidate: Candidate {
            key: key_of(item),
            status: Status::parse(&row.loose_text("status").unwrap_or_default()),
            app_key: row.loose_text("app_key").map(String::from),
            access_expires_at: row.loose_time("access_token_expires_at"),
            refresh_expires_at: row.loose_time("refresh_token_expires_at"),
            lease: row.loose_time("lock_expires_at").map(|at| row.lease_until(at)),
            notice: row.notice(),
        },
        access_token: row.loose_text("access_token").map(AccessToken::from),
        refresh_token: row.loose_text("refresh_token").map(RefreshToken::from),
        open_id: row.loose_text("open_id"),
        authorization_id: row.loose_text("authorization_id"),
        consecutive_failures: row.failures(),
        last_refreshed_at: row.loose_time("last_refreshed_at"),
        error_at: row.loose_time("error_at"),
    }
}

struct Reader<'a> {
    item: &'a Item,
}

impl<'a> Reader<'a> {
    /// A string; an empty one is as good as none.
    fn text(&self, name: &'static str, expected: &'static str) -> Result<Option<&'a str>, MalformedRow> {
        match self.item.get(name) {
            None | Some(AttributeValue::Null(_)) => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.malformed(name, expected)),
        }
    }

    fn loose_text(&self, name: &'static str) -> Option<String> {
        self.text(name, "").ok().flatten().map(ToOwned::to_owned)
    }

    fn lease_until(&self, expires_at: UnixTime) -> Lease {
        Lease { owner: self.loose_text("lock_owner").unwrap_or_default(), expires_at }
    }

    fn failures(&self) -> i64 {
        self.loose_time("consecutive_failures").map_or(0, |number| number.0.max(0))
    }

    fn loose_time(&self, name: &'static str) -> Option<UnixTime> {
        self.time(name).ok().flatten()
    }

    fn notice(&self) -> Option<Notice> {
        self.loose_text("refresh_token_notice").and_then(|text| Notice::parse(&text))
    }

    /// A whole number. DynamoDB's numbers reach further than `i64` and have fractions: what is too large is the
    /// largest, and a fraction counts up, so that comparisons come out as DynamoDB's own do.
    #[expect(clippy::cast_possible_truncation, reason = "saturates, as it should")]
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
    fn a_garbled_attribute_is_named_by_its_shape_and_never_by_its_value() {
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
                AttributeValue::Null(true),
                "app_key is null, expected a string, or no such attribute",
            ),
            ("refresh_token", AttributeValue::N("5".into()), "refresh_token is a number, expected a string"),
        ];
        for (name, value, said) in cases {
            let error = integration(&item(&[(name, value)])).unwrap_err();
            assert_eq!(error.to_string(), said);
            assert_eq!(error.key.integration_id, "7");
        }
        let mut no_status = item(&[]);
        no_status.remove("status");
        assert!(candidate(&no_status).unwrap_err().to_string().starts_with("status is missing"));
    }

    #[test]
    fn numbers_beyond_i64_saturate_and_fractions_count_up() {
        assert_eq!(expiry("4841467787"), Some(UnixTime(4_841_467_787)));
        assert_eq!(expiry("1E+120"), Some(UnixTime(i64::MAX)));
        assert_eq!(expiry("-1E+120"), Some(UnixTime(i64::MIN)));
        assert_eq!(expiry("17.2"), Some(UnixTime(18)));
    }

    proptest! {
        #[test]
        fn no_row_panics(name in "status|app_key|access_token_expires_at|refresh_token|lock_expires_at", kind in 0..6, text in "\\PC{0,20}") {
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
