//! An exhaustive model of one row: a few attempts to refresh it, a connect or two, a rescue queue, TikTok, other programs
//! that write the row, and whatever may go wrong between them, in every order.
//!
//! It stands for `refresh::Refresher` (acquire, call, save, mark), `actions::connect`, and the conditional writes of
//! `aws::dynamodb`. [`state`] holds what there is, [`rules`] what the protocol says, [`events`] what can happen. The tests
//! check that no order of events violates a [property](PROPERTIES), and that each rule is needed: a [`Flaw`] leaves one out,
//! and then some order of events does violate a property.
//!
//! A token pair's number says in which order TikTok issued it. The access tokens of the first seller live longer than those of
//! the second: across sellers, an expiry says nothing.
//!
//! Left out:
//! - Real time: a lease expires, a row falls due, and an invocation ends in one step each.
//! - DynamoDB's refusal of a connect, which is retried: [`Event::InterruptConnect`] stands for its last second.
//! - Forced runs, circuit breakers (a rejection is always marked), notes of a failure, implausible expiries.
//! - A refresh's response that lacks a refresh token or an `open_id`, or names another seller than the row does.
//! - Lost responses of other writes than saves and connects. Releasing a lease is one step with what led to it.
//! - Programs that fill in a wrong `open_id` or `app_key`, that remove the `authorization_id` of a connect, or that store
//!   another authorization of the same seller and app without a new one: nothing tells these from the earlier authorization.

mod events;
mod rules;
mod state;

use events::{ALL_HOLD, Event, FAULTS, OUTSIDE, Protocol};
use rules::Flaw;
use state::{App, Connect, ConnectOutcome, Message, Outcome, Request, Row, Seller, State, Status, Step, bit};
use stateright::{Checker, HasDiscoveries, Model};
use std::{collections::BTreeSet, slice};

const NEWER_STAYS: &str = "an older authorization never overwrites a newer one";
const PAIR_IN_HAND_KEPT: &str =
    "no pair in hand is dropped while the row holds the token it was redeemed with";
const NOTHING_DROPPED: &str = "no response from TikTok is dropped while there is a place to save it";
const LIVE_PAIR_KEPT: &str = "only an interrupted attempt or a lost response loses the live pair";
const ONE_LIVE_CALL: &str = "an authorization never has two live calls within a lease";
const MARKED_FOR_CAUSE: &str = "TikTok has definitely rejected the token of a marked row";
const NAMES_ITS_GRANTER: &str = "a row names no other seller and no other app than those of its tokens";
const NOT_TAKEN_OVER: &str = "a connect without `replace` never takes over another seller's row";
const PAUSE_STAYS: &str = "a status of the user's own stays";
const DELETED_STAYS: &str = "no refresh recreates a deleted row";
const LEASE_RELEASED: &str = "an attempt whose pair was saved or superseded leaves no lease";
const SUPERSEDED_BY_ANOTHER: &str = "no attempt counts as superseded by its own pair";

type Predicate = (&'static str, fn(&Protocol, &State) -> bool);

/// What holds in every state. Some are properties of a step, which notes in the state if it violates one. A pair is owed to
/// the row only if it belongs to the newest authorization, the one that was stored last.
static PROPERTIES: [Predicate; 12] = [
    (NEWER_STAYS, |_, state| {
        state.row.is_none_or(|row| state.tiktok.authorization_of(row.pair) == state.newest)
    }),
    (PAIR_IN_HAND_KEPT, |_, state| state.violated != Some(PAIR_IN_HAND_KEPT)),
    (NOTHING_DROPPED, |_, state| {
        let owed = || state.tiktok.pairs_of(state.newest).filter(|pair| state.lost & bit(*pair) == 0).max();
        !state.is_at_rest() || state.row.is_none_or(|row| Some(row.pair.access) >= owed())
    }),
    (LIVE_PAIR_KEPT, |_, state| {
        let last_is_lost =
            || state.tiktok.pairs_of(state.newest).max().is_some_and(|last| state.lost & bit(last) != 0);
        let is_kept = |row: Row| {
            let live = state.tiktok.live_tokens_of(state.newest);
            live == 0 || live & bit(row.pair.refresh) != 0 || last_is_lost()
        };
        !state.is_at_rest() || state.row.is_none_or(is_kept)
    }),
    (ONE_LIVE_CALL, |_, state| {
        let mut called = BTreeSet::new();
        state.in_flight().filter(|attempt| !attempt.has_lost_lease).all(|attempt| match attempt.step {
            Step::Calling { leased, .. } => called.insert(state.tiktok.authorization_of(leased.pair)),
            _ => true,
        })
    }),
    (MARKED_FOR_CAUSE, |_, state| {
        let is_rejected = |token| state.tiktok.rejected & bit(token) != 0;
        state.row.is_none_or(|row| row.status != Status::Error || is_rejected(row.pair.refresh))
    }),
    (NAMES_ITS_GRANTER, |_, state| {
        state.row.is_none_or(|row| {
            let (seller, app) = state.tiktok.granted_by(row.pair);
            row.open_id.is_none_or(|named| named == seller) && row.app_key.is_none_or(|named| named == app)
        })
    }),
    (NOT_TAKEN_OVER, |_, state| state.violated != Some(NOT_TAKEN_OVER)),
    (PAUSE_STAYS, |_, state| state.violated != Some(PAUSE_STAYS)),
    (DELETED_STAYS, |_, state| !state.is_deleted || state.row.is_none()),
    (LEASE_RELEASED, |_, state| {
        state.row.and_then(|row| row.lease).is_none_or(|lease| {
            let step = state.attempts[lease.owner].step;
            !matches!(step, Step::Ended(Outcome::Saved | Outcome::Superseded))
        })
    }),
    (SUPERSEDED_BY_ANOTHER, |_, state| state.violated != Some(SUPERSEDED_BY_ANOTHER)),
];

/// What some order of events reaches, or the model would say nothing.
static REACHABLE: [Predicate; 16] = [
    ("a refresh succeeds", |model, state| {
        state.has_ended(Outcome::Saved) && state.faults_left == model.faults
    }),
    ("a second refresh succeeds the next night", |model, state| {
        state.row.is_some_and(|row| row.pair.access == 2)
            && state.newest == 0
            && state.faults_left == model.faults
    }),
    ("a lease expires in flight", |_, state| state.in_flight().any(|attempt| attempt.has_lost_lease)),
    ("a call whose response was lost is repeated", |_, state| {
        state.lost != 0
            && state.in_flight().any(|attempt| matches!(attempt.step, Step::Calling { is_retry: true, .. }))
    }),
    ("a refresh gives way to a later redemption", |_, state| {
        state.has_ended(Outcome::Superseded) && state.tiktok.authorizations.len() == 1
    }),
    ("a refresh gives way to a newer authorization", |_, state| {
        state.has_ended(Outcome::Superseded) && state.tiktok.pairs_of(0).count() == 2 && state.newest != 0
    }),
    ("a response arrives for a deleted row", |_, state| state.has_ended(Outcome::Deleted)),
    ("a row is marked", |_, state| state.has_ended(Outcome::Marked)),
    ("a saved pair heals a marked row", |_, state| {
        state.has_ended(Outcome::Marked)
            && state.has_ended(Outcome::Saved)
            && state.row.is_some_and(|row| row.status == Status::Active && row.pair.access == 1)
    }),
    ("a rescue message is saved", |_, state| {
        state.rescue_queue.first() == Some(&Message::Handled(Outcome::Saved))
            && !state.has_ended(Outcome::Saved)
    }),
    ("a rescue message gives way to a newer authorization", |_, state| {
        state.rescue_queue.first() == Some(&Message::Handled(Outcome::Superseded)) && state.newest != 0
    }),
    ("a legacy rescue message is saved", |_, state| {
        state.rescue_queue.last() == Some(&Message::Handled(Outcome::Saved))
    }),
    ("a legacy rescue message gives way to a newer authorization", |_, state| {
        state.rescue_queue.last() == Some(&Message::Handled(Outcome::Superseded)) && state.newest != 0
    }),
    ("a new authorization is refreshed while the old one's attempt goes on", |_, state| {
        state.row.is_some_and(|row| {
            row.authorization_id == Some(1) && row.lease.is_some_and(|lease| lease.owner == 1)
        }) && matches!(state.attempts[0].step, Step::Calling { .. })
    }),
    ("of two connects, the one whose code was exchanged first is stored last", |_, state| {
        state.newest == 1
            && state.connects.iter().all(|connect| *connect == Connect::Ended(ConnectOutcome::Stored))
            && state.connects.len() == 2
    }),
    ("a connect is refused", |_, state| state.has_connect_ended(ConnectOutcome::Refused)),
];

const RECONNECT: Request =
    Request { seller: Seller::First, app_key: None, is_replace: false, names_seller: true };
const RECONNECT_OTHER_APP: Request = Request { app_key: Some(App::Other), ..RECONNECT };
const CONNECT_ANOTHER: Request = Request { seller: Seller::Second, ..RECONNECT };
const REPLACE: Request = Request { is_replace: true, ..CONNECT_ANOTHER };
/// TikTok's response does not name the seller.
const CONNECT_UNNAMED: Request = Request { names_seller: false, ..CONNECT_ANOTHER };
const REPLACE_UNNAMED: Request = Request { names_seller: false, ..REPLACE };

impl Protocol {
    /// Attempts and faults. Rewriting a row whose token is reusable is a [known limit](the_known_limits_are_real).
    fn new(attempts: usize, faults: u8, is_single_use: bool) -> Self {
        let model = Self {
            attempts,
            connects: 0,
            requests: Vec::new(),
            is_single_use,
            has_legacy_message: false,
            allowed: [&FAULTS[..], &OUTSIDE[..]].concat(),
            faults,
            flaw: None,
            properties: &PROPERTIES,
            reachable: &[],
        };
        if is_single_use { model } else { model.without(Event::Rewrite) }
    }

    fn with_connects(self, connects: usize, requests: &[Request]) -> Self {
        Self { connects, requests: requests.to_vec(), ..self }
    }

    fn with_legacy_message(self) -> Self {
        Self { has_legacy_message: true, ..self }
    }

    fn without(mut self, event: Event) -> Self {
        self.allowed.retain(|allowed| *allowed != event);
        self
    }

    /// Checks every order of events, or finds a short one that violates a property.
    fn check(self) -> impl Checker<Self> {
        self.checker().finish_when(HasDiscoveries::AnyOf(BTreeSet::from([ALL_HOLD]))).spawn_bfs().join()
    }

    /// Whether some order of events violates this property.
    fn violates(self, property: &str) -> bool {
        let properties = PROPERTIES.iter().find(|(name, _)| *name == property).map(slice::from_ref).unwrap();
        Self { properties, ..self }.check().discovery(ALL_HOLD).is_some()
    }
}

/// Panics with the properties that some order of events violates, and with these events.
fn assert_no_violation(checked: &impl Checker<Protocol>) {
    if let Some(path) = checked.discovery(ALL_HOLD) {
        let state = path.last_state();
        let is_violated = |(_, holds): &&Predicate| !holds(checked.model(), state);
        let violated: Vec<_> = PROPERTIES.iter().filter(is_violated).map(|(name, _)| name).collect();
        panic!("{violated:?}: {:#?}", path.into_actions());
    }
}

/// What is checked with either kind of refresh token, and how many states there are at least.
fn models(is_single_use: bool) -> Vec<(Protocol, usize)> {
    let model = |attempts, faults| Protocol::new(attempts, faults, is_single_use);
    vec![
        // Refreshes alone.
        (model(2, 3), 50_000),
        (model(2, 2).with_legacy_message(), 25_000),
        (model(3, 2), 15_000),
        // A connect meanwhile.
        (
            model(2, 1)
                .with_connects(1, &[RECONNECT, RECONNECT_OTHER_APP, CONNECT_ANOTHER, REPLACE])
                .with_legacy_message(),
            100_000,
        ),
        (model(2, 1).with_connects(1, &[CONNECT_UNNAMED, REPLACE_UNNAMED]), 9_000),
        (model(3, 1).with_connects(1, &[RECONNECT, CONNECT_ANOTHER]), 30_000),
        // A connect that writes again after a lost response, into a deleted row, is a known limit.
        (model(2, 2).with_connects(1, &[RECONNECT]).without(Event::Delete), 150_000),
        (model(2, 2).with_connects(1, &[REPLACE]).without(Event::LoseStoreResponse), 100_000),
        // Two connects at once. That one writes over the other after a lost response is a known limit, too.
        (model(2, 0).with_connects(2, &[RECONNECT, CONNECT_ANOTHER, REPLACE, CONNECT_UNNAMED]), 30_000),
        (
            model(1, 1).with_connects(2, &[RECONNECT, CONNECT_ANOTHER]).without(Event::LoseStoreResponse),
            100_000,
        ),
    ]
}

/// Checks that no order of events violates a property, and that there are as many states as there should be.
fn promises_are_kept(is_single_use: bool) {
    for (model, at_least) in models(is_single_use) {
        let checked = model.clone().check();
        assert_no_violation(&checked);
        let states = checked.unique_state_count();
        assert!(states >= at_least, "only {states} states: {model:?}");
    }
}

#[test]
fn the_protocol_keeps_its_promises_with_single_use_tokens() {
    promises_are_kept(true);
}

#[test]
fn the_protocol_keeps_its_promises_with_reusable_tokens() {
    promises_are_kept(false);
}

#[test]
fn the_model_reaches_what_it_is_about() {
    for is_single_use in [true, false] {
        let model = |attempts, faults| Protocol {
            reachable: &REACHABLE,
            ..Protocol::new(attempts, faults, is_single_use)
        };
        let checked = [
            model(2, 2).with_legacy_message().check(),
            model(2, 1).with_legacy_message().with_connects(1, &[RECONNECT, CONNECT_ANOTHER]).check(),
            model(0, 0).with_connects(2, &[RECONNECT]).check(),
        ];
        for (name, _) in REACHABLE {
            assert!(checked.iter().any(|model| model.discovery(name).is_some()), "never: {name}");
        }
    }
}

#[test]
fn saving_only_under_the_lease_loses_a_token() {
    let kept = Protocol { allowed: vec![Event::LoseLease], ..Protocol::new(2, 1, true) };
    assert!(!kept.clone().violates(NOTHING_DROPPED));
    // No interruption and no lost response: one lease that expires in flight is enough.
    let lossy = Protocol { flaw: Some(Flaw::SaveUnderLeaseOnly), ..kept };
    assert!(lossy.clone().violates(NOTHING_DROPPED));
    assert!(lossy.violates(LIVE_PAIR_KEPT));
}

#[test]
fn a_fence_by_the_expiry_alone_lets_an_older_authorization_win() {
    for is_single_use in [true, false] {
        for request in [RECONNECT, RECONNECT_OTHER_APP, REPLACE] {
            // One refresh and one connect at once are enough.
            let kept = Protocol::new(1, 0, is_single_use).with_connects(1, &[request]);
            assert!(!kept.clone().violates(NEWER_STAYS), "{request:?}");
            let lossy = Protocol { flaw: Some(Flaw::ExpiryAlone), ..kept };
            assert!(lossy.violates(NEWER_STAYS), "{request:?}");
        }
    }
}

#[test]
fn each_rule_is_needed() {
    let refreshes = Protocol::new(2, 1, true);
    let reusable = Protocol::new(2, 1, false);
    let legacy = reusable.clone().with_legacy_message();
    let three = Protocol::new(3, 2, true);
    let connect =
        refreshes.clone().with_connects(1, &[RECONNECT, RECONNECT_OTHER_APP, CONNECT_ANOTHER, REPLACE]);
    let unnamed = refreshes.clone().with_connects(1, &[CONNECT_UNNAMED, REPLACE_UNNAMED]);
    let two_connects =
        Protocol::new(0, 0, true).with_connects(2, &[CONNECT_ANOTHER, RECONNECT, CONNECT_UNNAMED]);
    for (flaw, model, property) in [
        (Flaw::AcquireLeased, &refreshes, ONE_LIVE_CALL),
        (Flaw::MarkAnyToken, &refreshes, MARKED_FOR_CAUSE),
        (Flaw::MarkUnknownOutcome, &three, MARKED_FOR_CAUSE),
        (Flaw::ReleaseAnyLease, &three, ONE_LIVE_CALL),
        (Flaw::SaveIgnoresAccessToken, &reusable, NOTHING_DROPPED),
        (Flaw::SaveIgnoresStatus, &refreshes, MARKED_FOR_CAUSE),
        (Flaw::OwnPairNotRecognized, &refreshes, SUPERSEDED_BY_ANOTHER),
        (Flaw::SentTokenNotRecognized, &refreshes, PAIR_IN_HAND_KEPT),
        (Flaw::ReusableTokenRecognized, &reusable, NOTHING_DROPPED),
        (Flaw::AuthorizationBeforeSentToken, &refreshes, PAIR_IN_HAND_KEPT),
        (Flaw::AuthorizationNotRecognized, &connect, NEWER_STAYS),
        (Flaw::AuthorizationIdNotCompared, &connect, NEWER_STAYS),
        (Flaw::OpenIdNotCompared, &refreshes, NEWER_STAYS),
        (Flaw::AppKeyNotCompared, &refreshes, NEWER_STAYS),
        (Flaw::OpenIdOfResponseIgnored, &refreshes, NEWER_STAYS),
        (Flaw::AbsentOpenIdDiffers, &reusable, NOTHING_DROPPED),
        (Flaw::AbsentAppKeyDiffers, &reusable, NOTHING_DROPPED),
        (Flaw::EarlierPairWins, &reusable, NOTHING_DROPPED),
        (Flaw::LaterPairLoses, &refreshes, NOTHING_DROPPED),
        (Flaw::LaterPairLoses, &reusable, NOTHING_DROPPED),
        (Flaw::DeletedIsRecreated, &refreshes, DELETED_STAYS),
        (Flaw::SupersededKeepsLease, &refreshes, LEASE_RELEASED),
        (Flaw::MessageIgnoresGeneration, &connect, NEWER_STAYS),
        (Flaw::LegacyMessageHasNoAuthorization, &legacy, NOTHING_DROPPED),
        (Flaw::ConnectIgnoresAuthorizationId, &two_connects, NOT_TAKEN_OVER),
        (Flaw::ConnectIgnoresOpenId, &connect, NOT_TAKEN_OVER),
        (Flaw::ConnectIgnoresStatus, &connect, PAUSE_STAYS),
        (Flaw::ConnectIgnoresAbsence, &two_connects, NOT_TAKEN_OVER),
        (Flaw::ConnectJudgesOnce, &two_connects, NOT_TAKEN_OVER),
        (Flaw::ConnectKeepsAuthorizationId, &connect, NEWER_STAYS),
        (Flaw::ConnectKeepsOpenId, &unnamed, NAMES_ITS_GRANTER),
        (Flaw::ConnectKeepsAppKey, &connect, NAMES_ITS_GRANTER),
        (Flaw::ConnectRecognizesPair, &connect, NOTHING_DROPPED),
    ] {
        let flawed = Protocol { flaw: Some(flaw), ..model.clone() };
        assert!(flawed.violates(property), "{flaw:?} does no harm");
    }
}

/// No two authorizations share a token pair, so the tokens in the save's condition already tell them apart.
#[test]
fn the_authorization_id_in_the_saves_condition_is_a_second_fence() {
    for is_single_use in [true, false] {
        let model = Protocol::new(2, 1, is_single_use).with_connects(1, &[RECONNECT, REPLACE]);
        let without = Protocol { flaw: Some(Flaw::SaveIgnoresAuthorizationId), ..model };
        assert_no_violation(&without.check());
    }
}

/// Where the protocol does not keep a promise. The other tests leave these cases out.
#[test]
fn the_known_limits_are_real() {
    for is_single_use in [true, false] {
        let model = |faults| Protocol::new(1, faults, is_single_use);
        let lost_response = Event::LoseStoreResponse;

        // The message has no generation and the row no seller, so the expiry decides.
        let unnamed = model(0).with_connects(1, &[REPLACE_UNNAMED]).with_legacy_message();
        assert!(unnamed.violates(NEWER_STAYS));

        // The connect cannot tell that its pair was stored, and redeemed, before the other connect or the deletion.
        let over_another =
            Protocol { allowed: vec![lost_response], ..model(1) }.with_connects(2, &[RECONNECT]);
        assert!(over_another.violates(NOTHING_DROPPED));
        let recreated = Protocol { allowed: vec![lost_response, Event::Delete], ..model(2) };
        assert!(recreated.with_connects(1, &[RECONNECT]).violates(NOTHING_DROPPED));
    }
    // The row has lost its generation, and a reusable token in hand is the one that was sent: the refresh gives way. The row
    // keeps its refresh token, so no more than an access token is lost.
    let rewritten = Protocol { allowed: vec![Event::Rewrite], ..Protocol::new(1, 1, false) };
    assert!(rewritten.clone().violates(NOTHING_DROPPED));
    assert!(!rewritten.violates(LIVE_PAIR_KEPT));
}
