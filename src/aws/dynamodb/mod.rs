//! The table of integrations: which rows there are, and the conditional writes of one integration's refresh. Each write is a
//! single `UpdateItem`, and none names an attribute that belongs to the user.
//!
//! This module never lets an SDK error out. A scan reads no token; only [`Table::read`] does so without a lease.

mod error;
pub(crate) mod row;
mod scan;
mod update;
pub mod updates;

pub use error::TableError;
pub use row::MalformedRow;
pub use scan::Page;
pub use update::Update;

use crate::{
    aws::AwsError,
    domain::{
        due::{DuePolicy, SkipReason},
        integration::{
            Candidate, Integration, IntegrationKey, REJECTIONS, REJECTIONS_OF_0_1, Seen, Status, UnixTime,
        },
        reason::Reason,
        secret::{AccessToken, Fingerprint},
    },
};
use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use row::Item;
use std::collections::HashMap;
use update::{Condition, number, text};

/// The table of integrations.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: String,
}

/// The lease that an attempt asks for.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// The attempt's own id. Never the request's alone: Lambda's retries reuse that.
    pub attempt_id: &'a str,
    /// When the lease expires by itself.
    pub expires_at: UnixTime,
    /// The credentials in use, against which a row's mark may not hold any more.
    pub in_use: Option<InUse<'a>>,
    /// What an on-demand caller has read: the row must be active and still hold it.
    pub seen: Option<Seen<'a>>,
}

/// The credentials of the app that a row names.
#[derive(Clone, Copy, Debug)]
pub struct InUse<'a> {
    /// The row's `app_key`, for which the credentials were chosen.
    pub app_key: Option<&'a str>,
    /// The credentials' fingerprint.
    pub fingerprint: &'a Fingerprint,
}

/// The result of an attempt to take a row.
#[derive(Debug)]
pub enum Acquired {
    /// The row as it was before the lease was written. If it has a lease, that one expired unreleased.
    Leased(Box<Integration>),
    /// The row is not to be taken.
    Skipped(SkipReason, Box<Candidate>),
    /// There is no such row.
    Deleted,
    /// The row cannot be read.
    MalformedRow(MalformedRow),
}

/// Why a conditional write was not made.
#[derive(Debug)]
pub enum Conflict {
    /// The row as it is now; a garbled attribute counts as absent.
    Changed(Box<Integration>),
    /// There is no such row.
    Deleted,
}

/// The result of a conditional write.
pub type ConditionalWrite = Result<Result<(), Conflict>, TableError>;

impl Table {
    /// The table `name`, reached through `client`.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Takes a row, if [`Integration::may_acquire`] holds at the moment of the write. This also proves that the table can be
    /// written before TikTok is called.
    ///
    /// # Errors
    /// [`TableError`]. The lease may have been written all the same, and expires by itself.
    pub async fn acquire(
        &self,
        key: &IntegrationKey,
        policy: &DuePolicy,
        lease: LeaseRequest<'_>,
    ) -> Result<Acquired, TableError> {
        let absent = |name| format!("attribute_not_exists({name}) OR attribute_type({name}, :null)");
        let usable = "attribute_type(refresh_token, :string) AND refresh_token <> :empty";
        let free = format!("({} OR lock_expires_at <= :now)", absent("lock_expires_at"));
        let due = format!(
            "({} OR access_token = :empty \
             OR {} OR access_token_expires_at <= :due OR access_token_expires_at > :plausible)",
            absent("access_token"),
            absent("access_token_expires_at")
        );
        let mut values = HashMap::new();
        let mut bind = |name: &str, value| drop(values.insert(name.to_owned(), value));
        bind(":me", text(lease.attempt_id));
        bind(":until", number(lease.expires_at.0));
        bind(":string", text("S"));
        bind(":null", text("NULL"));
        bind(":empty", text(""));
        bind(":now", number(policy.now.timestamp()));
        bind(":active", text(Status::Active.as_str()));
        let mut condition = if policy.force {
            bind(":error", text(Status::Error.as_str()));
            format!("#status IN (:active, :error) AND {usable} AND {free}")
        } else {
            bind(":due", number(policy.due_until().0));
            bind(":plausible", number(policy.plausible_until().0));
            let due = format!("(#status = :active AND {due})");
            let due = match lease.in_use {
                None => due,
                Some(in_use) => format!("({due} OR {})", healing(in_use, &mut bind)),
            };
            format!("{due} AND {usable} AND {free}")
        };
        if let Some(seen) = lease.seen {
            condition = format!("{condition} AND {}", still_holds(seen, &mut bind));
        }
        if let Some(since) = policy.unless_refreshed_since {
            bind(":since", number(since.0));
            let not_since = format!(" AND ({} OR last_refreshed_at < :since)", absent("last_refreshed_at"));
            condition.push_str(&not_since);
        }
        let write = self
            .update_item(key)
            .update_expression("SET lock_owner = :me, lock_expires_at = :until")
            .condition_expression(condition)
            .expression_attribute_names(STATUS, "status")
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::AllOld);
        let before = match write.send().await {
            Ok(output) => output.attributes.unwrap_or_default(),
            Err(error) => {
                let Some(item) = self.row_of_failed_condition(&error)? else { return Ok(Acquired::Deleted) };
                return self.not_acquired(&item, policy, lease);
            }
        };
        match row::integration(&before) {
            Ok(row) => Ok(Acquired::Leased(Box::new(row))),
            Err(malformed) => {
                // TikTok has not been called yet, so the lease can go at once.
                self.update(key, updates::release(lease.attempt_id)).await.ok();
                Ok(Acquired::MalformedRow(malformed))
            }
        }
    }

    /// Why the condition of [`acquire`](Self::acquire) failed: the condition states the policy in DynamoDB's language, and the
    /// row says which part of it does not hold.
    fn not_acquired(
        &self,
        item: &Item,
        policy: &DuePolicy,
        lease: LeaseRequest<'_>,
    ) -> Result<Acquired, TableError> {
        let mut row = match row::integration(item) {
            Ok(row) => row,
            Err(malformed) => return Ok(Acquired::MalformedRow(malformed)),
        };
        if row.candidate.lease.as_ref().is_some_and(|held| held.owner == lease.attempt_id) {
            // Our own first write, whose response was lost; the SDK retried it. What the lease was before is not known.
            row.candidate.lease = None;
            return Ok(Acquired::Leased(Box::new(row)));
        }
        let in_use = lease.in_use.filter(|in_use| in_use.app_key == row.candidate.app_key.as_deref());
        match row.may_acquire(policy, in_use.map(|in_use| in_use.fingerprint)) {
            Err(skip) => Ok(Acquired::Skipped(skip, Box::new(row.candidate))),
            Ok(_) if lease.seen.is_some_and(|seen| !row.is_as(seen)) => {
                Ok(Acquired::Skipped(SkipReason::Changed, Box::new(row.candidate)))
            }
            Ok(_) => Err(TableError::Refused {
                table: self.name.clone(),
                code: "the condition failed, although the row meets it".into(),
            }),
        }
    }

    /// Updates a row, if the conditions hold at that moment. Never creates a row.
    ///
    /// # Errors
    /// [`TableError`]; whether the update was made is then unknown.
    pub async fn update(&self, key: &IntegrationKey, update: Update) -> ConditionalWrite {
        self.write(key, update, "attribute_exists(team_id)").await
    }

    /// Writes a new row, if there is none with this key.
    ///
    /// # Errors
    /// [`TableError`]; whether the row was written is then unknown.
    pub async fn create(&self, key: &IntegrationKey, update: Update) -> ConditionalWrite {
        self.write(key, update, "attribute_not_exists(team_id)").await
    }

    async fn write(&self, key: &IntegrationKey, update: Update, presence: &str) -> ConditionalWrite {
        let mut values = HashMap::new();
        let mut assignments = Vec::new();
        for (n, (name, value)) in update.set.into_iter().enumerate() {
            assignments.push(format!("{} = :s{n}", in_expression(name)));
            values.insert(format!(":s{n}"), value);
        }
        let removed: Vec<&str> = update.remove.into_iter().map(in_expression).collect();
        let mut conditions = vec![presence.to_owned()];
        for (n, (name, condition)) in update.conditions.into_iter().enumerate() {
            let name = in_expression(name);
            conditions.push(match condition {
                Condition::Value(value) => {
                    values.insert(format!(":c{n}"), value);
                    format!("{name} = :c{n}")
                }
                Condition::NoText => {
                    values.extend([(":text".to_owned(), text("S")), (":empty".to_owned(), text(""))]);
                    format!("(NOT attribute_type({name}, :text) OR {name} = :empty)")
                }
                Condition::NoNumber => {
                    values.insert(":number".to_owned(), text("N"));
                    format!("NOT attribute_type({name}, :number)")
                }
            });
        }
        let clauses = [("SET ", assignments.join(", ")), ("REMOVE ", removed.join(", "))];
        let clauses = clauses.iter().filter(|(_, list)| !list.is_empty());
        let expression: Vec<String> = clauses.map(|(verb, list)| format!("{verb}{list}")).collect();
        let (expression, condition) = (expression.join(" "), conditions.join(" AND "));
        // DynamoDB refuses an empty map, and a name that no expression uses.
        let names_status = expression.contains(STATUS) || condition.contains(STATUS);
        let names = names_status.then(|| HashMap::from([(STATUS.to_owned(), "status".to_owned())]));
        let write = self
            .update_item(key)
            .update_expression(expression)
            .condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values((!values.is_empty()).then_some(values));
        match write.send().await {
            Ok(_) => Ok(Ok(())),
            Err(error) => Ok(Err(match self.row_of_failed_condition(&error)? {
                None => Conflict::Deleted,
                Some(item) => Conflict::Changed(Box::new(row::leniently(&item))),
            })),
        }
    }

    /// Reads a whole row, consistently; a garbled attribute counts as absent.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn read(&self, key: &IntegrationKey) -> Result<Option<Integration>, TableError> {
        let get = self.client.get_item().table_name(&self.name).consistent_read(true);
        let get = get.key("team_id", text(&key.team_id)).key("integration_id", text(&key.integration_id));
        let got = get.send().await.map_err(|error| self.error(&error))?;
        Ok(got.item.map(|item| row::leniently(&item)))
    }

    /// Whether there is a row with this key, by a consistent read of the key alone.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn exists(&self, key: &IntegrationKey) -> Result<bool, TableError> {
        let get = self.client.get_item().table_name(&self.name).consistent_read(true);
        let get = get.key("team_id", text(&key.team_id)).key("integration_id", text(&key.integration_id));
        let got = get.projection_expression("team_id").send().await.map_err(|error| self.error(&error))?;
        Ok(got.item.is_some())
    }

    fn update_item(&self, key: &IntegrationKey) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.name)
            .key("team_id", text(&key.team_id))
            .key("integration_id", text(&key.integration_id))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The row whose condition failed (`None` if there is no row), or whatever else went wrong.
    fn row_of_failed_condition<R: std::fmt::Debug + 'static>(
        &self,
        error: &SdkError<UpdateItemError, R>,
    ) -> Result<Option<Item>, TableError> {
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                Ok(failed.item.clone().filter(|item| !item.is_empty()))
            }
            _ => Err(self.error(error)),
        }
    }

    fn error<E, R>(&self, error: &SdkError<E, R>) -> TableError
    where
        E: aws_sdk_dynamodb::error::ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug + 'static,
    {
        TableError::new(AwsError::of(error), &self.name)
    }
}

/// [`Candidate::may_heal`] in DynamoDB's language, for a row that still names the same app.
fn healing(in_use: InUse<'_>, bind: &mut impl FnMut(&str, AttributeValue)) -> String {
    bind(":error", text(Status::Error.as_str()));
    bind(":in_use", text(&in_use.fingerprint.0));
    let mut one_of = |prefix: &str, texts: &[&str]| {
        let names: Vec<String> = (0..texts.len()).map(|n| format!(":{prefix}{n}")).collect();
        names.iter().zip(texts).for_each(|(name, value)| bind(name, text(value)));
        names.join(", ")
    };
    let reasons = one_of("reason", &REJECTIONS.map(Reason::as_str));
    let codes = one_of("code", &REJECTIONS_OF_0_1);
    let no_text = |name: &str| format!("(NOT attribute_type({name}, :string) OR {name} = :empty)");
    let app = match in_use.app_key {
        None => no_text("app_key"),
        Some(app_key) => {
            bind(":app", text(app_key));
            "app_key = :app".to_owned()
        }
    };
    format!(
        "(#status = :error AND {app} AND (error_reason IN ({reasons}) OR ({} AND error_code IN ({codes}))) \
         AND ({} OR rejected_by <> :in_use))",
        no_text("error_reason"),
        no_text("rejected_by")
    )
}

/// [`Integration::is_as`] in DynamoDB's language.
fn still_holds(seen: Seen<'_>, bind: &mut impl FnMut(&str, AttributeValue)) -> String {
    let token = match seen.access_token.map(AccessToken::expose) {
        None => "(NOT attribute_type(access_token, :string) OR access_token = :empty)",
        Some(token) => {
            bind(":seen_token", text(token));
            "access_token = :seen_token"
        }
    };
    let error_at = match seen.error_at {
        None => {
            bind(":number", text("N"));
            "NOT attribute_type(error_at, :number)"
        }
        Some(at) => {
            bind(":seen_error_at", number(at.0));
            "error_at = :seen_error_at"
        }
    };
    format!("#status = :active AND {token} AND {error_at}")
}

/// Stands for `status` in an expression: of all our names it alone is a reserved word of DynamoDB's.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ReservedWords.html>
const STATUS: &str = "#status";

fn in_expression(name: &'static str) -> &'static str {
    if name == "status" { STATUS } else { name }
}
