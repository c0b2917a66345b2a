//! The scan: reads the rows, ends those for which nothing is to be done, and puts the rest into the backlog.

use super::{Run, backlog::Backlog};
use crate::{
    aws::dynamodb::TableError,
    domain::{
        due::{AccessState, DueReason, SkipReason},
        gauges::REFRESH_TOKEN_WARNING,
        integration::{Candidate, Notice, Status, UnixTime},
        outcome::{Outcome, Report, skipped},
        reason::Reason,
        selection::Selection,
    },
    services::last_read,
};
use futures_util::StreamExt;
use std::{cmp::Reverse, time::Duration};
use tracing::warn;

/// The order in which due rows are refreshed: marked rows last, the soonest expiry first.
pub(super) fn order(row: &Candidate) -> (bool, Option<UnixTime>) {
    (row.status != Status::Active, row.access_expires_at)
}

impl Run<'_> {
    /// Reads the rows. If more are due than `FAN_OUT_ABOVE`, they go to the work queue instead of the backlog.
    pub(super) async fn scan(&mut self) -> Result<Backlog, TableError> {
        let services = self.services.clone();
        let mut backlog = Backlog::default();
        let (mut is_found, mut is_fanned_out) = (false, false);
        let mut pages = services.table.candidates(&self.request.selection);
        let was_read_to_the_end = loop {
            let page = match services.by(last_read(self.context.deadline), pages.next()).await {
                Some(Some(page)) => page?,
                Some(None) => break true,
                None => break false,
            };
            for row in page {
                is_found = true;
                match row {
                    Ok(candidate) => self.examine(candidate, &mut backlog),
                    Err(malformed) => {
                        let message = malformed.to_string();
                        let report = Report::new(malformed.key, Outcome::Failed);
                        self.end(report.because(Reason::MalformedRow, message));
                    }
                }
            }
            // In parts, so that memory does not grow with the table.
            if services.queue.is_some() && backlog.due.len() > services.settings.fan_out_above {
                is_fanned_out = true;
                let due = std::mem::take(&mut backlog.due);
                backlog.due = self.fan_out(due, false).await;
            }
        };
        self.is_full_scan = was_read_to_the_end && self.request.selection == Selection::All;
        if !was_read_to_the_end {
            warn!("the time ran out before every row was read");
            self.results.cut_off();
        } else if !is_found {
            self.report_nothing_found();
        }
        if is_fanned_out {
            let due = std::mem::take(&mut backlog.due);
            self.fan_out(due, true).await;
        }
        // An absent expiry comes first, as the token may be dead already. Marked rows come last.
        backlog.due.sort_unstable_by_key(|row| Reverse(order(row)));
        backlog.sort_warnings();
        Ok(backlog)
    }

    fn examine(&mut self, candidate: Candidate, backlog: &mut Backlog) {
        self.warn_if_refresh_token_expires_soon(&candidate);
        self.count_active(&candidate);
        // Only a mark holds against certain credentials.
        let in_use = (candidate.status == Status::Error).then(|| self.context.in_use(&candidate)).flatten();
        match candidate.due(&self.policy, in_use.as_ref()) {
            Ok(reason) => {
                self.results.record_due();
                if self.request.dry_run {
                    self.report_due(&candidate, reason);
                } else {
                    backlog.due.push(candidate);
                }
            }
            Err(skip) => {
                self.gauges.record(&candidate);
                self.end(skipped(&candidate, &skip, self.policy.now));
                if let Some(notice) = self.expiry_warning(&candidate) {
                    backlog.warn(candidate, notice);
                }
            }
        }
    }

    /// Counts an active row for its app, and offers it as a witness if its access token is believed to work.
    fn count_active(&mut self, candidate: &Candidate) {
        if candidate.status != Status::Active {
            return;
        }
        let Some(app_key) = self.app_key(candidate) else { return };
        let works = candidate.has_plausible_expiry(&self.policy)
            && candidate.access_state(self.policy.now) != AccessState::Expired;
        let app = self.app(&app_key);
        app.active_rows += 1;
        if works {
            app.witnesses.offer(&candidate.key);
        }
    }

    /// The warning of the refresh token's expiry that is to be published, if one is due.
    pub(super) fn expiry_warning(&self, candidate: &Candidate) -> Option<Notice> {
        let is_published = self.services.event_bus.is_some() && !self.request.dry_run;
        candidate.notice_due(self.policy.now).filter(|_| is_published)
    }

    fn report_nothing_found(&mut self) {
        match &self.request.selection {
            Selection::All => {}
            Selection::Team(team_id) => warn!(team_id, "the team has no integrations in the table"),
            Selection::One(key) => {
                let report = Report::new(key.clone(), Outcome::Failed);
                self.end(report.because(Reason::NotFound, format!("there is no {key} in the table")));
            }
        }
    }

    fn warn_if_refresh_token_expires_soon(&self, candidate: &Candidate) {
        let Some(at) = candidate.known_refresh_expiry() else { return };
        let is_soon = at.is_within(REFRESH_TOKEN_WARNING, self.policy.now);
        if is_soon && candidate.status == Status::Active && !candidate.refresh_token_expired(self.policy.now)
        {
            let _span = candidate.key.span().entered();
            warn!(
                refresh_token_expires_at = at.0,
                "the refresh token expires within 7 days: the seller must connect again before then",
            );
        }
    }

    /// Reports, in a dry run, what a real run would do with a row that is due.
    fn report_due(&mut self, candidate: &Candidate, reason: DueReason) {
        if let Some(lease) = candidate.live_lease(self.policy.now) {
            let locked = SkipReason::Locked(lease.clone());
            return self.end(skipped(candidate, &locked, self.policy.now));
        }
        let message = match candidate.access_expires_at {
            _ if reason == DueReason::CredentialsChanged => {
                "the app's credentials have changed since the row was marked".to_owned()
            }
            None => "the access token's expiry is missing".to_owned(),
            Some(at) if reason == DueReason::ImplausibleExpiry => {
                format!("the stored expiry, {}, is implausible", at.0)
            }
            Some(at) => {
                let seconds = at.seconds_from(self.policy.now);
                let span = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
                if seconds > 0 {
                    format!("the access token expires in {span}")
                } else {
                    format!("the access token expired {span} ago")
                }
            }
        };
        self.end(Report::of(candidate, Outcome::WouldRefresh).because(reason.reason(), message));
    }
}
