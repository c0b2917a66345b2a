//! Proof that an app's credentials are right. No row is marked without it. TikTok gives the same answer if the app is wrong and
//! if the seller has revoked the authorization, so a rejection alone proves nothing.

use crate::domain::secret::Fingerprint;
use std::fmt;

/// What a call with an access token proves about the credentials that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// TikTok accepted the token and the signature.
    Proves(Fingerprint),
    /// TikTok refused the signature or the app. Contains TikTok's answer.
    Disproves(String),
    /// The token does not work, which proves nothing about the credentials.
    DeadToken,
    /// The answer proves nothing: a time-out, HTTP 429, a seller under review.
    Nothing,
    /// There was no time to call.
    OutOfTime,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proves(_) => f.write_str("it proves that the app's credentials are right"),
            Self::Disproves(answer) => write!(f, "it shows that the app's credentials are wrong: {answer}"),
            Self::DeadToken | Self::Nothing | Self::OutOfTime => f.write_str("it proves nothing"),
        }
    }
}

/// What a run, or a message, knows about one app's credentials.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    proved: Vec<Fingerprint>,
    disproved: Option<String>,
}

impl Proof {
    /// Records evidence.
    pub fn record(&mut self, evidence: &Evidence) {
        match evidence {
            Evidence::Proves(fingerprint) if !self.proved.contains(fingerprint) => {
                self.proved.push(fingerprint.clone());
            }
            Evidence::Disproves(answer) => self.disproved = Some(answer.clone()),
            Evidence::Proves(_) | Evidence::DeadToken | Evidence::Nothing | Evidence::OutOfTime => {}
        }
    }

    /// TikTok's answer, if the credentials are disproved.
    pub fn disproved(&self) -> Option<&str> {
        self.disproved.as_deref()
    }

    /// Whether exactly these credentials are proved. Proof of one secret does not cover another secret of the same app.
    pub fn proves(&self, fingerprint: &Fingerprint) -> bool {
        self.disproved.is_none() && self.proved.contains(fingerprint)
    }

    /// Whether a row that TikTok rejected under these credentials may be marked. A row that `is_exempt` needs no proof. If the
    /// credentials are disproved, no row may be marked.
    pub fn may_mark(&self, fingerprint: &Fingerprint, is_exempt: bool) -> bool {
        self.disproved.is_none() && (is_exempt || self.proved.contains(fingerprint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(text: &str) -> Fingerprint {
        Fingerprint(text.into())
    }

    #[test]
    fn a_row_is_marked_only_by_proof_for_the_very_credentials_that_rejected_it() {
        let mut proof = Proof::default();
        assert!(!proof.may_mark(&fingerprint("a"), false));
        proof.record(&Evidence::Proves(fingerprint("a")));
        assert!(proof.may_mark(&fingerprint("a"), false) && !proof.may_mark(&fingerprint("b"), false));
    }

    #[test]
    fn a_dead_token_a_time_out_and_no_time_are_no_evidence() {
        let mut proof = Proof::default();
        for evidence in [Evidence::DeadToken, Evidence::Nothing, Evidence::OutOfTime] {
            proof.record(&evidence);
        }
        assert!(!proof.may_mark(&fingerprint("a"), false) && proof.disproved().is_none());
        assert!(proof.may_mark(&fingerprint("a"), true), "the exceptions need no proof");
    }

    #[test]
    fn disproved_credentials_mark_nobody() {
        let mut proof = Proof::default();
        proof.record(&Evidence::Proves(fingerprint("a")));
        proof.record(&Evidence::Disproves("bad sign".into()));
        assert!(!proof.may_mark(&fingerprint("a"), false) && !proof.may_mark(&fingerprint("a"), true));
        assert_eq!(proof.disproved(), Some("bad sign"));
    }
}
