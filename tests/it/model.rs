//! An exhaustive model of one integration's refresh: a row, a provider, a few attempts at it, a rescue queue, and
//! whatever may go wrong between them, in every order. It stands for `store::Table::acquire` and `change`, and for
//! `refresh::Refresher::acquire`, `call` (asking once more after a lost answer), `save` with `judge` and `saving`,
//! `settle` and `mark`; each conditional write is one step, as it is in DynamoDB. A pair's number is its expiry, and
//! so the fencing number; a token bears the number of the pair that first held it.
//!
//! Left out: real time (a lease runs out, a row falls due, in one step), forced runs, a stored expiry that is not to
//! be believed, a seller's identity, a status of the user's own, absent or garbled attributes, answers that name no
//! refresh token, the breakers (a rejection is always marked), the lost answers of other writes than the save, the
//! limit on a save's rounds, and the pure notes of a failure.

use Event::{
    Acquire, Busy, Crash, Delete, FallDue, GiveUp, LeaseEnds, LoseAnswer, LoseCall, LoseSave, Mark,
    Reconnect, Redeliver, RefuseSave, Replace, Rescue, Response, Revoke, RunOut, Save,
};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

const NOTHING_DROPPED: &str = "no answer of TikTok is dropped while a place to put it remains";
const LIVE_PAIR_KEPT: &str = "the live pair is lost only with its holder's crash or TikTok's lost answer";
const ONE_LIVE_CALL: &str = "never two live calls with one token within a lease";
const MARKED_FOR_CAUSE: &str = "a marked row had a definite rejection of the token it still holds";

/// What a row or an answer of TikTok's holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    refresh: u8,
    access: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lease {
    owner: usize,
    ran_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    pair: Pair,
    /// `error` rather than `active`.
    marked: bool,
    due: bool,
    lease: Option<Lease>,
}

/// A pair in hand, and what its save goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InHand {
    pair: Pair,
    /// The row when its lease was taken.
    leased: Pair,
    /// The pair and the mark that the next write expects.
    seen: (Pair, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Has not begun.
    Idle,
    /// Holds a lease and asks TikTok with the token of this row, for the second time if `again`.
    Asking { leased: Pair, again: bool },
    /// Holds an answer. It is `put` once it lies in the row or in the queue.
    Saving { save: InHand, put: bool },
    /// Holds a definite rejection.
    Rejected { leased: Pair },
    /// Has ended, well or badly.
    Over(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Saved,
    Superseded,
    Deleted,
    Marked,
    /// Crashed, gave up, or let the lease go: nothing that a property asks after.
    Other,
}

/// One attempt, with a lease of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    step: Step,
    /// Its lease ran out while it went on.
    overdue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Message {
    None,
    Waiting(InHand),
    /// Taken off the queue, and what came of it.
    Taken(End),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// None once it is deleted.
    row: Option<Row>,
    attempts: Vec<Attempt>,
    /// The rescue queue: what each attempt has put there.
    queue: Vec<Message>,
    /// The number of the pair that TikTok handed out last.
    issued: u8,
    /// The refresh tokens that TikTok takes: a set of bits, like those below.
    live: u8,
    /// The tokens that it rejected.
    rejected: u8,
    /// The pairs that nobody could put anywhere: the answer was lost, or its holder crashed with it.
    excused: u8,
    faults_left: u8,
}

/// What may happen, mostly to one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    Acquire,
    Response,
    Save,
    Mark,
    Rescue,
    /// The invocation ends before the table takes the pair, which is in the queue.
    GiveUp,
    /// A lease runs out whose holder is gone.
    LeaseEnds,
    /// The row falls due again, long after every lease of now.
    FallDue,

    Crash,
    /// A lease runs out in flight: a zombie, or clocks that lie apart.
    RunOut,
    /// TikTok acts, and its answer is lost.
    LoseAnswer,
    /// TikTok never sees the request, and the attempt cannot tell.
    LoseCall,
    /// TikTok says that it has not acted.
    Busy,
    /// The save is written, and DynamoDB's answer is lost.
    LoseSave,
    /// DynamoDB refuses a save, so that the pair goes to the queue too.
    RefuseSave,
    /// A message that was dealt with comes again.
    Redeliver,
    /// The user connects the seller again, and the old token stays good.
    Reconnect,
    /// The user connects the seller again, which ends the old token.
    Replace,
    /// The seller disconnects the app.
    Revoke,
    Delete,
}

const USUAL: [Event; 8] = [Acquire, Response, Save, Mark, Rescue, GiveUp, LeaseEnds, FallDue];
const FAULTS: [Event; 12] = [
    Crash, RunOut, LoseAnswer, LoseCall, Busy, LoseSave, RefuseSave, Redeliver, Reconnect, Replace, Revoke,
    Delete,
];

/// A rule that is tempting to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// Saves only while the lease is its own.
    SaveUnderLeaseOnly,
    /// Saves over whatever is stored, once it has seen it.
    SaveOverLaterPair,
    /// Expects no more than the refresh token it has seen, where it brings another.
    SaveByTokenAlone,
    /// Saves into a row that was marked meanwhile without looking at the mark.
    SaveUnderMark,
    /// Marks a row without looking whether its token is still the one that was sent.
    MarkAnyToken,
    /// Takes a second lost answer for a rejection.
    MarkUnknown,
    /// Releases whatever lease is there.
    ReleaseAny,
    /// Takes a row under a live lease.
    AcquireLeased,
}

#[derive(Clone, Debug)]
struct Refresh {
    attempts: usize,
    /// A refresh token dies when it is used.
    single_use: bool,
    /// What may go wrong or come from outside, `faults` times in all.
    allowed: &'static [Event],
    faults: u8,
    flaw: Option<Flaw>,
}

fn bit(number: u8) -> u8 {
    1 << number
}

impl InHand {
    fn new(pair: Pair, leased: Pair) -> Self {
        Self { pair, leased, seen: (leased, false) }
    }
}

impl State {
    fn in_flight(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| !matches!(attempt.step, Step::Idle | Step::Over(_)))
    }

    /// Nothing is under way.
    fn at_rest(&self) -> bool {
        self.in_flight().next().is_none() && !self.queue.iter().any(|m| matches!(m, Message::Waiting(_)))
    }

    fn ended(&self, end: End) -> bool {
        self.attempts.iter().any(|attempt| attempt.step == Step::Over(end))
    }

    fn finish(&mut self, at: usize, end: End) {
        self.attempts[at] = Attempt { step: Step::Over(end), overdue: false };
    }

    fn put(&mut self, at: usize) {
        if let Step::Saving { put, .. } = &mut self.attempts[at].step {
            *put = true;
        }
    }

    /// TikTok acts on a request: a pair, or a definite rejection.
    fn redeem(&mut self, token: u8, single_use: bool) -> Option<Pair> {
        if self.live & bit(token) == 0 {
            self.rejected |= bit(token);
            return None;
        }
        self.issued += 1;
        if single_use {
            // The live pair is the last redemption.
            self.live = bit(self.issued);
        }
        Some(Pair { refresh: if single_use { self.issued } else { token }, access: self.issued })
    }
}

impl Refresh {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn acquire(&self, state: &mut State, at: usize) -> Option<()> {
        let row = state.row.as_mut()?;
        let free = row.lease.is_none_or(|lease| lease.ran_out) || self.has(Flaw::AcquireLeased);
        // Attempts that have not begun are all alike, so they begin in order.
        let next = state.attempts.iter().position(|attempt| attempt.step == Step::Idle) == Some(at);
        if row.marked || !row.due || !free || !next {
            return None;
        }
        row.lease = Some(Lease { owner: at, ran_out: false });
        state.attempts[at].step = Step::Asking { leased: row.pair, again: false };
        Some(())
    }

    fn release(&self, state: &mut State, at: usize) {
        if let Some(row) = &mut state.row
            && (row.lease.is_some_and(|lease| lease.owner == at) || self.has(Flaw::ReleaseAny))
        {
            row.lease = None;
        }
    }

    /// One conditional write and, if it does not fit, the look at the row that comes back. None: write again.
    fn write(&self, row: &mut Option<Row>, at: usize, save: &mut InHand) -> Option<End> {
        let Some(row) = row else { return Some(End::Deleted) };
        let (seen, marked) = save.seen;
        // A reusable token alone cannot tell whether another pair was stored meanwhile.
        let same_pair = row.pair == seen
            || self.has(Flaw::SaveByTokenAlone)
                && row.pair.refresh == seen.refresh
                && save.pair.refresh != seen.refresh;
        let fits = if self.has(Flaw::SaveUnderLeaseOnly) {
            row.lease.is_some_and(|lease| lease.owner == at)
        } else {
            same_pair && (row.marked == marked || self.has(Flaw::SaveUnderMark) && !marked)
        };
        if fits {
            *row = Row { pair: save.pair, marked: row.marked && !marked, due: false, lease: None };
        }
        if row.pair == save.pair {
            return Some(End::Saved);
        }
        if self.has(Flaw::SaveUnderLeaseOnly) {
            return Some(End::Superseded);
        }
        let rotated = save.pair.refresh != save.leased.refresh;
        let as_leased =
            row.pair.refresh == save.leased.refresh && (rotated || row.pair.access == save.leased.access);
        if !as_leased && row.pair.access >= save.pair.access && !self.has(Flaw::SaveOverLaterPair) {
            return Some(End::Superseded);
        }
        save.seen = (row.pair, row.marked);
        None
    }

    /// The attempt does not know what TikTok did: it asks once more, and then leaves the lease to run out.
    fn ambiguous(&self, state: &mut State, at: usize, leased: Pair, again: bool) {
        match again {
            false => state.attempts[at].step = Step::Asking { leased, again: true },
            true if self.has(Flaw::MarkUnknown) => state.attempts[at].step = Step::Rejected { leased },
            true => state.finish(at, End::Other),
        }
    }

    fn mark(&self, state: &mut State, at: usize, leased: Pair) {
        let fits = |row: &&mut Row| {
            row.lease.is_some_and(|lease| lease.owner == at)
                && (row.pair.refresh == leased.refresh || self.has(Flaw::MarkAnyToken))
                && !row.marked
        };
        if let Some(row) = state.row.as_mut().filter(fits) {
            (row.marked, row.lease) = (true, None);
            state.finish(at, End::Marked);
        } else {
            self.release(state, at);
            state.finish(at, End::Other);
        }
    }

    fn go_on(&self, state: &mut State, event: Event, at: usize) -> Option<()> {
        match (event, state.attempts[at].step) {
            (Acquire, Step::Idle) => self.acquire(state, at)?,
            (Response, Step::Asking { leased, .. }) => {
                state.attempts[at].step = match state.redeem(leased.refresh, self.single_use) {
                    Some(pair) => Step::Saving { save: InHand::new(pair, leased), put: false },
                    None => Step::Rejected { leased },
                };
            }
            (Save, Step::Saving { mut save, put }) => match self.write(&mut state.row, at, &mut save) {
                Some(end) => state.finish(at, end),
                None => state.attempts[at].step = Step::Saving { save, put },
            },
            (Mark, Step::Rejected { leased }) => self.mark(state, at, leased),
            (Rescue, _) => {
                let Message::Waiting(mut save) = state.queue[at] else { return None };
                let end = self.write(&mut state.row, at, &mut save);
                state.queue[at] = end.map_or(Message::Waiting(save), Message::Taken);
            }
            (GiveUp, Step::Saving { put: true, .. }) => state.finish(at, End::Other),
            (LeaseEnds, Step::Over(_)) => {
                let lease = state.row.as_mut()?.lease.as_mut();
                lease.filter(|lease| lease.owner == at && !lease.ran_out)?.ran_out = true;
            }
            (FallDue, _) if at == 0 && state.in_flight().all(|attempt| attempt.overdue) => {
                let row = state.row.as_mut().filter(|row| !row.due)?;
                row.due = true;
                row.lease = row.lease.map(|lease| Lease { ran_out: true, ..lease });
            }
            _ => return None,
        }
        Some(())
    }

    fn go_wrong(&self, state: &mut State, event: Event, at: usize) -> Option<()> {
        state.faults_left = state.faults_left.checked_sub(1)?;
        let Attempt { step, overdue } = state.attempts[at];
        let in_flight = !matches!(step, Step::Idle | Step::Over(_));
        match (event, step) {
            (Crash, _) if in_flight => {
                if let Step::Saving { save, put: false } = step {
                    state.excused |= bit(save.pair.access);
                }
                state.finish(at, End::Other);
            }
            (RunOut, _) if in_flight && !overdue => {
                state.attempts[at].overdue = true;
                if let Some(lease) = state.row.as_mut()?.lease.as_mut().filter(|lease| lease.owner == at) {
                    lease.ran_out = true;
                }
            }
            (LoseAnswer, Step::Asking { leased, again }) => {
                if let Some(pair) = state.redeem(leased.refresh, self.single_use) {
                    state.excused |= bit(pair.access);
                }
                self.ambiguous(state, at, leased, again);
            }
            (LoseCall, Step::Asking { leased, again }) => self.ambiguous(state, at, leased, again),
            (Busy, Step::Asking { again, .. }) => {
                // The second time it says nothing about the first, whose outcome stays unknown.
                if !again {
                    self.release(state, at);
                }
                state.finish(at, End::Other);
            }
            (LoseSave, Step::Saving { mut save, .. }) => {
                (self.write(&mut state.row, at, &mut save)? == End::Saved).then(|| state.put(at))?;
            }
            (RefuseSave, Step::Saving { save, .. }) if state.queue[at] == Message::None => {
                // The message holds what the attempt knew when it took the lease.
                state.queue[at] = Message::Waiting(InHand::new(save.pair, save.leased));
                state.put(at);
            }
            (Redeliver, _) => {
                let Message::Waiting(mut save) = state.queue[at] else { return None };
                self.write(&mut state.row, at, &mut save)?;
            }
            (Reconnect | Replace, _) if at == 0 => {
                let row = state.row.as_mut()?;
                state.issued += 1;
                state.live = bit(state.issued) | if event == Replace { 0 } else { state.live };
                let pair = Pair { refresh: state.issued, access: state.issued };
                *row = Row { pair, marked: false, due: false, lease: row.lease };
            }
            (Revoke, _) if at == 0 && state.live != 0 => state.live = 0,
            (Delete, _) if at == 0 => drop(state.row.take()?),
            _ => return None,
        }
        Some(())
    }
}

impl Model for Refresh {
    type State = State;
    type Action = (Event, usize);

    fn init_states(&self) -> Vec<State> {
        let pair = Pair { refresh: 0, access: 0 };
        vec![State {
            row: Some(Row { pair, marked: false, due: true, lease: None }),
            attempts: vec![Attempt { step: Step::Idle, overdue: false }; self.attempts],
            queue: vec![Message::None; self.attempts],
            issued: 0,
            live: bit(0),
            rejected: 0,
            excused: 0,
            faults_left: self.faults,
        }]
    }

    /// All there are: `next_state` says which are possible.
    fn actions(&self, _: &State, actions: &mut Vec<(Event, usize)>) {
        let events = || USUAL.iter().chain(self.allowed);
        actions.extend((0..self.attempts).flat_map(|at| events().map(move |&event| (event, at))));
    }

    fn next_state(&self, before: &State, (event, at): (Event, usize)) -> Option<State> {
        let mut state = before.clone();
        let go = if USUAL.contains(&event) { Self::go_on } else { Self::go_wrong };
        go(self, &mut state, event, at).map(|()| state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NOTHING_DROPPED, |_, state: &State| {
                let owed = (0..=state.issued).rev().find(|&number| state.excused & bit(number) == 0);
                !state.at_rest() || state.row.is_none_or(|row| Some(row.pair.access) >= owed)
            }),
            Property::always(LIVE_PAIR_KEPT, |_, state: &State| {
                let lost = |row: Row| state.live != 0 && state.live & bit(row.pair.refresh) == 0;
                !state.at_rest() || !state.row.is_some_and(lost) || state.excused & bit(state.issued) != 0
            }),
            Property::always(ONE_LIVE_CALL, |_, state: &State| {
                let calls =
                    |attempt: &&Attempt| matches!(attempt.step, Step::Asking { .. }) && !attempt.overdue;
                state.in_flight().filter(calls).count() <= 1
            }),
            Property::always(MARKED_FOR_CAUSE, |_, state: &State| {
                let for_cause = |row: Row| !row.marked || state.rejected & bit(row.pair.refresh) != 0;
                state.row.is_none_or(for_cause)
            }),
        ];
        properties.extend(SIGHTS.map(|(name, seen)| Property::sometimes(name, seen)));
        properties
    }
}

type Sight = (&'static str, fn(&Refresh, &State) -> bool);

/// What must be met, or the model says nothing.
const SIGHTS: [Sight; 9] = [
    ("a refresh succeeds", |model, state| state.ended(End::Saved) && state.faults_left == model.faults),
    ("a second refresh succeeds the next night", |model, state| {
        state.row.is_some_and(|row| row.pair.access == 2) && state.faults_left == model.faults
    }),
    ("a lease runs out in flight", |_, state| state.in_flight().any(|attempt| attempt.overdue)),
    ("a lost answer is asked for once more", |_, state| {
        state.excused != 0
            && state.in_flight().any(|attempt| matches!(attempt.step, Step::Asking { again: true, .. }))
    }),
    ("a pair is superseded", |_, state| state.ended(End::Superseded)),
    ("an answer comes for a deleted row", |_, state| state.ended(End::Deleted)),
    ("a row is marked", |_, state| state.ended(End::Marked)),
    ("a rescue saves", |_, state| {
        state.queue.contains(&Message::Taken(End::Saved)) && !state.ended(End::Saved)
    }),
    ("a saved pair heals a marked row", |_, state| {
        state.ended(End::Marked)
            && state.ended(End::Saved)
            && state.row.is_some_and(|row| !row.marked && row.pair.access == 1)
    }),
];

fn checked(model: Refresh, until: HasDiscoveries) -> impl Checker<Refresh> {
    model.checker().finish_when(until).spawn_bfs().join()
}

/// Checks every order of events, and that there are as many as there should be.
fn promises_are_kept(single_use: bool, at_least: [usize; 2]) {
    for ((attempts, faults), at_least) in [(2, 4), (3, 3)].into_iter().zip(at_least) {
        let model = Refresh { attempts, single_use, allowed: &FAULTS, faults, flaw: None };
        let checked = checked(model, HasDiscoveries::All);
        checked.assert_properties();
        let states = checked.unique_state_count();
        assert!(states >= at_least, "only {states} states");
    }
}

#[test]
fn the_protocol_keeps_its_promises_with_single_use_tokens() {
    promises_are_kept(true, [40_000, 40_000]);
}

#[test]
fn the_protocol_keeps_its_promises_with_reusable_tokens() {
    promises_are_kept(false, [100_000, 100_000]);
}

#[test]
fn the_model_meets_what_it_is_about() {
    for single_use in [true, false] {
        // Two faults are enough for each of them.
        let model = Refresh { attempts: 2, single_use, allowed: &FAULTS, faults: 2, flaw: None };
        let checked = checked(model, HasDiscoveries::All);
        for (name, _) in SIGHTS {
            checked.assert_any_discovery(name);
        }
    }
}

#[test]
fn saving_only_under_the_lease_loses_a_token() {
    let kept = Refresh { attempts: 2, single_use: true, allowed: &[RunOut], faults: 1, flaw: None };
    checked(kept.clone(), HasDiscoveries::All).assert_no_discovery(NOTHING_DROPPED);
    // No crash and no lost answer: one lease that ran out in flight is all it takes.
    let lossy = Refresh { flaw: Some(Flaw::SaveUnderLeaseOnly), ..kept };
    let checked = checked(lossy, HasDiscoveries::All);
    checked.assert_any_discovery(NOTHING_DROPPED);
    checked.assert_any_discovery(LIVE_PAIR_KEPT);
}

#[test]
fn each_condition_is_needed() {
    for (flaw, single_use, broken) in [
        (Flaw::SaveOverLaterPair, true, NOTHING_DROPPED),
        (Flaw::SaveOverLaterPair, false, NOTHING_DROPPED),
        (Flaw::SaveByTokenAlone, false, NOTHING_DROPPED),
        (Flaw::SaveUnderMark, true, MARKED_FOR_CAUSE),
        (Flaw::MarkAnyToken, true, MARKED_FOR_CAUSE),
        (Flaw::MarkUnknown, false, MARKED_FOR_CAUSE),
        (Flaw::ReleaseAny, true, ONE_LIVE_CALL),
        (Flaw::AcquireLeased, true, ONE_LIVE_CALL),
    ] {
        let flawed = Refresh { attempts: 3, single_use, allowed: &FAULTS, faults: 3, flaw: Some(flaw) };
        let until = HasDiscoveries::AllOf(BTreeSet::from([broken]));
        let checked = checked(flawed, until);
        assert!(checked.discovery(broken).is_some(), "{flaw:?} does no harm");
    }
}
