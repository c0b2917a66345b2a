//! Marking: no row is marked without proof that the question was put to TikTok with the right credentials.

use super::{
    Run,
    app::{App, Asked},
    work_loop::Job,
};
use crate::{
    domain::{circuit_breaker::CallOutcome, proof::Evidence, selection::Selection},
    refresh::Rejected,
};
use std::{collections::VecDeque, time::Duration};

impl Run<'_> {
    /// Records a rejection, which is noted in the row already, and what the row's own access token says `about` an app.
    pub(super) fn record_rejection(
        &mut self,
        mut rejected: Rejected,
        own_token: &Evidence,
        about: &str,
        took: Duration,
        jobs: &mut VecDeque<Job>,
    ) {
        let app_key = rejected.app_key().to_owned();
        let is_forced_one = self.is_forced_one();
        let app = self.app(&app_key);
        rejected.message().clone_into(&mut app.last_error);
        app.breaker.record(CallOutcome::Rejected);
        self.record_evidence(about, own_token, jobs);
        let app = self.app(&app_key);
        match own_token {
            Evidence::Proves(_) => jobs.push_front(Job::ReportLostToken(rejected)),
            Evidence::DeadToken if app.proof.may_mark(&rejected.fingerprint, is_forced_one) => {
                jobs.push_front(Job::Mark(rejected));
            }
            Evidence::DeadToken => app.undecided.push(rejected),
            Evidence::Disproves(_) if about == app_key => app.undecided.push(rejected),
            // Nobody knows whether the access token works, so this run does not mark the row.
            Evidence::Disproves(_) | Evidence::Nothing => {
                rejected.may_have_live_token = true;
                app.undecided.push(rejected);
            }
            Evidence::OutOfTime => self.end_after(rejected.report_noted(), took),
        }
    }

    /// Records what an app's witnesses say.
    pub(super) fn record_witnesses(&mut self, app_key: &str, evidence: &Evidence, jobs: &mut VecDeque<Job>) {
        self.app(app_key).witnesses.state =
            if *evidence == Evidence::OutOfTime { Asked::OutOfTime } else { Asked::Yes };
        self.record_evidence(app_key, evidence, jobs);
    }

    /// Records evidence of an app's credentials. With proof, the rejections before were about the sellers.
    pub(super) fn record_evidence(&mut self, app_key: &str, evidence: &Evidence, jobs: &mut VecDeque<Job>) {
        let in_use = self.refresher.app_by_key(Some(app_key)).map(|app| app.fingerprint());
        let app = self.app(app_key);
        app.proof.record(evidence);
        match evidence {
            Evidence::Proves(proved) if in_use.as_ref() == Some(proved) => app.breaker.prove(),
            Evidence::Disproves(answer) => {
                app.breaker.disprove();
                app.last_error.clone_from(answer);
            }
            // Proof of credentials that are no longer in use says nothing of those that are.
            Evidence::Proves(_) | Evidence::DeadToken | Evidence::Nothing | Evidence::OutOfTime => {}
        }
        let App { undecided, proof, .. } = app;
        let (proved, undecided_still): (Vec<_>, Vec<_>) =
            undecided.drain(..).partition(|rejected| proof.proves(&rejected.fingerprint));
        *undecided = undecided_still;
        for rejected in proved {
            jobs.push_front(Job::Mark(rejected));
        }
    }

    /// Decides about the undecided rows of each app whose refreshes are all done. Asks the app's witnesses first, or as soon as
    /// there is a mass rejection.
    pub(super) fn judge_apps(&mut self, jobs: &mut VecDeque<Job>) {
        let (is_full_scan, is_forced_one) = (self.is_full_scan, self.is_forced_one());
        let mut unmarked = Vec::new();
        for (app_key, app) in &mut self.apps {
            let is_done = app.unfinished == 0 && !app.undecided.is_empty();
            if app.witnesses.state == Asked::No && (is_done || app.breaker.has_mass_rejection()) {
                let witnesses = app.witnesses.except(&app.undecided);
                app.witnesses.state = if witnesses.is_empty() { Asked::Yes } else { Asked::Pending };
                if !witnesses.is_empty() {
                    jobs.push_front(Job::AskWitnesses(app_key.clone(), witnesses));
                }
            }
            if app.undecided.is_empty() || app.unfinished > 0 || app.witnesses.state == Asked::Pending {
                continue;
            }
            let is_exempt = is_forced_one || (app.undecided.len() == 1 && app.has_only_one(is_full_scan));
            for rejected in std::mem::take(&mut app.undecided) {
                if app.proof.may_mark(&rejected.fingerprint, is_exempt) {
                    jobs.push_front(Job::Mark(rejected));
                } else if app.witnesses.state == Asked::OutOfTime && app.proof.disproved().is_none() {
                    unmarked.push(rejected.report_noted());
                } else {
                    app.suspects.push(rejected.key().clone());
                    unmarked.push(rejected.report_suspicion());
                }
            }
        }
        for report in unmarked {
            self.end(report);
        }
    }

    /// An operator who forces a single integration has looked at it, so its mark needs no proof of the credentials.
    fn is_forced_one(&self) -> bool {
        self.request.force && matches!(self.request.selection, Selection::One(_))
    }
}
