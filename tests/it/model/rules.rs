//! What the protocol says: each conditional write, and the judgement of a row that is not as expected. A conditional write is
//! one step, as it is in DynamoDB. A [`Flaw`] leaves one rule out.

use super::{
    NOT_TAKEN_OVER, PAIR_IN_HAND_KEPT, PAUSE_STAYS, SUPERSEDED_BY_ANOTHER,
    events::Protocol,
    state::{
        Connect, ConnectOutcome, Generation, Lease, Leased, Outcome, PendingConnect, PendingSave, Request,
        Row, State, Status, Step,
    },
};

/// A rule that is left out or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    AcquireLeased,
    MarkAnyToken,
    MarkUnknownOutcome,
    ReleaseAnyLease,

    /// The rules of version 0.1: no `authorization_id`, and a conflict is resolved by the expiry.
    ExpiryAlone,
    /// The save's condition is that the lease is still the attempt's own, and nothing else.
    SaveUnderLeaseOnly,
    SaveIgnoresAccessToken,
    SaveIgnoresStatus,
    SaveIgnoresAuthorizationId,

    /// Conflict resolution without step a.
    OwnPairNotRecognized,
    /// Without step b.
    SentTokenNotRecognized,
    /// Step b also if the refresh token in hand is the one that was sent.
    ReusableTokenRecognized,
    /// Step c before step b.
    AuthorizationBeforeSentToken,
    /// Without step c.
    AuthorizationNotRecognized,
    /// Step c without one of its comparisons.
    AuthorizationIdNotCompared,
    OpenIdNotCompared,
    AppKeyNotCompared,
    /// Step c compares the seller with the row as it was leased, not with TikTok's response.
    OpenIdOfResponseIgnored,
    /// Step c also if only one side has the attribute.
    AbsentOpenIdDiffers,
    AbsentAppKeyDiffers,
    /// Step d: any other pair wins.
    EarlierPairWins,
    /// Step d: the pair in hand always wins.
    LaterPairLoses,
    /// Without step e.
    DeletedIsRecreated,
    SupersededKeepsLease,

    /// A rescue message is judged without the generation that it holds.
    MessageIgnoresGeneration,
    /// A legacy rescue message is judged as if the row had had no `authorization_id`.
    LegacyMessageHasNoAuthorization,

    ConnectIgnoresAuthorizationId,
    ConnectIgnoresOpenId,
    ConnectIgnoresStatus,
    /// A connect expects an attribute only if the row that it read has one: the rule of version 0.1.
    ConnectIgnoresAbsence,
    /// A connect judges the row that it read, and writes over whatever the row has become.
    ConnectJudgesOnce,
    ConnectKeepsAuthorizationId,
    /// What TikTok's response lacks stays.
    ConnectKeepsOpenId,
    /// The row's `app_key` stays.
    ConnectKeepsAppKey,
    /// A connect recognizes its own write by the token pair.
    ConnectRecognizesPair,
}

/// What to do about a row that is not as a save expected it.
#[derive(Clone, Copy)]
enum Resolution {
    OursIsStored,
    GiveWay,
    WriteAgain,
}

impl Protocol {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// A condition of a write, unless a flaw leaves it out.
    fn requires(&self, condition: bool, unless: Flaw) -> bool {
        condition || self.has(unless)
    }

    pub fn acquire(&self, state: &mut State, at: usize) -> Option<()> {
        let row = state.row.as_mut().filter(|row| row.status == Status::Active && row.is_due)?;
        let is_free = row.lease.is_none_or(|lease| lease.has_expired);
        self.requires(is_free, Flaw::AcquireLeased).then_some(())?;
        row.lease = Some(Lease { owner: at, has_expired: false });
        state.attempts[at].step = Step::Calling { leased: row.leased(), is_retry: false };
        Some(())
    }

    pub fn release(&self, state: &mut State, at: usize) {
        let is_own = |lease: &Lease| self.requires(lease.owner == at, Flaw::ReleaseAnyLease);
        if let Some(row) = &mut state.row {
            row.lease = row.lease.filter(|lease| !is_own(lease));
        }
    }

    /// The attempt does not know what TikTok did: it calls once more, and then lets its lease expire.
    pub fn retry_once(&self, state: &mut State, at: usize, leased: Leased, is_retry: bool) {
        match is_retry {
            false => state.attempts[at].step = Step::Calling { leased, is_retry: true },
            true if self.has(Flaw::MarkUnknownOutcome) => state.attempts[at].step = Step::Rejected { leased },
            true => state.end(at, Outcome::Other),
        }
    }

    pub fn mark(&self, state: &mut State, at: usize, leased: Leased) {
        let is_rejected = |row: &&mut Row| {
            row.lease.is_some_and(|lease| lease.owner == at)
                && self.requires(row.pair.refresh == leased.pair.refresh, Flaw::MarkAnyToken)
                && row.status == Status::Active
        };
        if let Some(row) = state.row.as_mut().filter(is_rejected) {
            (row.status, row.lease) = (Status::Error, None);
            state.end(at, Outcome::Marked);
        } else {
            self.release(state, at);
            state.end(at, Outcome::Other);
        }
    }

    /// A rescue message: what the attempt knew when TikTok's response arrived.
    pub fn message(&self, state: &State, save: PendingSave) -> PendingSave {
        let mut leased = save.leased;
        if self.has(Flaw::MessageIgnoresGeneration) {
            leased.generation = Generation::Unknown;
        }
        PendingSave::new(save.pair, state.tiktok.granted_by(save.pair), leased)
    }

    /// One conditional write of a pair in hand and, if its condition fails, the judgement of the row that comes back. `None`:
    /// write again. `attempt` is the one that saves, if it is not the rescue queue.
    pub fn save(&self, state: &mut State, attempt: Option<usize>, save: &mut PendingSave) -> Option<Outcome> {
        let Some(row) = &mut state.row else {
            if self.has(Flaw::DeletedIsRecreated) {
                state.row = Some(save.new_row());
            }
            return Some(Outcome::Deleted); // e
        };
        if self.is_as_expected(row, attempt, save) {
            let before = row.status;
            row.pair = save.pair;
            row.open_id = save.open_id.or(row.open_id);
            row.app_key = save.app_key.or(row.app_key);
            if save.expected.is_some_and(|expected| expected.status == Status::Error) {
                row.status = Status::Active;
            }
            (row.is_due, row.lease) = (false, None);
            if before == Status::Paused && row.status != Status::Paused {
                state.violates(PAUSE_STAYS);
            }
            return Some(Outcome::Saved);
        }
        match self.resolve_conflict(row, save) {
            Resolution::OursIsStored => Some(Outcome::Saved),
            Resolution::GiveWay => {
                let sent = save.leased.pair.refresh;
                if row.pair == save.pair {
                    state.violates(SUPERSEDED_BY_ANOTHER);
                } else if row.pair.refresh == sent && save.pair.refresh != sent {
                    state.violates(PAIR_IN_HAND_KEPT);
                }
                if let Some(at) = attempt.filter(|_| !self.has(Flaw::SupersededKeepsLease)) {
                    self.release(state, at);
                }
                Some(Outcome::Superseded)
            }
            Resolution::WriteAgain => {
                save.expected = Some(row.expected());
                None
            }
        }
    }

    /// The save's condition: what was read with the lease, or what the last judgement saw. Not the lease.
    fn is_as_expected(&self, row: &Row, attempt: Option<usize>, save: &PendingSave) -> bool {
        if self.has(Flaw::SaveUnderLeaseOnly) {
            return row.lease.is_some_and(|lease| Some(lease.owner) == attempt);
        }
        save.expected.is_some_and(|expected| {
            let is_same_id = row.authorization_id == expected.authorization_id;
            row.pair.refresh == expected.pair.refresh
                // A reusable refresh token cannot tell whether another pair was stored meanwhile.
                && self.requires(row.pair.access == expected.pair.access, Flaw::SaveIgnoresAccessToken)
                && self.requires(row.status == expected.status, Flaw::SaveIgnoresStatus)
                && self.requires(is_same_id || self.has(Flaw::ExpiryAlone), Flaw::SaveIgnoresAuthorizationId)
        })
    }

    /// Decides between a pair in hand and the row as it is now.
    fn resolve_conflict(&self, row: &Row, save: &PendingSave) -> Resolution {
        let sent = save.leased.pair.refresh;
        let is_rotated = self.requires(save.pair.refresh != sent, Flaw::ReusableTokenRecognized);
        let is_later = match self.flaw {
            Some(Flaw::EarlierPairWins) => true,
            Some(Flaw::LaterPairLoses) => false,
            _ => row.pair.expires_at >= save.pair.expires_at,
        };

        // The row holds our pair.
        let a = (row.pair == save.pair).then_some(Resolution::OursIsStored);
        // It still holds the token that we sent, and ours differs: nobody else has redeemed it.
        let b = (row.pair.refresh == sent && is_rotated).then_some(Resolution::WriteAgain);
        // It holds another authorization, which is newer: ours was read with the lease.
        let c = self.is_another_authorization(row, save).then_some(Resolution::GiveWay);
        // The live pair is that of the last redemption.
        let d = Some(if is_later { Resolution::GiveWay } else { Resolution::WriteAgain });

        let steps = match self.flaw {
            Some(Flaw::SaveUnderLeaseOnly) => [a, Some(Resolution::GiveWay), None, None],
            Some(Flaw::OwnPairNotRecognized) => [b, c, d, None],
            Some(Flaw::SentTokenNotRecognized) => [a, c, d, None],
            Some(Flaw::AuthorizationBeforeSentToken) => [a, c, b, d],
            Some(Flaw::AuthorizationNotRecognized | Flaw::ExpiryAlone) => [a, b, d, None],
            _ => [a, b, c, d],
        };
        steps.into_iter().flatten().next().unwrap_or(Resolution::WriteAgain)
    }

    /// Whether the row holds another authorization than the pair in hand: another generation, or another seller or app where
    /// both sides name one.
    fn is_another_authorization(&self, row: &Row, save: &PendingSave) -> bool {
        let other_generation = match save.leased.generation {
            Generation::Known(id) => row.authorization_id != id,
            Generation::Unknown => {
                self.has(Flaw::LegacyMessageHasNoAuthorization) && row.authorization_id.is_some()
            }
        };
        let other_seller = match self.flaw {
            Some(Flaw::AbsentOpenIdDiffers) => row.open_id != save.leased.open_id,
            Some(Flaw::OpenIdOfResponseIgnored) => differ(row.open_id, save.leased.open_id),
            _ => differ(row.open_id, save.open_id),
        };
        let other_app = match self.flaw {
            Some(Flaw::AbsentAppKeyDiffers) => row.app_key != save.leased.app_key,
            _ => differ(row.app_key, save.app_key),
        };
        other_generation && !self.has(Flaw::AuthorizationIdNotCompared)
            || other_seller && !self.has(Flaw::OpenIdNotCompared)
            || other_app && !self.has(Flaw::AppKeyNotCompared)
    }

    /// A connect reads the row.
    pub fn begin_connect(state: &mut State, at: usize, request: Request) {
        let before = state.row.map(|row| state.tiktok.authorization_of(row.pair));
        state.connects[at] = Connect::Exchanging { request, seen: state.row.map(|row| row.seen()), before };
    }

    /// One conditional write of a new authorization, if the row as it was seen allows it. If the condition fails, the row is
    /// judged again.
    pub fn store(&self, state: &mut State, at: usize, mut connect: PendingConnect) {
        let is_stored = state.row.is_some_and(|row| match self.flaw {
            Some(Flaw::ConnectRecognizesPair) => row.pair == connect.pair,
            _ => row.authorization_id == Some(connect.id),
        });
        let is_as_seen = match (&state.row, connect.seen) {
            (None, None) => true,
            (Some(row), Some(seen)) => {
                let ignores_absence = self.has(Flaw::ConnectIgnoresAbsence);
                let is_same_id = row.authorization_id == seen.authorization_id
                    || ignores_absence && seen.authorization_id.is_none();
                let is_same_seller = row.open_id == seen.open_id || ignores_absence && seen.open_id.is_none();
                self.requires(is_same_id, Flaw::ConnectIgnoresAuthorizationId)
                    && self.requires(is_same_seller, Flaw::ConnectIgnoresOpenId)
                    && self.requires(row.status == seen.status, Flaw::ConnectIgnoresStatus)
            }
            _ => false,
        };
        state.connects[at] = if is_stored {
            // Its own write, whose response was lost.
            Connect::Ended(ConnectOutcome::Stored)
        } else if !Self::may_connect(&connect) {
            Connect::Ended(ConnectOutcome::Refused)
        } else if self.requires(is_as_seen, Flaw::ConnectJudgesOnce) {
            self.write_authorization(state, &connect);
            Connect::Ended(ConnectOutcome::Stored)
        } else {
            connect.seen = state.row.map(|row| row.seen());
            Connect::Storing(connect)
        };
    }

    /// A row of a known seller is taken over only with `replace`. A row without a known seller goes to the first connect that
    /// writes it.
    fn may_connect(connect: &PendingConnect) -> bool {
        let Some(seen) = connect.seen else { return true };
        connect.request.is_replace
            || match seen.open_id {
                None => seen.authorization_id == connect.first_id,
                known => known == connect.open_id(),
            }
    }

    /// Replaces every credential attribute, and removes the lease.
    fn write_authorization(&self, state: &mut State, connect: &PendingConnect) {
        let old = state.row;
        let kept_by = |flaw| old.filter(|_| self.has(flaw));
        let is_paused = |row: Row| row.status == Status::Paused;
        let row = Row {
            pair: connect.pair,
            status: match connect.seen {
                Some(seen) if seen.status == Status::Paused => Status::Paused,
                _ => Status::Active,
            },
            authorization_id: kept_by(Flaw::ConnectKeepsAuthorizationId)
                .map_or(Some(connect.id), |old| old.authorization_id),
            open_id: connect.open_id().or(kept_by(Flaw::ConnectKeepsOpenId).and_then(|old| old.open_id)),
            app_key: kept_by(Flaw::ConnectKeepsAppKey).map_or(Some(connect.app_key), |old| old.app_key),
            // A short-lived access token is due at once.
            is_due: true,
            lease: None,
        };
        if !connect.request.is_replace && old.is_some_and(|old| takes_over(state, &old, connect)) {
            state.violates(NOT_TAKEN_OVER);
        }
        if old.is_some_and(is_paused) && !is_paused(row) {
            state.violates(PAUSE_STAYS);
        }
        (state.row, state.is_deleted, state.newest) = (Some(row), false, connect.id);
    }
}

/// Whether both are known and differ.
fn differ<T: Copy + PartialEq>(theirs: Option<T>, ours: Option<T>) -> bool {
    theirs.is_some() && ours.is_some() && theirs != ours
}

/// Whether a connect writes over another seller: one whom the row names, or one who was connected since this connect began.
fn takes_over(state: &State, old: &Row, connect: &PendingConnect) -> bool {
    let is_new = Some(state.tiktok.authorization_of(old.pair)) != connect.before;
    let (seller, _) = state.tiktok.granted_by(old.pair);
    old.open_id.is_some() && old.open_id != connect.open_id() || is_new && seller != connect.request.seller
}
