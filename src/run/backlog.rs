//! The backlog of one run, in the order in which it is processed.

use super::Job;
use crate::domain::integration::{Candidate, Notice};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};
use tracing::info;

/// How many expiry warnings a run holds: the most urgent ones. The next run finds the others again.
const MAX_WARNINGS: usize = 10_000;

/// The jobs that a run has not started yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// What runs before the refreshes.
    pub(super) first: VecDeque<Job>,
    /// The rows to refresh, the soonest expiry last.
    pub(super) due: Vec<Candidate>,
    /// Rows whose app has its share of the worker pool already, by app. They come before the app's other rows.
    aside: BTreeMap<String, VecDeque<(Candidate, u32)>>,
    /// Rows that found TikTok busy: when they get their next round, and which one. The number keeps the keys unique.
    busy: BTreeMap<(Instant, u64), (Candidate, u32)>,
    enqueued: u64,
    /// Whether rows that find TikTok busy go to the work queue, as others wait for these rows.
    pub(super) leaves_busy_rows: bool,
    /// Warnings of refresh tokens that expire soon. They run after the refreshes.
    warnings: Vec<(Candidate, Notice)>,
    left_out: usize,
}

impl Backlog {
    /// A backlog of these rows, the soonest expiry last.
    pub(super) fn of(due: Vec<Candidate>) -> Self {
        Self { due, ..Self::default() }
    }

    /// A backlog of rows that a fan-out waits for, the soonest expiry last.
    pub(super) fn of_canaries(due: Vec<Candidate>) -> Self {
        Self { leaves_busy_rows: true, ..Self::of(due) }
    }

    /// The next job that may start at `now`. `has_room` says whether an app has not got its share of the worker pool yet.
    pub(super) fn next(&mut self, now: Instant, has_room: impl Fn(&str) -> bool) -> Option<Job> {
        if let Some(job) = self.first.pop_front() {
            return Some(job);
        }
        let mut aside = self.aside.iter_mut().filter(|(app_key, _)| has_room(app_key));
        if let Some((candidate, round)) = aside.find_map(|(_, rows)| rows.pop_front()) {
            return Some(Job::Refresh(candidate, round));
        }
        if let Some(candidate) = self.due.pop() {
            return Some(Job::Refresh(candidate, 1));
        }
        if self.next_round_at().is_some_and(|at| at <= now) {
            return self.busy.pop_first().map(|(_, (candidate, round))| Job::Refresh(candidate, round));
        }
        self.warnings.pop().map(|(candidate, notice)| Job::WarnOfExpiry(candidate, notice))
    }

    /// Whether rows wait for a refresh.
    pub(super) fn has_refreshes(&self) -> bool {
        !self.due.is_empty() || !self.busy.is_empty() || self.aside.values().any(|rows| !rows.is_empty())
    }

    /// When the first of the rows that found TikTok busy gets its next round.
    pub(super) fn next_round_at(&self) -> Option<Instant> {
        self.busy.first_key_value().map(|((at, _), _)| *at)
    }

    /// Sets a row aside until its app has room in the worker pool.
    pub(super) fn set_aside(&mut self, app_key: String, candidate: Candidate, round: u32) {
        self.aside.entry(app_key).or_default().push_back((candidate, round));
    }

    /// Puts a row that found TikTok busy at the end of the line, to be refreshed again at `at`.
    pub(super) fn come_back(&mut self, candidate: Candidate, round: u32, at: Instant) {
        self.enqueued += 1;
        self.busy.insert((at, self.enqueued), (candidate, round));
    }

    /// Takes all rows that wait for a refresh.
    pub(super) fn take_refreshes(&mut self) -> Vec<(Candidate, u32)> {
        let aside = std::mem::take(&mut self.aside).into_values().flatten();
        let due = std::mem::take(&mut self.due).into_iter().rev().map(|candidate| (candidate, 1));
        aside.chain(due).chain(std::mem::take(&mut self.busy).into_values()).collect()
    }

    /// Adds a warning. Holds only the most urgent ones, so that memory does not grow with the table.
    pub(super) fn warn(&mut self, candidate: Candidate, notice: Notice) {
        self.warnings.push((candidate, notice));
        if self.warnings.len() >= 2 * MAX_WARNINGS {
            self.sort_warnings();
            self.left_out += self.warnings.len() - MAX_WARNINGS;
            self.warnings.drain(..self.warnings.len() - MAX_WARNINGS);
        }
    }

    /// Sorts the warnings, the soonest expiry last.
    pub(super) fn sort_warnings(&mut self) {
        self.warnings.sort_by_key(|(_, notice)| std::cmp::Reverse(notice.expires_at));
    }

    /// Leaves the warnings to the next run.
    pub(super) fn leave_warnings(&mut self) {
        let left = std::mem::take(&mut self.left_out) + std::mem::take(&mut self.warnings).len();
        if left > 0 {
            info!(left, "warnings of refresh tokens that expire soon are left to the next run");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::integration::{IntegrationKey, UnixTime};
    use std::time::Duration;

    fn row(id: usize) -> Candidate {
        Candidate::of_key(IntegrationKey { team_id: "1".into(), integration_id: id.to_string() }, None)
    }

    fn notice(expires_at: i64) -> Notice {
        Notice { days: 7, expires_at: UnixTime(expires_at) }
    }

    /// The ids of the jobs that start at `now`.
    fn ids(backlog: &mut Backlog, now: Instant) -> Vec<usize> {
        let id = |job| match job {
            Job::Refresh(row, _) | Job::WarnOfExpiry(row, _) => row.key.integration_id.parse().unwrap(),
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| backlog.next(now, |_| true)).map(id).collect()
    }

    #[test]
    fn what_is_due_comes_first_then_the_busy_rows_then_the_warnings() {
        let now = Instant::now();
        let mut backlog = Backlog::of(vec![row(2), row(1)]);
        backlog.warn(row(20), notice(2));
        backlog.warn(row(21), notice(1));
        backlog.sort_warnings();
        backlog.come_back(row(11), 2, now + Duration::from_secs(1));
        backlog.come_back(row(12), 2, now + Duration::from_secs(1));
        backlog.come_back(row(10), 2, now);
        assert_eq!(ids(&mut backlog, now + Duration::from_secs(1)), [1, 2, 10, 11, 12, 21, 20]);
    }

    #[test]
    fn a_busy_row_waits_for_its_time_and_stops_nobody() {
        let now = Instant::now();
        let mut backlog = Backlog::of(vec![row(1)]);
        backlog.come_back(row(10), 2, now + Duration::from_mins(1));
        backlog.come_back(row(11), 3, now + Duration::from_secs(1));
        assert_eq!(ids(&mut backlog, now), [1]);
        assert_eq!(backlog.next_round_at(), Some(now + Duration::from_secs(1)));
        let Some(Job::Refresh(_, round)) = backlog.next(now + Duration::from_secs(1), |_| true) else {
            panic!()
        };
        assert_eq!(round, 3);
        assert_eq!(backlog.take_refreshes(), [(row(10), 2)]);
    }

    #[test]
    fn a_row_that_was_set_aside_comes_first_once_its_app_has_room() {
        let now = Instant::now();
        let mut backlog = Backlog::of(vec![row(3), row(2)]);
        backlog.set_aside("a".into(), row(1), 1);
        let Some(Job::Refresh(next, _)) = backlog.next(now, |app_key| app_key != "a") else { panic!() };
        assert_eq!(next, row(2));
        assert_eq!(ids(&mut backlog, now), [1, 3]);
        assert!(!backlog.has_refreshes());
    }

    #[test]
    fn only_the_most_urgent_warnings_are_held() {
        let mut backlog = Backlog::default();
        let all = 5 * MAX_WARNINGS;
        for id in 0..all {
            backlog.warn(row(id), notice(i64::try_from((id * 7) % all).unwrap()));
            assert!(backlog.warnings.len() <= 2 * MAX_WARNINGS);
        }
        backlog.sort_warnings();
        let urgent = &backlog.warnings[backlog.warnings.len() - MAX_WARNINGS..];
        assert!(urgent.iter().rev().zip(0..).all(|((_, notice), n)| notice.expires_at.0 == n));
        assert_eq!(backlog.left_out + backlog.warnings.len(), all);
    }
}
