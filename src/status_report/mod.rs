//! The status report on the health of the tokens: JSON, an HTML fragment, a text table or a short summary. The code is
//! pure, and a report never contains a token.

mod html;
mod text;

pub use html::HELP;
pub use text::{Summary, counted, in_words, printable, relative};

use crate::domain::{
    bounded_list::BoundedList,
    clock,
    due::{DuePolicy, Health},
    integration::{Candidate, IntegrationKey, Status, UnixTime},
    reason::Reason,
    report_row::{ReportRow, StoredTokens},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

/// The maximum number of warnings in a report.
const MAX_WARNINGS: usize = 200;

/// The warning of a report that does not cover the whole selection.
const INCOMPLETE: &str = "this report is incomplete: the time ran out before every row was read; ask for one team at a time, \
                          or give the function more time or memory";

/// How many rows with a status that is nearly `active` a warning names.
const MAX_NEARLY_ACTIVE: usize = 5;
/// How much of such a status the warning shows, in characters.
const MAX_STATUS: usize = 20;

/// The number of integrations by state. They add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateCounts {
    /// All rows.
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
    /// See [`Health`].
    pub inactive: u64,
    /// See [`Health`].
    pub unreadable: u64,
}

impl StateCounts {
    fn add(&mut self, state: Health) {
        self.total += 1;
        *match state {
            Health::Unreadable => &mut self.unreadable,
            Health::CannotRefresh => &mut self.cannot_refresh,
            Health::Expired => &mut self.expired,
            Health::ExpiringSoon => &mut self.expiring_soon,
            Health::NeedsRefresh => &mut self.needs_refresh,
            Health::Healthy => &mut self.healthy,
            Health::Inactive => &mut self.inactive,
        } += 1;
    }
}

/// The number of refresh tokens by time to expiry. Each period includes the shorter ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshTokenCounts {
    /// Expired or missing.
    pub expired: u64,
    /// Expire within a day.
    pub within_1_day: u64,
    /// Expire within 7 days.
    pub within_7_days: u64,
    /// Expire within 14 days.
    pub within_14_days: u64,
    /// Expire within 30 days.
    pub within_30_days: u64,
}

/// The status of one integration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IntegrationStatus {
    /// The state. The report lists the most urgent states first.
    pub state: Health,
    /// The stored expiry of the access token, in Unix seconds.
    pub access_token_expires_at: Option<UnixTime>,
    /// The integration.
    #[serde(flatten)]
    pub key: IntegrationKey,
    /// The seller's name.
    pub seller_name: Option<String>,
    /// The row's `status` attribute; `None` if the row cannot be read.
    pub status: Option<String>,
    /// The stored expiry of the refresh token, in Unix seconds.
    pub refresh_token_expires_at: Option<UnixTime>,
    /// When the tokens were last refreshed, in Unix seconds.
    pub last_refreshed_at: Option<UnixTime>,
    /// The reason of the last failure, as in responses.
    pub error_reason: Option<String>,
    /// The code of the last failure.
    pub error_code: Option<String>,
    /// The message of the last failure, for people.
    pub error_message: Option<String>,
    /// When the last failure happened, in Unix seconds.
    pub error_at: Option<UnixTime>,
    /// The number of failed attempts since the last success.
    pub consecutive_failures: i64,
    /// The shops that the authorization covers, as TikTok last listed them.
    pub shops: Vec<ShopName>,
}

/// A shop's id and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShopName {
    /// The shop's id.
    pub id: String,
    /// The shop's name.
    pub name: String,
}

/// The response to `status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    action: &'static str,
    /// When the report was generated.
    #[serde(serialize_with = "clock::to_the_second")]
    pub generated_at: DateTime<Utc>,
    /// The number of integrations by state.
    pub counts: StateCounts,
    /// The number of refresh tokens by time to expiry.
    pub refresh_tokens: RefreshTokenCounts,
    /// The earliest plausible expiry of an active integration's access token, in Unix seconds.
    pub soonest_access_token_expiry: Option<UnixTime>,
    /// Problems that need attention, for people: malformed rows, interrupted attempts, implausible expiries, shared
    /// authorizations.
    pub warnings: Vec<String>,
    /// The integrations, the most urgent first.
    pub integrations: Vec<IntegrationStatus>,
    /// The number of integrations that the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// The level of detail of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Counts and warnings, in memory that does not grow with the table.
    Summary,
    /// The integrations as well, and warnings of rows that share an authorization.
    Full,
}

/// The order of the integrations: by state, then expiry, then key.
type Urgency = (Health, Option<UnixTime>, IntegrationKey);

impl IntegrationStatus {
    /// The last failure for people: its reason in words, and its message.
    fn last_error(&self) -> Option<String> {
        let message = self.error_message.as_ref().or(self.error_code.as_ref());
        match (&self.error_reason, message) {
            (Some(reason), Some(message)) => Some(format!("{}: {message}", in_words(reason))),
            (reason, message) => message.or(reason.as_ref()).cloned(),
        }
    }
}

/// Builds a report row by row.
#[derive(Debug)]
pub struct ReportBuilder {
    policy: DuePolicy,
    detail: Detail,
    counts: StateCounts,
    refresh_tokens: RefreshTokenCounts,
    soonest_expiry: Option<UnixTime>,
    /// Whether the time ran out before every row was read.
    is_cut_off: bool,
    warnings: Vec<String>,
    omitted_warnings: u64,
    integrations: BoundedList<Urgency, IntegrationStatus>,
    /// The authorizations seen, by a hash of app and seller: of a million rows, their keys would not fit into the memory.
    authorizations: HashSet<u64>,
    /// The authorizations of more than one row, and the first of these rows.
    shared: HashMap<u64, Option<IntegrationKey>>,
    hasher: RandomState,
    /// How many rows have a status that is nearly `active`, and some of them.
    nearly_active: (u64, Vec<String>),
}

impl ReportBuilder {
    /// Creates an empty report as of `policy.now`.
    pub fn new(policy: DuePolicy, detail: Detail) -> Self {
        Self {
            policy,
            detail,
            counts: StateCounts::default(),
            refresh_tokens: RefreshTokenCounts::default(),
            soonest_expiry: None,
            is_cut_off: false,
            warnings: Vec::new(),
            omitted_warnings: 0,
            integrations: BoundedList::default(),
            authorizations: HashSet::new(),
            shared: HashMap::new(),
            hasher: RandomState::new(),
            nearly_active: (0, Vec::new()),
        }
    }

    /// Notes that the time ran out before every row was read.
    pub fn cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// Adds a row that cannot be read, with a warning that says what is wrong with it.
    pub fn unreadable(&mut self, key: &IntegrationKey, problem: &str) {
        let state = Health::Unreadable;
        self.counts.add(state);
        self.warn(format!("{key}: {problem}"));
        if self.detail == Detail::Summary {
            return;
        }
        let integration = IntegrationStatus {
            state,
            access_token_expires_at: None,
            key: key.clone(),
            seller_name: None,
            status: None,
            refresh_token_expires_at: None,
            last_refreshed_at: None,
            error_reason: Some(Reason::MalformedRow.as_str().into()),
            error_code: None,
            error_message: Some(problem.to_owned()),
            error_at: None,
            consecutive_failures: 0,
            shops: Vec::new(),
        };
        self.integrations.push((state, None, key.clone()), integration);
    }

    /// Adds a row.
    pub fn row(&mut self, row: ReportRow, tokens: StoredTokens) {
        let state = state(&row.candidate, tokens, &self.policy);
        self.counts.add(state);
        self.count_refresh_token(&row.candidate, tokens);
        self.check(&row, tokens);
        let candidate = row.candidate;
        let is_in_use = candidate.status == Status::Active && tokens != StoredTokens::NoAccessToken;
        if is_in_use && candidate.has_plausible_expiry(&self.policy) {
            self.soonest_expiry =
                [self.soonest_expiry, candidate.access_expires_at].into_iter().flatten().min();
        }
        if self.detail == Detail::Summary {
            return;
        }
        let urgency = (state, candidate.access_expires_at, candidate.key.clone());
        let last_failure = candidate.last_failure.unwrap_or_default();
        let integration = IntegrationStatus {
            state,
            access_token_expires_at: candidate.access_expires_at,
            key: candidate.key,
            seller_name: candidate.seller_name,
            status: Some(candidate.status.as_str().to_owned()),
            refresh_token_expires_at: candidate.refresh_expires_at,
            last_refreshed_at: row.last_refreshed_at,
            error_reason: last_failure.reason,
            error_code: last_failure.code,
            error_message: last_failure.message,
            error_at: row.error_at,
            consecutive_failures: row.consecutive_failures,
            shops: row
                .authorized_shops
                .into_iter()
                .map(|shop| ShopName { id: shop.id, name: shop.name })
                .collect(),
        };
        self.integrations.push(urgency, integration);
    }

    fn count_refresh_token(&mut self, row: &Candidate, tokens: StoredTokens) {
        let counts = &mut self.refresh_tokens;
        if tokens == StoredTokens::NoRefreshToken || row.refresh_token_expired(self.policy.now) {
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
            *count += u64::from(at.is_within(TimeDelta::days(days), self.policy.now));
        }
    }

    /// Adds warnings of a row's problems.
    fn check(&mut self, row: &ReportRow, tokens: StoredTokens) {
        let candidate = &row.candidate;
        let key = &candidate.key;
        let is_ours = !matches!(candidate.status, Status::Other(_));
        if is_ours && tokens == StoredTokens::Both && !candidate.has_plausible_expiry(&self.policy) {
            let expiry = candidate.access_expires_at.map_or_else(|| "missing".into(), |at| at.0.to_string());
            self.warn(format!(
                "{key}: access_token_expires_at is {expiry}, which is implausible; the integration counts as due"
            ));
        }
        if candidate.lease.is_some() && candidate.live_lease(self.policy.now).is_none() {
            self.warn(format!(
                "{key}: its lease expired before it was released, so an attempt was interrupted"
            ));
        }
        if candidate.status.is_nearly_active() {
            let (count, rows) = &mut self.nearly_active;
            *count += 1;
            if rows.len() < MAX_NEARLY_ACTIVE {
                let status: String = candidate.status.as_str().chars().take(MAX_STATUS).collect();
                rows.push(format!("{status:?} ({key})"));
            }
        }
        if self.detail == Detail::Full
            && let Some(authorization) = self.authorization(row)
            && !self.authorizations.insert(authorization)
        {
            if self.shared.len() < MAX_WARNINGS {
                self.shared.entry(authorization).or_default();
            } else {
                self.omitted_warnings += 1;
            }
        }
    }

    fn authorization(&self, row: &ReportRow) -> Option<u64> {
        Some(self.hasher.hash_one((&row.candidate.app_key, row.open_id.as_ref()?)))
    }

    /// Whether rows share an authorization. To name them, all rows must be read once more, for [`Self::name_shared`].
    pub fn has_shared_authorizations(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Adds a warning if a row shares its authorization with an earlier one. Every row has been added before.
    pub fn name_shared(&mut self, row: &ReportRow) {
        let Some(first) = self.authorization(row).and_then(|id| self.shared.get_mut(&id)) else { return };
        let key = &row.candidate.key;
        match first.clone() {
            None => *first = Some(key.clone()),
            Some(first) => self.warn(format!(
                "{key} and {first} share one authorization: a refresh of one may invalidate the tokens of the other"
            )),
        }
    }

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning);
        } else {
            self.omitted_warnings += 1;
        }
    }

    /// Finishes the report.
    pub fn finish(mut self) -> StatusReport {
        if self.omitted_warnings > 0 {
            self.warnings.push(format!("and {} more", self.omitted_warnings));
        }
        let (count, rows) = &self.nearly_active;
        if *count > 0 {
            let more = if *count > rows.len() as u64 { ", among others" } else { "" };
            let warning = format!(
                "the function leaves rows alone whose status differs from \"active\" only by case or blanks; correct the \
                 status if it is a typo: {}{more}, {count} in all",
                rows.join(", ")
            );
            self.warnings.insert(0, warning);
        }
        if self.is_cut_off {
            self.warnings.insert(0, INCOMPLETE.into());
        }
        let (integrations, truncated) = self.integrations.finish();
        StatusReport {
            action: "status",
            generated_at: self.policy.now,
            counts: self.counts,
            refresh_tokens: self.refresh_tokens,
            soonest_access_token_expiry: self.soonest_expiry,
            warnings: self.warnings,
            integrations,
            truncated,
        }
    }
}

/// The state of an integration, which also depends on the tokens that its row has.
fn state(row: &Candidate, tokens: StoredTokens, policy: &DuePolicy) -> Health {
    match (tokens, row.health(policy)) {
        (_, Health::Inactive) => Health::Inactive,
        (StoredTokens::NoRefreshToken, _) => Health::CannotRefresh,
        (StoredTokens::NoAccessToken, health) if health != Health::CannotRefresh => Health::Expired,
        (StoredTokens::NoAccessToken | StoredTokens::Both, health) => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bounded_list::MAX_ENTRIES;
    use crate::domain::integration::LastFailure;

    fn policy() -> DuePolicy {
        DuePolicy {
            now: DateTime::from_timestamp(1_795_399_200, 0).unwrap(),
            refresh_ahead: TimeDelta::hours(48),
            force: false,
            unless_refreshed_since: None,
        }
    }

    fn row(id: usize, access_in: TimeDelta) -> ReportRow {
        let key = IntegrationKey { team_id: "1".into(), integration_id: id.to_string() };
        let at = |delta| Some(UnixTime::of(policy().now + delta));
        ReportRow {
            candidate: Candidate {
                access_expires_at: at(access_in),
                refresh_expires_at: at(TimeDelta::days(300)),
                seller_name: Some("Bánh Mì".into()),
                ..Candidate::of_key(key, None)
            },
            open_id: Some(id.to_string()),
            last_refreshed_at: None,
            error_at: None,
            consecutive_failures: 0,
            authorized_shops: Vec::new(),
        }
    }

    fn failed_with(message: String) -> LastFailure {
        LastFailure { message: Some(message), ..LastFailure::default() }
    }

    fn report(rows: impl IntoIterator<Item = (ReportRow, StoredTokens)>, detail: Detail) -> StatusReport {
        let rows: Vec<_> = rows.into_iter().collect();
        let mut builder = ReportBuilder::new(policy(), detail);
        for (row, tokens) in &rows {
            builder.row(row.clone(), *tokens);
        }
        if builder.has_shared_authorizations() {
            for (row, _) in &rows {
                builder.name_shared(row);
            }
        }
        builder.finish()
    }

    #[test]
    fn a_time_is_written_relative_to_now() {
        let now = policy().now;
        let at = |seconds| UnixTime(now.timestamp() + seconds);
        assert_eq!(relative(at(3 * 86_400 + 3_600 + 60), now), "in 3d 1h");
        assert_eq!(relative(at(-120), now), "2m ago");
    }

    #[test]
    fn a_missing_token_counts_as_expired() {
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
    fn a_refresh_token_is_counted_in_every_period_in_which_it_expires() {
        let expiring = |id, delta: TimeDelta| {
            let mut row = row(id, TimeDelta::days(6));
            row.candidate.refresh_expires_at = Some(UnixTime::of(policy().now + delta));
            (row, StoredTokens::Both)
        };
        let second = TimeDelta::seconds(1);
        let rows = vec![
            expiring(1, -second),
            expiring(2, TimeDelta::days(1)),
            expiring(3, TimeDelta::days(7)),
            expiring(4, TimeDelta::days(14) + second),
            expiring(5, TimeDelta::days(30) + second),
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
    fn a_status_that_is_nearly_active_is_named_with_some_of_its_rows() {
        let with_status = |id: usize, status: &str| {
            let mut row = row(id, TimeDelta::days(6));
            row.candidate.status = Status::parse(status);
            (row, StoredTokens::Both)
        };
        let statuses = ["Active", " active", "ACTIVE\n", "active", "inactive", "paused", ""];
        let rows = statuses.iter().enumerate().map(|(id, status)| with_status(id, status));
        let warnings = report(rows, Detail::Summary).warnings;
        assert_eq!(
            warnings,
            [
                "the function leaves rows alone whose status differs from \"active\" only by case or blanks; correct the \
                 status if it is a typo: \"Active\" (integration 0 of team 1), \" active\" (integration 1 of team 1), \
                 \"ACTIVE\\n\" (integration 2 of team 1), 3 in all"
            ]
        );
        let many = (0..1_000).map(|id| with_status(id, &format!("Active{}", " ".repeat(100_000))));
        let warnings = report(many, Detail::Summary).warnings;
        assert!(warnings[0].ends_with(", among others, 1000 in all"));
        assert!(warnings[0].len() < 500, "{}", warnings[0].len());
    }

    #[test]
    fn warnings_name_the_integration() {
        let mut interrupted = row(1, TimeDelta::days(6));
        let expired = UnixTime::of(policy().now - TimeDelta::minutes(1));
        interrupted.candidate.lease =
            Some(crate::domain::integration::Lease { owner: "x".into(), expires_at: expired });
        let mut twin = row(2, TimeDelta::days(6));
        twin.open_id = Some("1".into());
        let implausible = row(3, TimeDelta::days(90));
        let rows = [interrupted, twin, implausible].map(|row| (row, StoredTokens::Both));
        let mut warnings = report(rows, Detail::Full).warnings;
        warnings.sort();
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].starts_with("integration 1 of team 1: its lease expired before it was released"));
        assert!(
            warnings[1]
                .starts_with("integration 2 of team 1 and integration 1 of team 1 share one authorization")
        );
        assert!(warnings[2].starts_with("integration 3 of team 1: access_token_expires_at is "));
    }

    #[test]
    fn a_full_list_keeps_the_most_urgent_integrations() {
        let mut rows: Vec<_> =
            (0..MAX_ENTRIES + 10).map(|id| (row(id, TimeDelta::days(6)), StoredTokens::Both)).collect();
        rows.push((row(99_999, TimeDelta::hours(-1)), StoredTokens::Both));
        let report = report(rows, Detail::Full);
        assert_eq!((report.integrations.len(), report.truncated), (MAX_ENTRIES, Some(11)));
        assert_eq!(report.integrations[0].key.integration_id, "99999");
        assert!(serde_json::to_string(&report).unwrap().len() < 5_000_000);
    }

    #[test]
    fn a_table_of_long_errors_stays_below_lambdas_limit() {
        let failing = |id| {
            let mut row = row(id, TimeDelta::hours(-1));
            row.candidate.last_failure =
                Some(failed_with("Cửa hàng này phải được kết nối lại với ứng dụng. ".repeat(6)));
            (row, StoredTokens::Both)
        };
        let report = report((0..MAX_ENTRIES).map(failing), Detail::Full);
        let table = report.table();
        assert!(serde_json::to_string(&table).unwrap().len() < 5_000_000);
        assert!(table.contains(" less urgent integrations are not listed"), "the table counts what it omits");
    }

    #[test]
    fn control_characters_of_stored_values_never_reach_the_text() {
        let mut failing = row(1, TimeDelta::minutes(20));
        failing.candidate.seller_name = Some("Bánh\u{1b}[31m Mì".into());
        failing.candidate.last_failure = Some(failed_with("first\u{7} line\nsecond line".into()));
        let mut interrupted = row(2, TimeDelta::days(6));
        interrupted.candidate.key.integration_id = "2\u{9b}\r".into();
        let expired = UnixTime::of(policy().now - TimeDelta::minutes(1));
        interrupted.candidate.lease =
            Some(crate::domain::integration::Lease { owner: "x".into(), expires_at: expired });
        let rows = [failing, interrupted].map(|row| (row, StoredTokens::Both));
        let report = report(rows, Detail::Full);
        let table = report.table();
        assert!(!table.contains(|c: char| c.is_control() && c != '\n'), "{table:?}");
        assert!(table.contains("Bánh [31m Mì") && table.contains("first  line"), "{table}");
        assert!(report.summary().contains("- integration 2   of team 1: its lease"), "{}", report.summary());
    }

    #[test]
    fn a_table_wraps_states_between_words() {
        let rows = (0..3).map(|id| (row(id, TimeDelta::days(6)), StoredTokens::NoRefreshToken));
        let table = report(rows, Detail::Full).table();
        assert!(table.contains("cannot refresh") && !table.contains("cannot_refres"), "{table}");
    }

    #[test]
    fn a_summary_lists_no_integrations() {
        let rows = (0..9000).map(|id| (row(id, TimeDelta::days(90)), StoredTokens::Both));
        let report = report(rows, Detail::Summary);
        assert!(report.integrations.is_empty() && report.truncated.is_none());
        assert_eq!((report.counts.total, report.warnings.len()), (9000, MAX_WARNINGS + 1));
        assert_eq!(report.warnings.last().unwrap(), "and 8800 more");
    }

    #[test]
    fn the_table_fits_its_width_and_the_summary_is_a_few_lines() {
        let mut failing = row(1, TimeDelta::minutes(20));
        failing.candidate.last_failure = Some(failed_with(
            "TikTok refused: it answered 36009999 with many a word of little meaning".repeat(3),
        ));
        let report = report(vec![(failing, StoredTokens::Both)], Detail::Full);
        let table = report.table();
        assert!(
            table
                .lines()
                .take_while(|line| line.starts_with(['┌', '│', '╞', '└']))
                .all(|line| line.chars().count() <= 120)
        );
        assert!(table.contains("expiring soon") && table.contains("36009999"), "{table}");
        assert_eq!(
            report.summary(),
            "TikTok Shop tokens at 2026-11-23 02:00 UTC\n\
             1 integration: 0 healthy, 0 due for a refresh, 1 expiring soon, 0 expired, 0 cannot be refreshed\n\
             Refresh tokens: 0 expired; 0 within a day, 0 within 7 days, 0 within 14, 0 within 30\n\
             Soonest expiry of an access token: in 20m"
        );
    }
}
