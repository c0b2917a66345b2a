//! Which app credentials TikTok has just refused.

use crate::domain::{
    ensure::{Answer, REPEAT_MISCONFIGURED},
    integration::Integration,
    secret::Fingerprint,
};
use chrono::{DateTime, Utc};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The credentials that TikTok has just refused, in one environment. Many callers must not ask TikTok about them again and again.
#[derive(Debug, Default)]
pub struct RefusedCredentials(Mutex<BTreeMap<Fingerprint, (DateTime<Utc>, Answer)>>);

impl RefusedCredentials {
    /// Remembers that TikTok refused these credentials at `now`.
    pub fn remember(&self, refused: Fingerprint, answer: &Answer, now: DateTime<Utc>) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, (at, _)| (now - *at).num_seconds() < REPEAT_MISCONFIGURED);
        answers.insert(refused, (now, answer.clone()));
    }

    /// The answer for a row under these credentials, if TikTok refused them less than 30 s ago.
    pub fn answer(&self, in_use: &Fingerprint, row: &Integration, now: DateTime<Utc>) -> Option<Answer> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = answers.get(in_use)?;
        let ago = (now - *at).num_seconds();
        let answer = Answer { access_token_expires_at: row.candidate.access_expires_at, ..answer.clone() };
        (0..REPEAT_MISCONFIGURED).contains(&ago).then(|| answer.retry_after(REPEAT_MISCONFIGURED - ago))
    }
}
