//! The status report: how healthy the tokens are, as JSON, as a table and as a few lines. Pure: rows in, a report out,
//! and no token is ever part of it.

mod html;
mod text;

pub use html::HELP;
pub use text::relative;

use crate::domain::{
    bounded_list::BoundedList,
    clock,
    integration::{Candidate, DuePolicy, Health, IntegrationKey, Status, UnixTime},
    report_row::{ReportRow, StoredTokens},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

/// How many warnings a report holds at most.
const MAX_WARNINGS: usize = 200;
/// How many integrations are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateCounts {
    /// All rows, those that cannot be read included.
    pub total: u64,
    /// See [`Health`].
    pub healthy: u64,
    /// See [`Health`].
    pub expiring_soon: u64,
    /// See [`Health`].
    pub expired: u64,
    /// See [`Health`].
    pub needs_refresh: u64,
    /// See [`Health`].
    pub cannot_refresh: u64,
}

/// How many refresh tokens have run out, or will. Each span includes the shorter ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefreshTokenCounts {
    /// Missing, or past their expiry.
    pub expired: u64,
    /// Within a day.
    pub within_1_day: u64,
    /// Within a week.
    pub within_7_days: u64,
    /// Within two weeks.
    pub within_14_days: u64,
    /// Within 30 days.
    pub within_30_days: u64,
}

/// One integration in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its state; the most urgent come first.
    pub state: Health,
    /// When its access token expires, as stored.
    pub access_token_expires_at: Option<UnixTime>,
    /// Which integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// The row's status.
    pub status: String,
    /// When its refresh token expires, as stored.
    pub refresh_token_expires_at: Option<UnixTime>,
    /// When its tokens were last refreshed.
    pub last_refreshed_at: Option<UnixTime>,
    /// The last failure's code.
    pub error_code: Option<String>,
    /// The last failure, for a person.
    pub error_message: Option<String>,
    /// When it failed.
    pub error_at: Option<UnixTime>,
    /// How many attempts have failed since the last success.
    pub consecutive_failures: i64,
}

/// The answer to `status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    action: &'static str,
    /// When the report was made.
    #[serde(serialize_with = "clock::to_the_second")]
    pub generated_at: DateTime<Utc>,
    /// How many integrations are in which state.
    pub counts: StateCounts,
    /// How many refresh tokens run out when.
    pub refresh_tokens: RefreshTokenCounts,
    /// The first believable expiry of an access token in use.
    pub soonest_access_token_expiry: Option<UnixTime>,
    /// What else is odd, for a person.
    pub warnings: Vec<String>,
    /// The integrations, the most urgent first.
    pub integrations: Vec<Listed>,
    /// How many integrations the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// How much a report is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Counts and warnings: memory does not grow with the table.
    Summary,
    /// The integrations too, and who shares an authorization.
    Full,
}

/// By what the integrations are ordered: state, expiry, key.
type Urgency = (Health, Option<UnixTime>, IntegrationKey);

/// Makes a report, row by row.
#[derive(Debug)]
pub struct ReportBuilder {
    rule: DuePolicy,
    depth: Detail,
    counts: StateCounts,
    refresh_tokens: RefreshTokenCounts,
    soonest: Option<UnixTime>,
    warnings: Vec<String>,
    more_warnings: u64,
    listed: BoundedList<Urgency, Listed>,
    /// The authorizations seen, by a hash of app and seller, with the first row of each.
    authorizations: HashMap<u64, IntegrationKey>,
    hasher: RandomState,
}

impl ReportBuilder {
    /// An examination by `rule`.
    pub fn new(rule: DuePolicy, depth: Detail) -> Self {
        Self {
            rule,
            depth,
            counts: StateCounts::default(),
            refresh_tokens: RefreshTokenCounts::default(),
            soonest: None,
            warnings: Vec::new(),
            more_warnings: 0,
            listed: BoundedList::default(),
            authorizations: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Takes in a row that cannot be read.
    pub fn malformed(&mut self, key: &IntegrationKey, what: &str) {
        self.counts.total += 1;
        self.warn(format!("{key}: {what}"));
    }

    /// Takes in a row.
    pub fn row(&mut self, row: ReportRow, tokens: StoredTokens) {
        let state = state(&row.candidate, tokens, &self.rule);
        self.counts.total += 1;
        *match state {
            Health::CannotRefresh => &mut self.counts.cannot_refresh,
            Health::Expired => &mut self.counts.expired,
            Health::ExpiringSoon => &mut self.counts.expiring_soon,
            Health::NeedsRefresh => &mut self.counts.needs_refresh,
            Health::Healthy => &mut self.counts.healthy,
        } += 1;
        self.count_refresh_token(&row.candidate, tokens);
        self.look_for_oddities(&row, tokens);
        let candidate = row.candidate;
        let is_in_use = candidate.status == Status::Active && tokens != StoredTokens::NoAccessToken;
        if is_in_use && candidate.has_plausible_expiry(&self.rule) {
            self.soonest = [self.soonest, candidate.access_expires_at].into_iter().flatten().min();
        }
        if self.depth == Detail::Summary {
            return;
        }
        let urgency = (state, candidate.access_expires_at, candidate.key.clone());
        let listed = Listed {
            state,
            access_token_expires_at: candidate.access_expires_at,
            key: candidate.key,
            seller_name: row.seller_name,
            status: candidate.status.as_str().to_owned(),
            refresh_token_expires_at: candidate.refresh_expires_at,
            last_refreshed_at: row.last_refreshed_at,
            error_code: row.error_code,
            error_message: row.error_message,
            error_at: row.error_at,
            consecutive_failures: row.consecutive_failures,
        };
        self.listed.push(urgency, listed);
    }

    fn count_refresh_token(&mut self, row: &Candidate, tokens: StoredTokens) {
        let counts = &mut self.refresh_tokens;
        if tokens == StoredTokens::NoRefreshToken || row.refresh_token_expired(self.rule.now) {
            counts.expired += 1;
            return;
        }
        let Some(at) = row.known_refresh_expiry() else { return };
        for (days, count) in [
            (1, &mut counts.within_1_day),
            (7, &mut counts.within_7_days),
            (14, &mut counts.within_14_days),
            (30, &mut counts.within_30_days),
        ] {
            *count += u64::from(at.is_within(TimeDelta::days(days), self.rule.now));
        }
    }

    fn look_for_oddities(&mut self, row: &ReportRow, tokens: StoredTokens) {
        let candidate = &row.candidate;
        let key = &candidate.key;
        if tokens == StoredTokens::Both && !candidate.has_plausible_expiry(&self.rule) {
            let expiry = candidate.access_expires_at.map_or_else(|| "missing".into(), |at| at.0.to_string());
            self.warn(format!(
                "{key}: access_token_expires_at is {expiry}, which cannot be true; it counts as due"
            ));
        }
        if candidate.lease.is_some() && candidate.live_lease(self.rule.now).is_none() {
            self.warn(format!("{key}: its lease has run out unreleased, so an attempt was cut off"));
        }
        let (Detail::Full, Some(open_id)) = (self.depth, &row.open_id) else { return };
        let authorization = self.hasher.hash_one((&candidate.app_key, open_id));
        match self.authorizations.get(&authorization).cloned() {
            None => drop(self.authorizations.insert(authorization, key.clone())),
            Some(first) => {
                self.warn(format!(
                    "{key} and {first} hold one authorization: a refresh of one may end the other"
                ));
            }
        }
    }

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < MAX_WARNINGS { self.warnings.push(warning) } else { self.more_warnings += 1 }
    }

    /// The report.
    pub fn finish(mut self) -> StatusReport {
        if self.more_warnings > 0 {
            self.warnings.push(format!("and {} more", self.more_warnings));
        }
        let (integrations, truncated) = self.listed.finish();
        StatusReport {
            action: "status",
            generated_at: self.rule.now,
            counts: self.counts,
            refresh_tokens: self.refresh_tokens,
            soonest_access_token_expiry: self.soonest,
            warnings: self.warnings,
            integrations,
            truncated,
        }
    }
}

/// An integration's state, with regard to which of its tokens are there.
fn state(row: &Candidate, tokens: StoredTokens, rule: &DuePolicy) -> Health {
    match (tokens, row.health(rule)) {
        (StoredTokens::NoRefreshToken, _) => Health::CannotRefresh,
        (StoredTokens::NoAccessToken, health) if health != Health::CannotRefresh => Health::Expired,
        (StoredTokens::NoAccessToken | StoredTokens::Both, health) => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bounded_list::MAX_ENTRIES;

    fn rule() -> DuePolicy {
        DuePolicy {
            now: DateTime::from_timestamp(1_795_399_200, 0).unwrap(),
            refresh_ahead: TimeDelta::hours(48),
            force: false,
            unless_refreshed_since: None,
        }
    }

    fn row(id: usize, access_in: TimeDelta) -> ReportRow {
        let key = IntegrationKey { team_id: "1".into(), integration_id: id.to_string().into() };
        let at = |delta| Some(UnixTime::of(rule().now + delta));
        ReportRow {
            candidate: Candidate {
                access_expires_at: at(access_in),
                refresh_expires_at: at(TimeDelta::days(300)),
                ..Candidate::of_key(key, None)
            },
            open_id: Some(id.to_string()),
            seller_name: Some("Bánh Mì".into()),
            last_refreshed_at: None,
            error_code: None,
            error_message: None,
            error_at: None,
            consecutive_failures: 0,
        }
    }

    fn report(rows: Vec<(ReportRow, StoredTokens)>, depth: Detail) -> StatusReport {
        let mut examination = ReportBuilder::new(rule(), depth);
        for (row, tokens) in rows {
            examination.row(row, tokens);
        }
        examination.finish()
    }

    #[test]
    fn a_moment_is_told_from_now() {
        let now = rule().now;
        let at = |seconds| UnixTime(now.timestamp() + seconds);
        assert_eq!(relative(at(3 * 86_400 + 3_600 + 60), now), "in 3days 1h");
        assert_eq!(relative(at(-120), now), "2m ago");
    }

    #[test]
    fn missing_tokens_are_expired_ones() {
        let fresh = TimeDelta::days(6);
        let rows = vec![
            (row(1, fresh), StoredTokens::Both),
            (row(2, fresh), StoredTokens::NoAccessToken),
            (row(3, fresh), StoredTokens::NoRefreshToken),
        ];
        let report = report(rows, Detail::Full);
        let expected =
            StateCounts { total: 3, healthy: 1, expired: 1, cannot_refresh: 1, ..StateCounts::default() };
        assert_eq!((report.counts, report.refresh_tokens.expired), (expected, 1));
    }

    #[test]
    fn refresh_tokens_are_counted_in_every_span_that_they_run_out_in() {
        let running_out = |id, delta: TimeDelta| {
            let mut row = row(id, TimeDelta::days(6));
            row.candidate.refresh_expires_at = Some(UnixTime::of(rule().now + delta));
            (row, StoredTokens::Both)
        };
        let second = TimeDelta::seconds(1);
        let rows = vec![
            running_out(1, -second),
            running_out(2, TimeDelta::days(1)),
            running_out(3, TimeDelta::days(7)),
            running_out(4, TimeDelta::days(14) + second),
            running_out(5, TimeDelta::days(30) + second),
        ];
        let expected = RefreshTokenCounts {
            expired: 1,
            within_1_day: 1,
            within_7_days: 2,
            within_14_days: 2,
            within_30_days: 3,
        };
        assert_eq!(report(rows, Detail::Summary).refresh_tokens, expected);
    }

    #[test]
    fn oddities_are_warned_of_by_name() {
        let mut abandoned = row(1, TimeDelta::days(6));
        let ran_out = UnixTime::of(rule().now - TimeDelta::minutes(1));
        abandoned.candidate.lease =
            Some(crate::domain::integration::Lease { owner: "x".into(), expires_at: ran_out });
        let mut twin = row(2, TimeDelta::days(6));
        twin.open_id = Some("1".into());
        let absurd = row(3, TimeDelta::days(90));
        let rows = [abandoned, twin, absurd].map(|row| (row, StoredTokens::Both)).into();
        let mut warnings = report(rows, Detail::Full).warnings;
        warnings.sort();
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].starts_with("integration 1 of team 1: its lease has run out unreleased"));
        assert!(
            warnings[1]
                .starts_with("integration 2 of team 1 and integration 1 of team 1 hold one authorization")
        );
        assert!(warnings[2].starts_with("integration 3 of team 1: access_token_expires_at is "));
    }

    #[test]
    fn the_most_urgent_are_kept_when_the_list_is_cut() {
        let mut rows: Vec<_> =
            (0..MAX_ENTRIES + 10).map(|id| (row(id, TimeDelta::days(6)), StoredTokens::Both)).collect();
        rows.push((row(99_999, TimeDelta::hours(-1)), StoredTokens::Both));
        let report = report(rows, Detail::Full);
        assert_eq!((report.integrations.len(), report.truncated), (MAX_ENTRIES, Some(11)));
        assert_eq!(report.integrations[0].key.integration_id, "99999");
        assert!(serde_json::to_string(&report).unwrap().len() < 5_000_000);
    }

    #[test]
    fn a_table_of_long_errors_stays_well_below_lambdas_limit() {
        let talkative = |id| {
            let mut row = row(id, TimeDelta::hours(-1));
            row.error_message = Some("Cửa hàng này phải được kết nối lại với ứng dụng. ".repeat(6));
            (row, StoredTokens::Both)
        };
        let report = report((0..MAX_ENTRIES).map(talkative).collect(), Detail::Full);
        let table = report.table();
        assert!(serde_json::to_string(&table).unwrap().len() < 5_000_000);
        assert!(table.contains(" more integrations, less urgent than these"), "what is left out is counted");
    }

    #[test]
    fn a_summary_holds_no_integration() {
        let rows = (0..9000).map(|id| (row(id, TimeDelta::days(90)), StoredTokens::Both)).collect();
        let report = report(rows, Detail::Summary);
        assert!(report.integrations.is_empty() && report.truncated.is_none());
        assert_eq!((report.counts.total, report.warnings.len()), (9000, MAX_WARNINGS + 1));
        assert_eq!(report.warnings.last().unwrap(), "and 8800 more");
    }

    #[test]
    fn the_table_fits_its_width_and_the_summary_says_it_in_a_few_lines() {
        let mut failing = row(1, TimeDelta::minutes(20));
        failing.error_message =
            Some("TikTok refused: it answered 36009999 with many a word of little meaning".repeat(3));
        let report = report(vec![(failing, StoredTokens::Both)], Detail::Full);
        let table = report.table();
        assert!(
            table
                .lines()
                .take_while(|line| line.starts_with(['┌', '│', '╞', '└']))
                .all(|line| line.chars().count() <= 120)
        );
        assert!(table.contains("expiring_soon") && table.contains("36009999"), "{table}");
        assert_eq!(
            report.summary(),
            "TikTok Shop tokens at 2026-11-23 02:00 UTC\n\
             1 integrations: 0 healthy, 0 need a refresh, 1 expiring soon, 0 expired, 0 cannot be refreshed\n\
             Refresh tokens: 0 expired; 0 within a day, 0 within 7 days, 0 within 14, 0 within 30\n\
             Soonest expiry of an access token: in 20m"
        );
    }
}
