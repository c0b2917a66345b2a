//! Fan-out: work that this invocation leaves to others, through the work queue.

use super::Run;
use crate::domain::{
    integration::Candidate,
    message::{KEYS_PER_MESSAGE, Work, WorkKey},
    outcome::{Outcome, Report, out_of_time},
};

impl Run<'_> {
    /// Sends integrations to the work queue, the soonest expiry first. Defers them to the next run if there is no queue, or
    /// if it does not accept them.
    pub(super) async fn enqueue(&mut self, mut due: Vec<Candidate>) {
        let services = self.services.clone();
        let Some(queue) = &services.queue else {
            return due.iter().for_each(|candidate| self.defer(candidate, out_of_time(candidate)));
        };
        due.sort_by_key(|row| row.access_expires_at);
        let chunks: Vec<&[Candidate]> = due.chunks(KEYS_PER_MESSAGE).collect();
        let unsent = queue.send_all(chunks.iter().map(|chunk| self.message(chunk)).collect()).await;
        for (n, chunk) in chunks.into_iter().enumerate() {
            for candidate in chunk {
                let report = |outcome| {
                    Report::new(candidate.key.clone(), outcome).expiring(candidate.access_expires_at)
                };
                if unsent.contains(&n) {
                    let message = "the work queue did not accept it; the next run starts with it";
                    self.defer(candidate, report(Outcome::Deferred).because("queue_refused", message));
                } else {
                    self.gauges.record(candidate);
                    self.end(report(Outcome::Queued).because("fan_out", "sent to the work queue"));
                }
            }
        }
    }

    fn message(&self, due: &[Candidate]) -> String {
        let key = |row: &Candidate| WorkKey { key: row.key.clone(), app_key: row.app_key.clone() };
        Work {
            force: self.request.force,
            run_started_at: self.started_at,
            integrations: due.iter().map(key).collect(),
        }
        .to_json()
    }

    /// Defers an integration to the next run.
    pub(super) fn defer(&mut self, candidate: &Candidate, report: Report) {
        self.gauges.record(candidate);
        *self.deferred.entry(report.reason.unwrap_or_default()).or_default() += 1;
        self.end(report);
    }
}
