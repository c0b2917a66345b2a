//! The table: which integrations there are, and the conditional writes of one integration's refresh. Each write is
//! a single `UpdateItem`, and none names an attribute that belongs to the user.
//!
//! This module must never let an SDK error out, nor read a token before a lease is held.

mod error;
pub(crate) mod row;
mod scan;
mod update;

pub use error::StoreError;
pub use row::Malformed;
pub use scan::Page;
pub use update::Change;

use update::{number, text};

use crate::{
    aws::Said,
    domain::integration::{Candidate, Integration, IntegrationKey, Rule, Skip, Status, UnixTime},
};
use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use row::Item;
use std::collections::HashMap;

/// The table of integrations.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
}

/// A claim that an attempt makes on a row.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The attempt's own id: never the request's alone, since Lambda's retries reuse that.
    pub attempt_id: &'a str,
    /// When the lease ends by itself.
    pub expires_at: UnixTime,
}

/// What came of an attempt to take a row.
#[derive(Debug)]
pub enum Acquired {
    /// The row, as it was before the lease was written; its previous lease, if it has one, ran out unreleased.
    Taken(Box<Integration>),
    /// The row says no.
    Skipped(Skip, Box<Candidate>),
    /// The row is gone.
    Deleted,
    /// The row cannot be read.
    Malformed(Malformed),
}

/// What stands in the row when a conditional write did not fit any more.
#[derive(Debug)]
pub enum Conflict {
    /// The row as it is now; what is garbled in it counts as absent.
    Changed(Box<Integration>),
    /// The row is gone.
    Deleted,
}

/// A write under a condition: done, or the row as it is instead.
pub type Conditional = Result<Result<(), Conflict>, StoreError>;

impl Store {
    /// The table `table`, reached through `client`.
    pub fn new(client: Client, table: &str) -> Self {
        Self { client, table: table.to_owned() }
    }

    /// Takes a row, if [`Integration::may_be_taken`] holds at the moment of the write. This also proves that the
    /// table can be written before TikTok is asked.
    ///
    /// # Errors
    /// [`StoreError`]; the lease may then have been written all the same, and runs out by itself.
    pub async fn acquire(
        &self,
        key: &IntegrationKey,
        rule: &Rule,
        claim: Claim<'_>,
    ) -> Result<Acquired, StoreError> {
        let usable = "attribute_type(refresh_token, :string) AND refresh_token <> :empty \
             AND (attribute_not_exists(refresh_token_expires_at) OR refresh_token_expires_at > :now \
                  OR refresh_token_expires_at <= :zero)";
        let free = "(attribute_not_exists(lock_expires_at) OR lock_expires_at <= :now)";
        let due = "(attribute_not_exists(access_token) OR access_token = :empty \
             OR attribute_not_exists(access_token_expires_at) \
             OR access_token_expires_at <= :due OR access_token_expires_at > :believed)";
        let not_again = "(attribute_not_exists(last_refreshed_at) OR last_refreshed_at < :since)";
        let mut values = HashMap::new();
        let mut put = |stand_in: &str, value| values.insert(stand_in.to_owned(), value);
        put(":me", text(claim.attempt_id));
        put(":until", number(claim.expires_at.0));
        put(":string", text("S"));
        put(":empty", text(""));
        put(":zero", number(0));
        put(":now", number(rule.now.timestamp()));
        put(":active", text(Status::Active.as_str()));
        let mut condition = if rule.force {
            put(":error", text(Status::Error.as_str()));
            format!("#status IN (:active, :error) AND {usable} AND {free}")
        } else {
            put(":due", number(rule.due_until().0));
            put(":believed", number(rule.believed_until().0));
            format!("#status = :active AND {usable} AND {free} AND {due}")
        };
        if let Some(since) = rule.unless_refreshed_since {
            put(":since", number(since.0));
            condition.extend([" AND ", not_again]);
        }
        let write = self
            .update(key)
            .update_expression("SET lock_owner = :me, lock_expires_at = :until")
            .condition_expression(condition)
            .expression_attribute_names(STATUS, "status")
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::AllOld);
        let before = match write.send().await {
            Ok(output) => output.attributes,
            Err(error) => match self.failed_condition(&error)? {
                None => return Ok(Acquired::Deleted),
                Some(item) => match row::integration(&item) {
                    // The SDK asked twice, as the first answer was lost; the first time it was us.
                    Ok(row) if owner_of(&row) == Some(claim.attempt_id) => {
                        return Ok(Acquired::Taken(Box::new(without_lease(row))));
                    }
                    Ok(row) => return self.refused(row, rule),
                    Err(malformed) => return Ok(Acquired::Malformed(malformed)),
                },
            },
        };
        let before = before.unwrap_or_default();
        match row::integration(&before) {
            Ok(row) => Ok(Acquired::Taken(Box::new(row))),
            Err(malformed) => {
                // Nothing has been called yet, so the lease can go at once.
                let release = Change::default().release().only_if("lock_owner", Some(claim.attempt_id));
                self.change(key, release).await.ok();
                Ok(Acquired::Malformed(malformed))
            }
        }
    }

    /// Writes a change, if its conditions hold at that moment. A row that is gone is not created anew.
    ///
    /// # Errors
    /// [`StoreError`]; whether the change was written is then unknown.
    pub async fn change(&self, key: &IntegrationKey, change: Change) -> Conditional {
        self.write(key, change, "attribute_exists(team_id)").await
    }

    /// Writes a change as a new row, if there is none of this key.
    ///
    /// # Errors
    /// [`StoreError`]; whether the row was written is then unknown.
    pub async fn create(&self, key: &IntegrationKey, change: Change) -> Conditional {
        self.write(key, change, "attribute_not_exists(team_id)").await
    }

    async fn write(&self, key: &IntegrationKey, change: Change, presence: &str) -> Conditional {
        let mut write = self.update(key);
        let mut values = HashMap::new();
        let mut update = String::new();
        for (n, (name, value)) in change.set.into_iter().enumerate() {
            let stand_in = format!(":s{n}");
            for part in [if n == 0 { "SET " } else { ", " }, in_expression(name), " = ", &stand_in] {
                update.push_str(part);
            }
            values.insert(stand_in, value);
        }
        let verb = if update.is_empty() { "REMOVE " } else { " REMOVE " };
        for (n, name) in change.remove.into_iter().enumerate() {
            update.push_str(if n == 0 { verb } else { ", " });
            update.push_str(in_expression(name));
        }
        let mut condition = presence.to_owned();
        for (n, (name, value)) in change.conditions.into_iter().enumerate() {
            let name = in_expression(name);
            if let Some(value) = value {
                let stand_in = format!(":c{n}");
                condition.extend([" AND ", name, " = ", &stand_in]);
                values.insert(stand_in, value);
            } else {
                condition.extend([" AND attribute_not_exists(", name, ")"]);
            }
        }
        // DynamoDB refuses a map without a value, and a stand-in that is not used.
        write = write.set_expression_attribute_values((!values.is_empty()).then_some(values));
        if update.contains(STATUS) || condition.contains(STATUS) {
            write = write.expression_attribute_names(STATUS, "status");
        }
        let write = write.update_expression(update).condition_expression(condition);
        match write.send().await {
            Ok(_) => Ok(Ok(())),
            Err(error) => Ok(Err(match self.failed_condition(&error)? {
                None => Conflict::Deleted,
                Some(item) => Conflict::Changed(Box::new(row::leniently(&item))),
            })),
        }
    }

    /// A whole row, as it is now; what is garbled in it counts as absent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, key: &IntegrationKey) -> Result<Option<Integration>, StoreError> {
        let get = self.client.get_item().table_name(&self.table).consistent_read(true);
        let get = get.key("team_id", text(&key.team_id)).key("integration_id", text(&key.integration_id));
        let got = get.send().await.map_err(|error| StoreError::of(Said::by(&error), &self.table))?;
        Ok(got.item.map(|item| row::leniently(&item)))
    }

    /// The seller's name, as TikTok last gave it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seller_name(&self, key: &IntegrationKey) -> Result<Option<String>, StoreError> {
        let get = self.client.get_item().table_name(&self.table).projection_expression("seller_name");
        let get = get.key("team_id", text(&key.team_id)).key("integration_id", text(&key.integration_id));
        let got = get.send().await.map_err(|error| StoreError::of(Said::by(&error), &self.table))?;
        Ok(got.item.and_then(|item| item.get("seller_name")?.as_s().ok().cloned()))
    }

    /// Why the write's condition failed: it states the rule in DynamoDB's language, the row says which part of it.
    fn refused(&self, row: Integration, rule: &Rule) -> Result<Acquired, StoreError> {
        match row.may_be_taken(rule) {
            Err(skip) => Ok(Acquired::Skipped(skip, Box::new(row.candidate))),
            Ok(_) => Err(StoreError::Refused {
                table: self.table.clone(),
                code: "a condition failed that the row fulfils".into(),
            }),
        }
    }

    fn update(&self, key: &IntegrationKey) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .key("team_id", text(&key.team_id))
            .key("integration_id", text(&key.integration_id))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The row that failed a condition (none if there is no row), or whatever else went wrong.
    fn failed_condition<R: std::fmt::Debug + 'static>(
        &self,
        error: &SdkError<UpdateItemError, R>,
    ) -> Result<Option<Item>, StoreError> {
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                Ok(failed.item.clone().filter(|item| !item.is_empty()))
            }
            _ => Err(StoreError::of(Said::by(error), &self.table)),
        }
    }
}

/// What stands for `status` in an expression: alone among our names it is one of DynamoDB's own words.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html>
const STATUS: &str = "#status";

fn in_expression(name: &'static str) -> &'static str {
    if name == "status" { STATUS } else { name }
}

fn owner_of(row: &Integration) -> Option<&str> {
    row.candidate.lease.as_ref().map(|lease| lease.owner.as_str())
}

/// The lease in it is our own: what was there before is not known any more.
fn without_lease(mut row: Integration) -> Integration {
    row.candidate.lease = None;
    row
}
