//! One conditional `UpdateItem`: what it sets and removes, and under which condition.

use crate::domain::shop::Shop;
use aws_sdk_dynamodb::types::AttributeValue;

/// An update of one row. The functions of [`updates`](super::updates) make it.
#[derive(Clone, Default)]
pub struct Update {
    pub(super) set: Vec<(&'static str, AttributeValue)>,
    pub(super) remove: Vec<&'static str>,
    pub(super) conditions: Vec<(&'static str, Condition)>,
}

/// What an attribute must hold for the update to be made.
#[derive(Clone)]
pub(super) enum Condition {
    /// This value.
    Value(AttributeValue),
    /// No text: it is absent, NULL, empty or of another type, as [`row::leniently`](super::row::leniently) reads it.
    NoText,
    /// No number.
    NoNumber,
}

impl Update {
    pub(super) fn set_text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.set.push((name, AttributeValue::S(value.into())));
        self
    }

    pub(super) fn set_number(mut self, name: &'static str, value: i64) -> Self {
        self.set.push((name, number(value)));
        self
    }

    pub(super) fn set_list(mut self, name: &'static str, values: impl IntoIterator<Item = String>) -> Self {
        self.set.push((name, AttributeValue::L(values.into_iter().map(AttributeValue::S).collect())));
        self
    }

    pub(super) fn set_shops(mut self, name: &'static str, shops: &[Shop]) -> Self {
        let map = |shop: &Shop| {
            let Shop { id, name, region, cipher } = shop;
            let pairs = [("id", id), ("name", name), ("region", region), ("cipher", cipher)];
            AttributeValue::M(pairs.map(|(name, value)| (name.to_owned(), text(value))).into())
        };
        self.set.push((name, AttributeValue::L(shops.iter().map(map).collect())));
        self
    }

    pub(super) fn remove(mut self, names: &[&'static str]) -> Self {
        self.remove.extend(names);
        self
    }

    /// Removes the lease too.
    #[must_use]
    pub fn release(self) -> Self {
        self.remove(&["lock_owner", "lock_expires_at"])
    }

    /// Only if the attribute still holds this text, or still none.
    pub(super) fn only_if(mut self, name: &'static str, value: Option<&str>) -> Self {
        let condition = value.map_or(Condition::NoText, |value| Condition::Value(text(value)));
        self.conditions.push((name, condition));
        self
    }

    /// Only if the attribute still holds this number, or still none.
    pub(super) fn only_if_number(mut self, name: &'static str, value: Option<i64>) -> Self {
        let condition = value.map_or(Condition::NoNumber, |value| Condition::Value(number(value)));
        self.conditions.push((name, condition));
        self
    }
}

pub(super) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(super) fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
