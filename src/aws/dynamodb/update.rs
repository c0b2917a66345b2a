//! A conditional write, as the protocol says it.

use crate::domain::integration::UnixTime;
use aws_sdk_dynamodb::types::AttributeValue;

/// The attributes that an update sets (name and value) or removes, and the condition under which it does.
#[derive(Clone, Default)]
pub struct Change {
    pub(super) set: Vec<(&'static str, AttributeValue)>,
    pub(super) remove: Vec<&'static str>,
    pub(super) conditions: Vec<(&'static str, Option<AttributeValue>)>,
}

impl Change {
    /// Sets a string.
    #[must_use]
    pub fn set_text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.set.push((name, AttributeValue::S(value.into())));
        self
    }

    /// Sets a number.
    #[must_use]
    pub fn set_number(mut self, name: &'static str, value: i64) -> Self {
        self.set.push((name, number(value)));
        self
    }

    /// Sets a list of strings.
    #[must_use]
    pub fn set_list(mut self, name: &'static str, values: impl IntoIterator<Item = String>) -> Self {
        self.set.push((name, AttributeValue::L(values.into_iter().map(AttributeValue::S).collect())));
        self
    }

    /// Removes attributes.
    #[must_use]
    pub fn remove(mut self, names: &[&'static str]) -> Self {
        self.remove.extend(names);
        self
    }

    /// Removes the lease.
    #[must_use]
    pub fn release(self) -> Self {
        self.remove(&["lock_owner", "lock_expires_at"])
    }

    /// Only if the string is still this one, or still absent.
    #[must_use]
    pub fn only_if(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.conditions.push((name, value.map(text)));
        self
    }

    /// Only if the moment is still this one, or still absent.
    #[must_use]
    pub fn only_if_time(mut self, name: &'static str, at: Option<UnixTime>) -> Self {
        self.conditions.push((name, at.map(|at| number(at.0))));
        self
    }
}

pub(super) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(super) fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
