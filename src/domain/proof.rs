//! Proof that an app's credentials are right: no row is marked without it. TikTok answers a wrong app as it answers a seller who
//! has revoked the authorization, so a rejection alone says nothing.

use crate::domain::secret::Fingerprint;
use std::fmt;

/// What a call with an access token says of the credentials that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// TikTok accepted the token and the signature.
    Proves(Fingerprint),
    /// TikTok refused the signature or the app; TikTok's answer.
    Disproves(String),
    /// The token is dead: that says nothing of the credentials.
    DeadToken,
    /// A time-out, a 429, a seller under review: nothing.
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

/// What one run, or one message, knows of one app's credentials.
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

    /// Whether these very credentials are proved: another secret of the same app is not.
    pub fn proves(&self, fingerprint: &Fingerprint) -> bool {
        self.disproved.is_none() && self.proved.contains(fingerprint)
    }

    /// Whether a row that TikTok rejected under these credentials may be marked. `is_exempt` rows need no proof, but disproved
    /// credentials mark nobody.
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
