//! Reads the table, or one team's part of it, page by page and without a token.

use super::{
    Table, TableError,
    row::{self, Item, MalformedRow},
    update::text,
};
use crate::domain::{
    integration::Candidate,
    report_row::{ReportRow, StoredTokens},
    selection::Selection,
};
use backon::{ExponentialBuilder, Retryable};
use futures_util::{Stream, StreamExt, stream};
use std::{collections::HashMap, time::Duration};

/// How many segments of the table are scanned in parallel.
const SEGMENTS: i32 = 4;
/// The rows of one page. DynamoDB's own limit of 1 MB would let a page of small rows take much memory.
const PAGE_SIZE: i32 = 250;
/// What decides whether a row is due, and nothing else: no token is read before a lease is held.
const PROJECTION: &str = "team_id, integration_id, #status, app_key, access_token_expires_at, \
                          refresh_token_expires_at, lock_owner, lock_expires_at, refresh_token_notice, seller_name, \
                          error_reason, error_code, error_message, rejected_by";

/// What the status report shows of an integration beyond that.
const REPORTED: &str = "open_id, last_refreshed_at, error_at, consecutive_failures, authorized_shops";

/// One page of the table: its rows, or what is wrong with those that cannot be read.
pub type Page<T> = Vec<Result<T, MalformedRow>>;

/// Which attributes are read, and of which rows.
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

impl Table {
    /// Reads every row of a selection, page by page, without its tokens: the whole table by a parallel scan, a team by a
    /// query. Retries a throttled page for about a minute.
    pub fn candidates(
        &self,
        selection: &Selection,
    ) -> impl Stream<Item = Result<Page<Candidate>, TableError>> + Send + Unpin {
        let view = View { projection: PROJECTION.into(), filter: None };
        self.items(selection, &view)
            .map(|page| Ok(page?.into_iter().map(|item| row::candidate(&item)).collect()))
    }

    /// Reads the rows of a selection that have just these tokens, or all rows, with what the status report shows of them. A
    /// filter expression finds out which tokens there are, so that none is read.
    pub fn report_rows(
        &self,
        selection: &Selection,
        tokens: Option<StoredTokens>,
    ) -> impl Stream<Item = Result<Page<ReportRow>, TableError>> + Send + Unpin {
        let has_access = "(attribute_type(access_token, :text) AND access_token <> :empty)";
        let has_refresh = "(attribute_type(refresh_token, :text) AND refresh_token <> :empty)";
        let filter = tokens.map(|tokens| match tokens {
            StoredTokens::Both => format!("{has_access} AND {has_refresh}"),
            StoredTokens::NoAccessToken => format!("NOT {has_access} AND {has_refresh}"),
            StoredTokens::NoRefreshToken => format!("NOT {has_refresh}"),
        });
        let view = View { projection: format!("{PROJECTION}, {REPORTED}"), filter };
        self.items(selection, &view)
            .map(|page| Ok(page?.into_iter().map(|item| row::report_row(&item)).collect()))
    }

    fn items(
        &self,
        selection: &Selection,
        view: &View,
    ) -> impl Stream<Item = Result<Vec<Item>, TableError>> + Send + Unpin + use<> {
        let parts: Vec<Part> = match selection {
            Selection::All => (0..SEGMENTS).map(Part::Segment).collect(),
            Selection::Team(team_id) => vec![Part::Team(team_id.clone(), None)],
            Selection::One(key) => {
                vec![Part::Team(key.team_id.clone(), Some(key.integration_id.clone()))]
            }
        };
        let pages = |part| Box::pin(self.clone().pages(part, view.clone()));
        stream::select_all(parts.into_iter().map(pages).collect::<Vec<_>>())
    }

    fn pages(self, part: Part, view: View) -> impl Stream<Item = Result<Vec<Item>, TableError>> + Send {
        stream::unfold(Some((self, part, view, None)), |state| async {
            let (table, part, view, start) = state?;
            let backoff = ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(10))
                .with_jitter()
                .with_max_times(9);
            let page = (|| table.page(&part, &view, start.clone()))
                .retry(backoff)
                .when(TableError::is_transient)
                .await;
            Some(match page {
                Ok((page, Some(next))) => (Ok(page), Some((table, part, view, Some(next)))),
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
    ) -> Result<(Vec<Item>, Option<Item>), TableError> {
        let values = view
            .filter
            .as_ref()
            .map(|_| HashMap::from([(":text".to_owned(), text("S")), (":empty".to_owned(), text(""))]));
        let (items, next) = match part {
            Part::Segment(segment) => {
                let scan = self.client.scan().table_name(&self.name).limit(PAGE_SIZE);
                let scan = scan.segment(*segment).total_segments(SEGMENTS);
                let scan =
                    scan.projection_expression(&view.projection).set_filter_expression(view.filter.clone());
                let scan = scan.expression_attribute_names("#status", "status");
                let scan = scan.set_expression_attribute_values(values).set_exclusive_start_key(start);
                let page = scan.send().await.map_err(|error| self.error(&error))?;
                (page.items, page.last_evaluated_key)
            }
            Part::Team(team_id, integration_id) => {
                let query = self.client.query().table_name(&self.name).limit(PAGE_SIZE);
                let query = query.consistent_read(true);
                let query =
                    query.projection_expression(&view.projection).set_filter_expression(view.filter.clone());
                let query = query.expression_attribute_names("#status", "status");
                let query = query.set_expression_attribute_values(values);
                let query = query.expression_attribute_values(":team", text(team_id));
                let query = match integration_id {
                    None => query.key_condition_expression("team_id = :team"),
                    Some(id) => query
                        .key_condition_expression("team_id = :team AND integration_id = :id")
                        .expression_attribute_values(":id", text(id)),
                };
                let page = query.set_exclusive_start_key(start).send().await;
                let page = page.map_err(|error| self.error(&error))?;
                (page.items, page.last_evaluated_key)
            }
        };
        Ok((items.unwrap_or_default(), next.filter(|key| !key.is_empty())))
    }
}
