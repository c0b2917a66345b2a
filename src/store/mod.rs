//! The table: which integrations there are, and the conditional writes of one integration's refresh. Each write is
//! a single `UpdateItem`, and none names an attribute that belongs to the user.
//!
//! This module must never let an SDK error out, nor read a token before a lease is held.

mod error;
pub(crate) mod row;

pub use error::StoreError;
pub use row::Malformed;

use crate::{
    event::Selection,
    health::{self, Tokens},
    integration::{Candidate, Integration, IntegrationKey, Lease, Rule, Skip, Status, UnixTime},
    sdk::Said,
};
use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};
use backon::{ExponentialBuilder, Retryable};
use futures_util::{Stream, StreamExt, stream};
use row::Item;
use std::{collections::HashMap, time::Duration};

/// How many parts of the table are read side by side.
const SEGMENTS: i32 = 4;
/// What decides, and nothing else: no token is read before a lease is held.
const PROJECTION: &str = "team_id, integration_id, #status, app_key, access_token_expires_at, \
                          refresh_token_expires_at, lock_owner, lock_expires_at, refresh_token_notice";

/// What the status report tells of an integration beyond that.
const REPORTED: &str =
    "open_id, seller_name, last_refreshed_at, error_code, error_message, error_at, consecutive_failures";

/// The table of integrations.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    table: String,
}

/// One page of the table: rows, and what is wrong with those that cannot be read.
pub type Page<T> = Vec<Result<T, Malformed>>;

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

/// The attributes that an update sets (name and value) or removes, and the condition under which it does.
#[derive(Clone, Default)]
pub struct Change {
    set: Vec<(&'static str, AttributeValue)>,
    remove: Vec<&'static str>,
    conditions: Vec<(&'static str, Option<AttributeValue>)>,
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

impl Store {
    /// The table `table`, reached through `client`.
    pub fn new(client: Client, table: &str) -> Self {
        Self { client, table: table.to_owned() }
    }

    /// Every row of a selection, page by page, without its tokens. The whole table is read in segments side by
    /// side; a page that is throttled is asked for again for about a minute.
    pub fn candidates(
        &self,
        selection: &Selection,
    ) -> impl Stream<Item = Result<Page<Candidate>, StoreError>> + Send + Unpin {
        let view = View { projection: PROJECTION.into(), filter: None };
        self.items(selection, &view).map(|page| Ok(page?.iter().map(row::candidate).collect()))
    }

    /// The rows of a selection that have just these tokens, with what the status report tells of them. A filter finds
    /// out which tokens are there, so that none is read.
    pub fn health_rows(
        &self,
        selection: &Selection,
        tokens: Tokens,
    ) -> impl Stream<Item = Result<Page<health::Row>, StoreError>> + Send + Unpin {
        let no_access = "(attribute_not_exists(access_token) OR access_token = :empty)";
        let no_refresh = "(attribute_not_exists(refresh_token) OR refresh_token = :empty)";
        let filter = match tokens {
            Tokens::Both => format!("NOT {no_access} AND NOT {no_refresh}"),
            Tokens::NoAccessToken => format!("{no_access} AND NOT {no_refresh}"),
            Tokens::NoRefreshToken => no_refresh.to_owned(),
        };
        let view = View { projection: format!("{PROJECTION}, {REPORTED}"), filter: Some(filter) };
        self.items(selection, &view).map(|page| Ok(page?.iter().map(row::health_row).collect()))
    }

    fn items(
        &self,
        selection: &Selection,
        view: &View,
    ) -> impl Stream<Item = Result<Vec<Item>, StoreError>> + Send + Unpin + use<> {
        let parts: Vec<Part> = match selection {
            Selection::All => (0..SEGMENTS).map(Part::Segment).collect(),
            Selection::Team(team_id) => vec![Part::Team(team_id.clone(), None)],
            Selection::One(key) => vec![Part::Team(key.team_id.clone(), Some(key.integration_id.clone()))],
        };
        let pages = |part| Box::pin(self.clone().pages(part, view.clone()));
        stream::select_all(parts.into_iter().map(pages).collect::<Vec<_>>())
    }

    fn pages(self, part: Part, view: View) -> impl Stream<Item = Result<Vec<Item>, StoreError>> + Send {
        stream::unfold(Some((self, part, view, None)), |state| async {
            let (store, part, view, start) = state?;
            let backoff = ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(10))
                .with_jitter()
                .with_max_times(9);
            let page =
                (|| store.page(&part, &view, start.clone())).retry(backoff).when(StoreError::may_pass).await;
            Some(match page {
                Ok((page, Some(next))) => (Ok(page), Some((store, part, view, Some(next)))),
                Ok((page, None)) => (Ok(page), None),
                Err(error) => (Err(error), None),
            })
        })
        .fuse()
    }

    async fn page(
        &self,
        part: &Part,
        view: &View,
        start: Option<Item>,
    ) -> Result<(Vec<Item>, Option<Item>), StoreError> {
        let empty = view.filter.as_ref().map(|_| HashMap::from([(":empty".to_owned(), text(""))]));
        let (items, next) = match part {
            Part::Segment(segment) => {
                let scan =
                    self.client.scan().table_name(&self.table).segment(*segment).total_segments(SEGMENTS);
                let scan =
                    scan.projection_expression(&view.projection).set_filter_expression(view.filter.clone());
                let scan = scan.expression_attribute_names("#status", "status");
                let scan = scan.set_expression_attribute_values(empty).set_exclusive_start_key(start);
                let page =
                    scan.send().await.map_err(|error| StoreError::of(Said::by(&error), &self.table))?;
                (page.items, page.last_evaluated_key)
            }
            Part::Team(team_id, integration_id) => {
                let query = self.client.query().table_name(&self.table).consistent_read(true);
                let query =
                    query.projection_expression(&view.projection).set_filter_expression(view.filter.clone());
                let query = query.expression_attribute_names("#status", "status");
                let query = query.set_expression_attribute_values(empty);
                let query = query.expression_attribute_values(":team", text(team_id));
                let query = match integration_id {
                    None => query.key_condition_expression("team_id = :team"),
                    Some(id) => query
                        .key_condition_expression("team_id = :team AND integration_id = :id")
                        .expression_attribute_values(":id", text(id)),
                };
                let page = query.set_exclusive_start_key(start).send().await;
                let page = page.map_err(|error| StoreError::of(Said::by(&error), &self.table))?;
                (page.items, page.last_evaluated_key)
            }
        };
        Ok((items.unwrap_or_default(), next.filter(|key| !key.is_empty())))
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
        let write = self
            .update(key)
            .update_expression("SET lock_owner = :me, lock_expires_at = :until")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":me", text(claim.attempt_id))
            .expression_attribute_values(":until", number(claim.expires_at.0))
            .expression_attribute_values(":string", text("S"))
            .expression_attribute_values(":empty", text(""))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":now", number(rule.now.timestamp()))
            .expression_attribute_values(":active", text(Status::Active.as_str()))
            .return_values(ReturnValue::AllOld);
        let write = if rule.force {
            write
                .condition_expression(format!("#status IN (:active, :error) AND {usable} AND {free}"))
                .expression_attribute_values(":error", text(Status::Error.as_str()))
        } else {
            write
                .condition_expression(format!("#status = :active AND {usable} AND {free} AND {due}"))
                .expression_attribute_values(":due", number(rule.due_until().0))
                .expression_attribute_values(":believed", number(rule.believed_until().0))
        };
        let write = match (rule.unless_refreshed_since, write.get_condition_expression().clone()) {
            (Some(since), Some(condition)) => write
                .condition_expression(format!("{condition} AND {not_again}"))
                .expression_attribute_values(":since", number(since.0)),
            _ => write,
        };
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
        self.write(key, change, "attribute_exists(#key)").await
    }

    /// Writes a change as a new row, if there is none of this key.
    ///
    /// # Errors
    /// [`StoreError`]; whether the row was written is then unknown.
    pub async fn create(&self, key: &IntegrationKey, change: Change) -> Conditional {
        self.write(key, change, "attribute_not_exists(#key)").await
    }

    async fn write(&self, key: &IntegrationKey, change: Change, presence: &str) -> Conditional {
        let mut write = self.update(key).expression_attribute_names("#key", "team_id");
        let mut sets = Vec::new();
        for (n, (name, value)) in change.set.into_iter().enumerate() {
            sets.push(format!("#s{n} = :s{n}"));
            write = write
                .expression_attribute_names(format!("#s{n}"), name)
                .expression_attribute_values(format!(":s{n}"), value);
        }
        let mut removes = Vec::new();
        for (n, name) in change.remove.into_iter().enumerate() {
            removes.push(format!("#r{n}"));
            write = write.expression_attribute_names(format!("#r{n}"), name);
        }
        let clauses = [("SET", sets), ("REMOVE", removes)].map(|(verb, parts)| match parts.as_slice() {
            [] => String::new(),
            parts => format!("{verb} {} ", parts.join(", ")),
        });
        let mut conditions = vec![presence.to_owned()];
        for (n, (name, value)) in change.conditions.into_iter().enumerate() {
            write = write.expression_attribute_names(format!("#c{n}"), name);
            conditions.push(match value {
                Some(value) => {
                    write = write.expression_attribute_values(format!(":c{n}"), value);
                    format!("#c{n} = :c{n}")
                }
                None => format!("attribute_not_exists(#c{n})"),
            });
        }
        let write = write.update_expression(clauses.concat()).condition_expression(conditions.join(" AND "));
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

/// What is read of each row, and of which rows.
#[derive(Clone, Debug)]
struct View {
    projection: String,
    filter: Option<String>,
}

/// A part of the table that is read page by page.
#[derive(Clone, Debug)]
enum Part {
    Segment(i32),
    Team(String, Option<String>),
}

fn owner_of(row: &Integration) -> Option<&str> {
    row.candidate.lease.as_ref().map(|lease: &Lease| lease.owner.as_str())
}

/// The lease in it is our own: what was there before is not known any more.
fn without_lease(mut row: Integration) -> Integration {
    row.candidate.lease = None;
    row
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
