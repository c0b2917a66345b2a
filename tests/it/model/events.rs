//! What can happen next, and what it does to the state.

use super::{
    Predicate,
    rules::Flaw,
    state::{
        App, Attempt, Connect, ConnectOutcome, Message, Outcome, PendingConnect, PendingSave, Request, Row,
        Seller, State, Status, Step, bit,
    },
};
use Event::{
    Acquire, BackfillAppKey, BackfillOpenId, BeginConnect, Busy, ConnectElsewhere, Delete, Deliver,
    DeliverTwice, Exchange, ExchangeEndingEarlier, FallDue, Interrupt, InterruptConnect, LeaseExpires,
    LoseLease, LoseRequest, LoseResponse, LoseSaveResponse, LoseStoreResponse, Mark, OutOfTime, Pause,
    RefreshElsewhere, RefuseSave, Respond, Revoke, Rewrite, Save, Store,
};
use stateright::{Model, Property};

/// One model: who works on the row, and what may happen.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub attempts: usize,
    pub connects: usize,
    /// What each connect may be asked to do.
    pub requests: Vec<Request>,
    /// A refresh token dies when it is redeemed.
    pub is_single_use: bool,
    /// A legacy rescue message may wait in the queue: one of version 0.1, which knew no `authorization_id`.
    pub has_legacy_message: bool,
    /// Which of [`FAULTS`] and [`OUTSIDE`] may happen, `faults` times in all.
    pub allowed: Vec<Event>,
    pub faults: u8,
    pub flaw: Option<Flaw>,
    /// What is to hold in every state.
    pub properties: &'static [Predicate],
    /// What some order of events should reach.
    pub reachable: &'static [Predicate],
}

/// All of a model's properties: the checker takes longer for many than for one.
pub const ALL_HOLD: &str = "all properties hold";

/// What happens, to the attempt, connect or message of a number, or to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Acquire,
    /// TikTok's response arrives.
    Respond,
    Save,
    Mark,
    /// The invocation ends before DynamoDB accepts a pair that is in the rescue queue.
    OutOfTime,
    BeginConnect(Request),
    /// TikTok grants a new authorization. An earlier one of the same seller and app stays live.
    Exchange,
    /// TikTok grants a new authorization, and ends the earlier ones of the same seller and app.
    ExchangeEndingEarlier,
    Store,
    /// The queue delivers a rescue message.
    Deliver,
    /// The lease of an attempt that has ended expires.
    LeaseExpires,
    /// The row falls due again, long after every lease of now.
    FallDue,

    Interrupt,
    /// A lease expires while its attempt goes on: the process was frozen, or clocks differ.
    LoseLease,
    /// TikTok acts, and its response is lost.
    LoseResponse,
    /// TikTok never sees the request, and the attempt cannot tell.
    LoseRequest,
    /// TikTok says that it has not acted.
    Busy,
    /// A save is stored, and DynamoDB's response is lost.
    LoseSaveResponse,
    /// DynamoDB refuses a save, so that the pair also goes to the rescue queue.
    RefuseSave,
    /// The queue delivers a message that it will deliver again.
    DeliverTwice,
    InterruptConnect,
    /// A connect is stored, and DynamoDB's response is lost.
    LoseStoreResponse,

    /// Another program redeems the row's refresh token and stores the new pair.
    RefreshElsewhere,
    /// Another program, which knows no `authorization_id`, stores an authorization of another seller or for another app.
    ConnectElsewhere(Seller, App),
    /// Another program fills in the `open_id`.
    BackfillOpenId,
    BackfillAppKey,
    /// Another program rewrites the row as it is, but without `authorization_id`.
    Rewrite,
    /// The user sets a status of their own.
    Pause,
    Delete,
    /// The seller disconnects the app.
    Revoke,
}

/// What may go wrong.
pub const FAULTS: [Event; 10] = [
    Interrupt,
    LoseLease,
    LoseResponse,
    LoseRequest,
    Busy,
    LoseSaveResponse,
    RefuseSave,
    DeliverTwice,
    InterruptConnect,
    LoseStoreResponse,
];

/// What others may do.
pub const OUTSIDE: [Event; 9] = [
    RefreshElsewhere,
    ConnectElsewhere(Seller::Second, App::Default),
    ConnectElsewhere(Seller::First, App::Other),
    BackfillOpenId,
    BackfillAppKey,
    Rewrite,
    Pause,
    Delete,
    Revoke,
];

impl Protocol {
    fn of_attempt(&self, state: &mut State, event: Event, at: usize) -> Option<()> {
        let Attempt { step, has_lost_lease } = state.attempts[at];
        match (event, step) {
            (Acquire, Step::Idle) => self.acquire(state, at)?,
            (Respond, Step::Calling { leased, .. }) => {
                state.attempts[at].step = match state.tiktok.redeem(leased.pair.refresh, self.is_single_use) {
                    Some(pair) => {
                        let save = PendingSave::new(pair, state.tiktok.granted_by(pair), leased);
                        Step::Saving { save, is_safe: false }
                    }
                    None => Step::Rejected { leased },
                };
            }
            (Save, Step::Saving { mut save, is_safe }) => match self.save(state, Some(at), &mut save) {
                Some(outcome) => state.end(at, outcome),
                None => state.attempts[at].step = Step::Saving { save, is_safe },
            },
            (Mark, Step::Rejected { leased }) => self.mark(state, at, leased),
            (OutOfTime, Step::Saving { is_safe: true, .. }) => state.end(at, Outcome::Other),
            (LeaseExpires, Step::Ended(_)) => {
                let lease = state.row.as_mut()?.lease.as_mut();
                lease.filter(|lease| lease.owner == at && !lease.has_expired)?.has_expired = true;
            }
            (Interrupt, _) => {
                if let Step::Saving { save, is_safe: false } = step {
                    state.lost |= bit(save.pair.access);
                }
                state.end(at, Outcome::Other);
            }
            (LoseLease, _) if !has_lost_lease => {
                state.attempts[at].has_lost_lease = true;
                if let Some(lease) = state.row.as_mut()?.lease.as_mut().filter(|lease| lease.owner == at) {
                    lease.has_expired = true;
                }
            }
            (LoseResponse, Step::Calling { leased, is_retry }) => {
                if let Some(pair) = state.tiktok.redeem(leased.pair.refresh, self.is_single_use) {
                    state.lost |= bit(pair.access);
                }
                self.retry_once(state, at, leased, is_retry);
            }
            (LoseRequest, Step::Calling { leased, is_retry }) => self.retry_once(state, at, leased, is_retry),
            (Busy, Step::Calling { is_retry, .. }) => {
                // A busy retry says nothing about the first call, whose outcome stays unknown.
                if !is_retry {
                    self.release(state, at);
                }
                state.end(at, Outcome::Other);
            }
            (LoseSaveResponse, Step::Saving { save, .. }) => {
                (self.save(state, Some(at), &mut save.clone()) == Some(Outcome::Saved)).then_some(())?;
                state.attempts[at].step = Step::Saving { save, is_safe: true };
            }
            (RefuseSave, Step::Saving { save, .. }) if state.rescue_queue[at] == Message::None => {
                state.rescue_queue[at] = Message::Waiting(self.message(state, save));
                state.attempts[at].step = Step::Saving { save, is_safe: true };
            }
            _ => return None,
        }
        Some(())
    }

    fn of_connect(&self, state: &mut State, event: Event, at: usize) -> Option<()> {
        match (event, state.connects[at]) {
            (BeginConnect(request), Connect::Idle) => Self::begin_connect(state, at, request),
            (Exchange | ExchangeEndingEarlier, Connect::Exchanging { request, seen, before }) => {
                let app_key = request.app_key.or(seen.and_then(|seen| seen.app_key)).unwrap_or(App::Default);
                if event == ExchangeEndingEarlier {
                    state.tiktok.end_authorizations(request.seller, app_key).then_some(())?;
                }
                let (id, pair) = state.tiktok.authorize(request.seller, app_key);
                let first_id = seen.and_then(|seen| seen.authorization_id);
                let connect = PendingConnect { request, id, pair, app_key, seen, first_id, before };
                state.connects[at] = Connect::Storing(connect);
            }
            (Store, Connect::Storing(connect)) => self.store(state, at, connect),
            (InterruptConnect, Connect::Exchanging { .. } | Connect::Storing(_)) => {
                state.connects[at] = Connect::Ended(ConnectOutcome::Interrupted);
            }
            (LoseStoreResponse, Connect::Storing(connect)) => {
                self.store(state, at, connect);
                (state.connects[at] == Connect::Ended(ConnectOutcome::Stored)).then_some(())?;
                state.connects[at] = Connect::Storing(connect);
            }
            _ => return None,
        }
        Some(())
    }

    fn of_queue(&self, state: &mut State, event: Event, at: usize) -> Option<()> {
        let Message::Waiting(mut save) = state.rescue_queue[at] else { return None };
        let outcome = self.save(state, None, &mut save);
        state.rescue_queue[at] = match (event, outcome) {
            (DeliverTwice, Some(_)) => return Some(()),
            (DeliverTwice, None) => return None,
            (_, Some(outcome)) => Message::Handled(outcome),
            (_, None) => Message::Waiting(save),
        };
        Some(())
    }

    fn of_row(&self, state: &mut State, event: Event) -> Option<()> {
        let is_night_over = !state.is_connecting() && state.in_flight().all(|attempt| attempt.has_lost_lease);
        let row = state.row.as_mut()?;
        let (seller, app) = state.tiktok.granted_by(row.pair);
        match event {
            FallDue if !row.is_due && is_night_over => {
                row.is_due = true;
                row.lease.iter_mut().for_each(|lease| lease.has_expired = true);
            }
            RefreshElsewhere => {
                row.pair = state.tiktok.redeem(row.pair.refresh, self.is_single_use)?;
                row.is_due = false;
                row.lift_mark();
            }
            ConnectElsewhere(seller, app) if !state.tiktok.authorizations.contains(&(seller, app)) => {
                let (id, pair) = state.tiktok.authorize(seller, app);
                *row = Row { pair, open_id: Some(seller), app_key: Some(app), is_due: true, ..*row };
                row.lift_mark();
                state.newest = id;
            }
            BackfillOpenId if row.open_id.is_none() => row.open_id = Some(seller),
            BackfillAppKey if row.app_key.is_none() => row.app_key = Some(app),
            Rewrite if row.authorization_id.is_some() && state.newest == 0 => row.authorization_id = None,
            Pause if row.status != Status::Paused => row.status = Status::Paused,
            Delete => {
                // It ends a lease, too.
                if let Some(lease) = row.lease
                    && state.attempts[lease.owner].is_in_flight()
                {
                    state.attempts[lease.owner].has_lost_lease = true;
                }
                (state.row, state.is_deleted) = (None, true);
            }
            Revoke => {
                let live = state.tiktok.live_tokens_of(state.newest);
                (live != 0).then_some(())?;
                state.tiktok.live &= !live;
            }
            _ => return None,
        }
        Some(())
    }
}

impl Event {
    /// Whether the event counts as one of a model's `faults`.
    fn is_fault(self) -> bool {
        let is_attempts = matches!(self, Acquire | Respond | Save | Mark | OutOfTime | LeaseExpires);
        let is_connects = matches!(self, BeginConnect(_) | Exchange | ExchangeEndingEarlier | Store);
        !is_attempts && !is_connects && !matches!(self, Deliver | FallDue)
    }
}

impl Step {
    /// What can happen to an attempt at this step.
    fn events(&self) -> &'static [Event] {
        match self {
            Self::Idle => &[Acquire],
            Self::Calling { .. } => &[Respond, Interrupt, LoseLease, LoseResponse, LoseRequest, Busy],
            Self::Saving { .. } => &[Save, OutOfTime, Interrupt, LoseLease, LoseSaveResponse, RefuseSave],
            Self::Rejected { .. } => &[Mark, Interrupt, LoseLease],
            Self::Ended(_) => &[LeaseExpires],
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = (Event, usize);

    fn init_states(&self) -> Vec<State> {
        let mut states = Vec::new();
        for is_legacy in [false, true] {
            let state = State::new(self.attempts, self.connects, self.faults, is_legacy);
            if self.has_legacy_message {
                states.push(state.clone().with_legacy_message(self.is_single_use));
            }
            states.push(state);
        }
        states
    }

    /// What may be possible: [`next_state`](Self::next_state) decides.
    fn actions(&self, state: &State, actions: &mut Vec<(Event, usize)>) {
        // Attempts that have not begun are all alike, so they begin in order. So do connects.
        let next = state.attempts.iter().position(|attempt| attempt.step == Step::Idle);
        for (at, attempt) in state.attempts.iter().enumerate() {
            if attempt.step != Step::Idle || next == Some(at) {
                actions.extend(attempt.step.events().iter().map(|event| (*event, at)));
            }
        }
        let next = state.connects.iter().position(|connect| *connect == Connect::Idle);
        for (at, connect) in state.connects.iter().enumerate() {
            match connect {
                Connect::Idle if next == Some(at) => {
                    actions.extend(self.requests.iter().map(|request| (BeginConnect(*request), at)));
                }
                Connect::Exchanging { .. } => {
                    actions
                        .extend([Exchange, ExchangeEndingEarlier, InterruptConnect].map(|event| (event, at)));
                }
                Connect::Storing(_) => {
                    actions.extend([Store, InterruptConnect, LoseStoreResponse].map(|event| (event, at)));
                }
                Connect::Idle | Connect::Ended(_) => {}
            }
        }
        for (at, message) in state.rescue_queue.iter().enumerate() {
            if let Message::Waiting(_) = message {
                actions.extend([Deliver, DeliverTwice].map(|event| (event, at)));
            }
        }
        actions.push((FallDue, 0));
        actions.extend(OUTSIDE.map(|event| (event, 0)));
        let has_faults = state.faults_left > 0;
        actions.retain(|(event, _)| !event.is_fault() || has_faults && self.allowed.contains(event));
    }

    fn next_state(&self, before: &State, (event, at): (Event, usize)) -> Option<State> {
        let mut state = before.clone();
        if event.is_fault() {
            state.faults_left -= 1;
        }
        match event {
            BeginConnect(_)
            | Exchange
            | ExchangeEndingEarlier
            | Store
            | InterruptConnect
            | LoseStoreResponse => {
                self.of_connect(&mut state, event, at)?;
            }
            Deliver | DeliverTwice => self.of_queue(&mut state, event, at)?,
            FallDue | RefreshElsewhere | ConnectElsewhere(..) | BackfillOpenId | BackfillAppKey | Rewrite
            | Pause | Delete | Revoke => self.of_row(&mut state, event)?,
            _ => self.of_attempt(&mut state, event, at)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let sometimes = self.reachable.iter().map(|(name, is_met)| Property::sometimes(name, *is_met));
        let always = Property::always(ALL_HOLD, |model: &Self, state| {
            model.properties.iter().all(|(_, holds)| holds(model, state))
        });
        sometimes.chain([always]).collect()
    }
}
