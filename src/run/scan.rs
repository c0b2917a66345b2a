//! Which rows there are, and what is to be done for each.

use super::{Run, Work, backlog::Todo};
use crate::{
    aws::dynamodb::StoreError,
    domain::{
        gauges::REFRESH_TOKEN_WARNING,
        integration::{Candidate, Due, Skip, Status},
        outcome::{Outcome, Report, skipped},
        selection::Selection,
    },
};
use futures_util::StreamExt;
use std::{cmp::Reverse, collections::VecDeque, time::Duration};
use tracing::warn;

impl Run<'_> {
    /// Reads the rows and ends at once those that nothing is to be done for. The rest comes back, the soonest expiry
    /// first; unless there is so much of it that the queue is to spread it.
    pub(super) async fn survey(&mut self) -> Result<Todo, StoreError> {
        let (mut due, mut aside) = (Vec::new(), VecDeque::new());
        let (mut found, mut is_fanned_out) = (false, false);
        let mut pages = self.services.store.candidates(&self.request.selection);
        while let Some(page) = pages.next().await {
            for row in page? {
                found = true;
                match row {
                    Ok(candidate) => self.look_at(candidate, &mut due, &mut aside),
                    Err(malformed) => {
                        let message = malformed.to_string();
                        let report = Report::new(malformed.key, Outcome::Failed);
                        self.end(report.because("malformed_row", message));
                    }
                }
            }
            // In parts, so that memory does not grow with the table.
            if self.services.queue.is_some() && due.len() > self.services.settings.fan_out_above {
                is_fanned_out = true;
                self.hand_over(std::mem::take(&mut due)).await;
            }
        }
        self.say_if_nothing_was_found(found);
        if is_fanned_out {
            self.hand_over(due).await;
            return Ok(Todo { aside, ..Todo::default() });
        }
        // An expiry that is absent comes first, as the token may be dead already.
        due.sort_unstable_by_key(|row: &Candidate| Reverse(row.access_expires_at));
        Ok(Todo { due, aside })
    }

    fn look_at(&mut self, candidate: Candidate, due: &mut Vec<Candidate>, aside: &mut VecDeque<Work>) {
        self.warn_of_refresh_token(&candidate);
        match candidate.due(&self.rule) {
            Ok(why) => {
                self.tally.due();
                if self.request.dry_run {
                    self.would_refresh(&candidate, why);
                } else {
                    due.push(candidate);
                }
            }
            Err(Skip::RefreshTokenExpired) if candidate.status == Status::Active && !self.request.dry_run => {
                aside.push_back(Work::MarkExpired(candidate));
            }
            Err(skip) => {
                self.census.count(&candidate);
                self.end(skipped(&candidate, &skip, self.rule.now));
                aside.extend(self.notice(candidate));
            }
        }
    }

    /// The warning that is to be published of a row's refresh token, if one is.
    pub(super) fn notice(&self, candidate: Candidate) -> Option<Work> {
        let is_wanted = self.services.bus.is_some() && !self.request.dry_run;
        let notice = candidate.notice_due(self.rule.now).filter(|_| is_wanted)?;
        Some(Work::Warn(candidate, notice))
    }

    fn say_if_nothing_was_found(&mut self, found: bool) {
        match &self.request.selection {
            Selection::One(key) if !found => {
                let report = Report::new(key.clone(), Outcome::Failed);
                self.end(report.because("not_found", format!("there is no {key} in the table")));
            }
            Selection::Team(team_id) if !found => {
                warn!(run_id = self.id, team_id, "the team has no integration in the table");
            }
            _ => {}
        }
    }

    fn warn_of_refresh_token(&self, candidate: &Candidate) {
        let Some(at) = candidate.known_refresh_expiry() else { return };
        let soon = at.is_within(REFRESH_TOKEN_WARNING, self.rule.now);
        if soon && candidate.status == Status::Active && !candidate.refresh_token_expired(self.rule.now) {
            warn!(
                run_id = self.id,
                team_id = candidate.key.team_id.as_str(),
                integration_id = candidate.key.integration_id.as_str(),
                refresh_token_expires_at = at.0,
                "the refresh token expires within 7 days: the seller must connect again before",
            );
        }
    }

    fn would_refresh(&mut self, candidate: &Candidate, due: Due) {
        if let Some(lease) = candidate.live_lease(self.rule.now) {
            let locked = Skip::Locked(lease.clone());
            return self.end(skipped(candidate, &locked, self.rule.now));
        }
        let message = match candidate.access_expires_at {
            None => "the access token's expiry is missing".to_owned(),
            Some(at) if due == Due::ExpiryNotBelieved => {
                format!("the stored expiry, {}, cannot be true", at.0)
            }
            Some(at) => {
                let seconds = at.seconds_from(self.rule.now);
                let span = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
                if seconds > 0 {
                    format!("the access token expires in {span}")
                } else {
                    format!("the access token expired {span} ago")
                }
            }
        };
        let report = Report::new(candidate.key.clone(), Outcome::WouldRefresh);
        self.end(report.because(due.reason(), message).expiring(candidate.access_expires_at));
    }
}
