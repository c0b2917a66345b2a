//! Fan-out: work that this invocation leaves to others, through the work queue. Proof of an app's credentials is made once, by
//! the run that scans; its messages carry it.

use super::{Run, app::Asked, backlog::Backlog, scan::order};
use crate::domain::{
    integration::{Candidate, UnixTime},
    message::{KEYS_PER_MESSAGE, Work, WorkKey},
    outcome::{Outcome, Report, out_of_time},
    reason::Reason,
};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, VecDeque};

/// How many rows of an app the scanning run refreshes itself to prove the app's credentials, if no witness does. A wrong secret
/// then stops the app here, and not in thousands of workers.
const CANARIES: usize = 5;
/// Work whose run started earlier is not enqueued again: the next run finds it.
const MAX_AGE: TimeDelta = TimeDelta::hours(12);

/// Whether work is not enqueued again, nor delivered again.
pub(super) fn is_too_old(run_started_at: UnixTime, now: DateTime<Utc>) -> bool {
    run_started_at.is_within(-MAX_AGE, now)
}

impl Run<'_> {
    /// Sends due rows to the work queue, app by app, once the app's credentials are proved or cannot be. Returns the rows that
    /// wait for a witness to be seen: at most `FAN_OUT_ABOVE` of each app, and none if the scan `is_over`.
    pub(super) async fn fan_out(&mut self, due: Vec<Candidate>, is_over: bool) -> Vec<Candidate> {
        let mut by_app: BTreeMap<Option<String>, Vec<Candidate>> = BTreeMap::new();
        for candidate in due {
            by_app.entry(self.app_key(&candidate)).or_default().push(candidate);
        }
        let mut waiting = Vec::new();
        for (app_key, mut rows) in by_app {
            let Some(app_key) = app_key else {
                // The secret does not hold the app: whoever refreshes the row says so.
                self.enqueue(rows).await;
                continue;
            };
            let may_wait = !is_over && rows.len() <= self.services.settings.fan_out_above;
            let app = self.app(&app_key);
            if app.witnesses.state == Asked::No {
                if may_wait && app.witnesses.is_empty() {
                    waiting.append(&mut rows);
                    continue;
                }
                rows = self.prove(&app_key, rows).await;
            }
            let app = self.app(&app_key);
            if let Some(reason) = app.breaker.tripped() {
                for row in &rows {
                    self.stop(row, reason);
                }
            } else {
                self.enqueue(rows).await;
            }
        }
        waiting
    }

    /// Asks an app's witnesses and, if they prove nothing, refreshes a few of its rows. Returns the other rows.
    async fn prove(&mut self, app_key: &str, mut rows: Vec<Candidate>) -> Vec<Candidate> {
        let witnesses = self.app(app_key).witnesses.except(&[]);
        let refresher = self.refresher.clone();
        let evidence = refresher.ask_witnesses(app_key, &witnesses).await;
        self.record_witnesses(app_key, &evidence, &mut VecDeque::new());
        let app = self.app(app_key);
        let is_decided = app.proof.disproved().is_some() || app.breaker.is_proved();
        if !is_decided {
            rows.sort_by_key(order);
            let rest = rows.split_off(rows.len().min(CANARIES));
            rows.reverse();
            self.work_through(Backlog::of_canaries(rows)).await;
            rows = rest;
        }
        rows
    }

    /// Sends integrations to the work queue, the soonest expiry first. Defers them to the next run if there is no queue, or
    /// if it does not accept them.
    pub(super) async fn enqueue(&mut self, due: Vec<Candidate>) {
        let is_too_old = is_too_old(self.started_at, self.services.clock.now());
        let services = self.services.clone();
        let Some(queue) = services.queue.as_ref().filter(|_| !is_too_old) else {
            return due.iter().for_each(|candidate| self.defer(candidate, out_of_time(candidate)));
        };
        // One app each, as a message carries the proof of one app's credentials.
        let mut by_app: BTreeMap<Option<String>, Vec<Candidate>> = BTreeMap::new();
        for candidate in due {
            by_app.entry(self.app_key(&candidate)).or_default().push(candidate);
        }
        for rows in by_app.values_mut() {
            rows.sort_by_key(order);
        }
        let chunks: Vec<(Option<&str>, &[Candidate])> = by_app
            .iter()
            .flat_map(|(app_key, rows)| {
                rows.chunks(KEYS_PER_MESSAGE).map(move |chunk| (app_key.as_deref(), chunk))
            })
            .collect();
        let messages = chunks.iter().map(|(app_key, chunk)| self.message(*app_key, chunk)).collect();
        let limit = services.time_for_a_request(self.context.deadline);
        let unsent = queue.send_all(messages, limit).await;
        for (n, (_, chunk)) in chunks.into_iter().enumerate() {
            for candidate in chunk {
                if unsent.contains(&n) {
                    let message = "the work queue did not accept it; the next run starts with it";
                    let report = Report::of(candidate, Outcome::Deferred);
                    self.defer(candidate, report.because(Reason::QueueRefused, message));
                } else {
                    self.gauges.record(candidate);
                    self.end(
                        Report::of(candidate, Outcome::Queued)
                            .because(Reason::FanOut, "a worker refreshes it"),
                    );
                }
            }
        }
    }

    fn message(&self, app_key: Option<&str>, due: &[Candidate]) -> String {
        let key = |row: &Candidate| WorkKey { key: row.key.clone(), app_key: row.app_key.clone() };
        let app = app_key.and_then(|app_key| self.apps.get(app_key));
        let in_use = due.first().and_then(|row| self.refresher.app(row)).map(|app| app.fingerprint());
        Work {
            force: self.request.force,
            run_started_at: self.started_at,
            proved: in_use.filter(|in_use| app.is_some_and(|app| app.proof.proves(in_use))),
            only_one_of: app_key
                .filter(|_| app.is_some_and(|app| app.has_only_one(self.is_full_scan)))
                .map(ToOwned::to_owned),
            integrations: due.iter().map(key).collect(),
        }
        .to_json()
    }

    /// Defers an integration to the next run.
    pub(super) fn defer(&mut self, candidate: &Candidate, report: Report) {
        self.gauges.record(candidate);
        *self.deferred.entry(report.reason.map(Reason::as_str).unwrap_or_default()).or_default() += 1;
        self.end(report);
    }
}
