//! An exhaustive model of marking: two or three rows of two apps, a secret whose credentials change and change back, and
//! runs and workers whose steps interleave in every order. `model` asks whether a token can be lost. This model asks
//! whether a row can be marked by mistake, and whether a mistaken mark is lifted.
//!
//! A rejected row is noted at once (write 1) and marked later (write 2), when its own access token is dead and the
//! credentials are proved. A mark holds only against the credentials that earned it. The first `impl Marking` has these
//! rules, [`Flaw`] lists the ways to get them wrong, and [`Promise`] tells what they are for. What only TikTok knows is in
//! [`Truth`]: TikTok's answers and the promises use it, the rules never do.
//!
//! Whenever nothing is under way, the world may turn quiet: leases have run out, the queue is empty, and two scans follow
//! with one version of the secret, undisturbed. The promises about healing are judged there.
//!
//! Left out: how a grant is saved (see `model`; here a grant is stored with the call that brings it); time limits; the
//! circuit breakers, and the counts that make a run fail; the bounds on witnesses and on rows that wait for one, which
//! three rows never reach; `connect`, which changes the tokens as a grant does; `ensure`, `verify` and library calls,
//! which note as a run without proof does; statuses of the user's own; TikTok retiring an app secret that the AWS secret
//! still holds; and answers to a refresh that neither grant nor reject, except that TikTok names the credentials.

use Event::{
    Acquire, Ask, Begin, Change, Check, Deliver, Enqueue, Expire, Kill, Mark, Note, Quiet, Renew, Revoke,
    RunOut, Witness,
};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum App {
    A,
    B,
}

/// The fingerprint of an app's key and secret. A wrong one stands for a wrong secret or another app's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Fingerprint {
    app: App,
    right: bool,
}

const A: Fingerprint = Fingerprint { app: App::A, right: true };
const B: Fingerprint = Fingerprint { app: App::B, right: true };
const WRONG_A: Fingerprint = Fingerprint { app: App::A, right: false };
const WRONG_B: Fingerprint = Fingerprint { app: App::B, right: false };

/// A version of the secret: its apps, the default app first.
type Secret = &'static [Fingerprint];

/// A set of rows, apps, fingerprints or promises, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Set(u16);

/// The numbers of the tokens that a row holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Pair {
    refresh: u8,
    access: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Active,
    /// `error`, and on what grounds.
    Marked(Grounds),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Grounds {
    /// The credentials are proved.
    Proof,
    /// First exception: a full scan saw no other active integration of the app.
    OnlyOne,
    /// Second exception: an operator forced a run of this single integration.
    Forced,
    /// Marked before the model begins, or because of an identity mismatch.
    Other,
}

/// `error_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reason {
    None,
    /// `reauthorize` or `probably_lost_answer`.
    Rejected,
    /// No reason, but the `error_code` 36004001 or 36004005: an older version noted it.
    OldCode,
    IdentityMismatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Expiry {
    Ahead,
    Passed,
    /// Absent or implausible.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lease {
    owner: u8,
    ran_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    /// `None` in a legacy row.
    app_key: Option<App>,
    status: Status,
    reason: Reason,
    rejected_by: Set,
    pair: Pair,
    access_expiry: Expiry,
    last_refreshed_at: u8,
    lease: Option<Lease>,
    truth: Truth,
}

/// What TikTok knows of a row's authorization, and what the promises keep account of.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Truth {
    /// The app that the seller authorized.
    app: App,
    /// The seller has not revoked it.
    alive: bool,
    /// TikTok accepts the row's refresh token while the authorization is alive; otherwise the token is stale.
    fresh: bool,
    /// The row's access token works.
    works: bool,
    /// The authorization is another seller's than the row's.
    other_seller: bool,

    /// TikTok has rejected the row's refresh token under its own app's right credentials.
    rejected: bool,
    /// The run for which the row was refreshed last.
    refreshed_for: Option<u8>,
    /// A grant has lifted the mark of an exception.
    lifted: bool,
    /// How often a retry of the marked row was settled since the secret changed, by invocations that use its current
    /// version and by others.
    retries: (u8, u8),
}

/// One attempt at a row, from its lease to its mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    row: usize,
    /// The pair that it read with the lease.
    pair: Pair,
    /// The credentials to use in turn: its app's, or those of every app, the default app first.
    with: Vec<Fingerprint>,
    /// How many of them were used so far.
    used: usize,
    own_token: OwnToken,
    /// Its own app's right credentials were among those that TikTok rejected.
    own_app_rejected: bool,
}

/// What the own-token check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OwnToken {
    Unchecked,
    Dead,
    Works,
    Unclear,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Takes the next row; when there is none, asks a witness, marks or enqueues.
    Next,
    /// Holds a lease and asks TikTok for a refresh.
    Asking(Attempt),
    /// Holds TikTok's rejection, which is not noted yet.
    Rejected(Attempt),
    /// Checks the rejected row's own access token.
    Checking(Attempt),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A full scan that does its own work.
    Scan,
    /// A full scan with `force`.
    ForcedScan,
    /// A full scan that spreads its work over the queue.
    FanOut,
    /// A run of one team, which has these rows.
    Team(Set),
    /// A forced run of a single integration.
    ForcedRow(usize),
    /// A worker, with the rows of its message.
    Worker(Set),
}

/// A run or a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Invocation {
    id: u8,
    kind: Kind,
    /// When its run began: for a worker, the run that sent the message.
    began: u8,
    /// The version of the secret that it uses.
    secret: usize,
    todo: Set,
    step: Step,
    /// Rejected attempts that wait to be judged.
    held: Vec<Attempt>,
    proved: Set,
    disproved: Set,
    /// The rows that were asked as witnesses.
    asked: Set,
    /// The apps of which the full scan saw one active integration.
    only_one: Set,
}

/// A work message: rows of one app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    rows: Set,
    /// `proved`: the fingerprints that its run has proved.
    proved: Set,
    /// The app, if the row is its only active integration.
    only_one: Set,
    /// When its run began.
    began: u8,
    deliveries_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Anything may happen.
    Busy,
    FirstQuiet,
    SecondQuiet,
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    rows: Vec<Row>,
    /// The version of the secret that AWS holds.
    secret: usize,
    /// The invocations under way, by place.
    places: Vec<Option<Invocation>>,
    queue: Vec<Message>,
    /// How many of the model's runs have begun.
    runs: usize,
    /// How many invocations have begun: it stands for time, and numbers them.
    clock: u8,
    faults_left: u8,
    phase: Phase,
    /// The promises that were broken.
    broken: Set,
}

/// The rules.
impl Marking {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// The credentials to try a row with. A legacy row is tried with every app, the default app first.
    fn credentials(&self, row: &Row, secret: usize) -> Vec<Fingerprint> {
        let secret = self.secrets[secret].iter().copied();
        match row.app_key {
            Some(app) => secret.filter(|fingerprint| fingerprint.app == app).collect(),
            None if self.has(Flaw::AskDefaultAppOnly) => secret.take(1).collect(),
            None => secret.collect(),
        }
    }

    /// `rejected_by`: all the credentials that were tried, in whatever order.
    fn rejected_by(&self, with: &[Fingerprint]) -> Set {
        let noted = if self.has(Flaw::NoteDefaultAppOnly) { &with[..1] } else { with };
        noted.iter().map(|fingerprint| fingerprint.number()).collect()
    }

    /// Whether a row is due again although it is marked: a rejection by other credentials than those in use earned the
    /// mark.
    fn heals(&self, row: &Row, with: &[Fingerprint]) -> bool {
        let by_rejection = matches!(row.reason, Reason::Rejected | Reason::OldCode);
        let differs = row.rejected_by != self.rejected_by(with);
        (by_rejection || self.has(Flaw::HealAnyReason))
            && differs
            && !(row.rejected_by.is_empty() && self.has(Flaw::OldMarksStay))
            && !self.has(Flaw::NeverHeal)
    }

    /// Whether a run takes a row: when it scans, and again as the condition of the lease.
    fn may_take(&self, at: usize, row: &Row, invocation: &Invocation) -> bool {
        let with = self.credentials(row, invocation.secret);
        let is_worker = matches!(invocation.kind, Kind::Worker(_));
        let refreshed =
            row.last_refreshed_at >= invocation.began && !(is_worker && self.has(Flaw::MessageWithoutTime));
        let is_due = match row.status {
            Status::Active => self.sellers[at].due && !refreshed,
            Status::Marked(_) => !with.is_empty() && self.heals(row, &with),
        };
        let is_free = row.lease.is_none_or(|lease| lease.ran_out);
        // The secret may lack the row's app.
        (is_due || invocation.kind.is_forced()) && is_free && !with.is_empty()
    }

    /// How many of the attempt's credentials check the own token: all, or none if the token has expired for certain.
    fn checks(&self, row: &Row, attempt: &Attempt) -> usize {
        match row.access_expiry {
            Expiry::Passed => 0,
            Expiry::Unknown if self.has(Flaw::UnknownExpiryIsDead) => 0,
            _ if self.has(Flaw::NoOwnTokenCheck) => 0,
            _ if self.has(Flaw::CheckDefaultAppOnly) => 1,
            _ => attempt.with.len(),
        }
    }

    /// What the own-token check has found after one more answer. Only a token error shows that a token is dead.
    fn own_token(&self, found: OwnToken, answer: Shops) -> OwnToken {
        match (found, answer) {
            (_, Shops::Success) => OwnToken::Works,
            (OwnToken::Unchecked, Shops::TokenError) => OwnToken::Dead,
            (_, Shops::NoAnswer) if self.has(Flaw::NoAnswerIsDead) => OwnToken::Dead,
            (_, Shops::BadSign) if self.has(Flaw::DisproofIgnored) => OwnToken::Dead,
            (_, Shops::NoAnswer | Shops::BadSign) => OwnToken::Unclear,
            (found, Shops::TokenError | Shops::AppKeyError) => found,
        }
    }

    /// What an answer to Get Authorized Shops says of the credentials.
    fn learn(&self, invocation: &mut Invocation, fingerprint: Fingerprint, row: &Row, answer: Shops) {
        // The token of a legacy row may be another app's. Then an app-key error says nothing of this one.
        let is_legacy = row.app_key.is_none() && !self.has(Flaw::LegacyTokenDisproves);
        match answer {
            Shops::Success => invocation.proved.insert(fingerprint.number()),
            Shops::BadSign => invocation.disproved.insert(fingerprint.number()),
            Shops::AppKeyError if !is_legacy => invocation.disproved.insert(fingerprint.number()),
            Shops::AppKeyError | Shops::TokenError | Shops::NoAnswer => {}
        }
    }

    /// The credentials that must be proved before a row is marked: the default app's, if it names none. To wait for proof of
    /// every app would leave revoked sellers unmarked for as long as any app in the secret has no seller.
    fn to_prove(with: &[Fingerprint]) -> &[Fingerprint] {
        &with[..1]
    }

    fn is_proved(&self, invocation: &Invocation, fingerprint: Fingerprint) -> bool {
        let other = Fingerprint { right: !fingerprint.right, ..fingerprint };
        invocation.proved.has(fingerprint.number())
            || self.has(Flaw::ProofByName) && invocation.proved.has(other.number())
    }

    /// The grounds on which a rejected row may be marked.
    fn grounds(&self, invocation: &Invocation, attempt: &Attempt) -> Option<Grounds> {
        let disproved = invocation.disproves(attempt);
        if attempt.own_token != OwnToken::Dead || disproved && !self.has(Flaw::DisproofIgnored) {
            return None;
        }
        let proved = Self::to_prove(&attempt.with).iter().all(|&with| self.is_proved(invocation, with));
        let is_single = self.has(Flaw::GuardInOneMessage) && invocation.held.len() == 1;
        if proved && !disproved || is_single {
            return Some(Grounds::Proof);
        }
        let is_only_one = invocation.only_one.has(attempt.with[0].app as usize)
            || self.has(Flaw::OnlyOneOfAnyApp) && !invocation.only_one.is_empty();
        match invocation.kind {
            Kind::ForcedRow(_) => Some(Grounds::Forced),
            Kind::ForcedScan if self.has(Flaw::ForceIsProof) => Some(Grounds::Forced),
            Kind::Worker(rows) if self.has(Flaw::OnlyOneOfMessage) && rows.len() == 1 => {
                Some(Grounds::OnlyOne)
            }
            _ => is_only_one.then_some(Grounds::OnlyOne),
        }
    }

    /// The rows to ask as witnesses, each with its credentials: other active rows of the apps that still need proof,
    /// with an access token that should work. Whoever scans asks them, a worker never does.
    fn witnesses(&self, state: &State, invocation: &Invocation) -> Vec<(usize, Fingerprint)> {
        let dead = invocation.held.iter().filter(|attempt| attempt.own_token == OwnToken::Dead);
        let tried: Vec<Vec<Fingerprint>> = match invocation.kind {
            Kind::Scan | Kind::ForcedScan | Kind::Team(_) => {
                dead.map(|attempt| attempt.with.clone()).collect()
            }
            // Before anything is sent.
            Kind::FanOut => {
                let rows = invocation.todo.iter().map(|at| &state.rows[at]);
                rows.map(|row| self.credentials(row, invocation.secret)).collect()
            }
            Kind::ForcedRow(_) | Kind::Worker(_) => Vec::new(),
        };
        let is_wanted = |fingerprint: &Fingerprint| {
            tried.iter().any(|with| Self::to_prove(with).contains(fingerprint))
                && !self.is_proved(invocation, *fingerprint)
                && !invocation.disproved.has(fingerprint.number())
        };
        let is_witness = |at: usize, row: &Row| {
            row.status == Status::Active
                && row.access_expiry == Expiry::Ahead
                && invocation.kind.sees(at)
                && !invocation.asked.has(at)
                && invocation.held.iter().all(|attempt| attempt.row != at)
        };
        let rows = state.rows.iter().enumerate().filter(|&(at, row)| is_witness(at, row));
        let first = |row| self.credentials(row, invocation.secret).first().copied();
        rows.filter_map(|(at, row)| Some((at, first(row).filter(is_wanted)?))).collect()
    }

    /// Write 1. Its condition is the lease.
    fn note(&self, row: &mut Row, owner: u8, attempt: &Attempt) -> bool {
        let is_owner = row.lease.is_some_and(|lease| lease.owner == owner);
        if is_owner {
            row.lease = None;
            row.reason = Reason::Rejected;
            if row.status == Status::Active || !self.has(Flaw::RetryKeepsRejectedBy) {
                row.rejected_by = self.rejected_by(&attempt.with);
            }
        }
        is_owner
    }

    /// The condition of write 2.
    fn may_mark(&self, row: &Row, owner: u8, attempt: &Attempt) -> bool {
        let is_noted = row.rejected_by == self.rejected_by(&attempt.with);
        let is_owner = row.lease.is_some_and(|lease| lease.owner == owner);
        row.status == Status::Active
            && row.pair.refresh == attempt.pair.refresh
            && (row.pair.access == attempt.pair.access || self.has(Flaw::MarkAnyAccessToken))
            && (is_noted || self.has(Flaw::MarkAnyRejection) || self.has(Flaw::OneWrite) && is_owner)
    }

    /// The work messages of a run. An app whose credentials are disproved gets none.
    fn messages(&self, state: &State, invocation: &Invocation) -> Vec<Message> {
        let default = |at: usize| self.credentials(&state.rows[at], invocation.secret)[0];
        let mut messages = Vec::new();
        for app in [App::A, App::B] {
            let is_sent =
                |&at: &usize| default(at).app == app && !invocation.disproved.has(default(at).number());
            let rows: Vec<usize> = invocation.todo.iter().filter(is_sent).collect();
            messages.extend(rows.chunks(self.message_size).map(|rows| Message {
                rows: rows.iter().copied().collect(),
                proved: invocation.proved,
                only_one: invocation.only_one.only(app as usize),
                began: invocation.began,
                deliveries_left: self.deliveries,
            }));
        }
        messages
    }
}

/// How TikTok answers a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Grants,
    /// 36004001 or 36004005. What wrong credentials get is not documented; it may be this.
    Rejects,
    /// The message names the app key or the app secret.
    NamesCredentials,
    /// TikTok grants, the answer is lost, and the attempt asks once more.
    IsLost,
}

/// How TikTok answers Get Authorized Shops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shops {
    /// Success, or a scope error: both the token and the credentials work.
    Success,
    TokenError,
    BadSign,
    /// An app-key error: the token belongs to another app.
    AppKeyError,
    /// A 429 or a time-out.
    NoAnswer,
}

/// What TikTok answers.
impl Marking {
    fn refresh_answers(&self, state: &State, attempt: &Attempt) -> Vec<Answer> {
        let Row { pair, truth, .. } = state.rows[attempt.row];
        let fingerprint = attempt.with[attempt.used];
        let is_accepted = truth.alive && truth.fresh && attempt.pair.refresh == pair.refresh;
        if !fingerprint.right && state.phase == Phase::Busy {
            vec![Answer::Rejects, Answer::NamesCredentials]
        } else if !fingerprint.right || fingerprint.app != truth.app || !is_accepted {
            vec![Answer::Rejects]
        } else if self.single_use && self.may(state, Fault::LoseAnswer) {
            vec![Answer::Grants, Answer::IsLost]
        } else {
            vec![Answer::Grants]
        }
    }

    fn shops_answers(&self, state: &State, at: usize, pair: Pair, fingerprint: Fingerprint) -> Vec<Shops> {
        let row = &state.rows[at];
        let works = row.truth.works && row.pair.access == pair.access;
        let mut answers = match fingerprint {
            Fingerprint { right: false, .. } => vec![Shops::BadSign, Shops::TokenError],
            Fingerprint { app, .. } if app != row.truth.app => vec![Shops::TokenError, Shops::AppKeyError],
            _ if works => vec![Shops::Success],
            _ => vec![Shops::TokenError],
        };
        if self.may(state, Fault::NoAnswer) {
            answers.push(Shops::NoAnswer);
        }
        answers
    }

    /// The rows that have the same authorization as this one.
    fn same_authorization(&self, at: usize) -> impl Iterator<Item = usize> {
        if self.one_authorization { 0..self.sellers.len() } else { at..at + 1 }
    }
}

/// A rule that is tempting to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    // Proof.
    /// Proof of an app's name serves for all of its credentials.
    ProofByName,
    /// The proof in a message serves for whatever credentials the worker uses.
    ProofByMessage,
    /// A single rejection needs no proof: the guard counts rejections, and sees one message.
    GuardInOneMessage,
    /// A witness's token error is a proof.
    TokenErrorProves,
    /// A witness's token error is a disproof.
    TokenErrorDisproves,
    /// `force` on everything needs no proof.
    ForceIsProof,

    // The exceptions.
    /// To an exception, a bad sign only shows that the token is dead.
    DisproofIgnored,
    /// The only row of a message is taken for the app's only one.
    OnlyOneOfMessage,
    /// The only row of a team is taken for the app's only one.
    OnlyOneOfTeam,
    /// The only one of an app may be marked under another app.
    OnlyOneOfAnyApp,

    // The own-token check.
    NoOwnTokenCheck,
    /// A check without an answer counts as a dead token.
    NoAnswerIsDead,
    /// A token with an unknown expiry counts as dead.
    UnknownExpiryIsDead,

    // Legacy rows.
    /// Only the default app is asked for a refresh.
    AskDefaultAppOnly,
    /// Only the default app's credentials check the own token.
    CheckDefaultAppOnly,
    /// `rejected_by` is the default app's fingerprint only.
    NoteDefaultAppOnly,
    /// An app-key error of a legacy row's token disproves the app that was tried.
    LegacyTokenDisproves,

    // The two writes.
    /// The note waits for the judgment: one write notes and marks.
    OneWrite,
    /// The mark does not look at the access token.
    MarkAnyAccessToken,
    /// The mark does not look at `rejected_by`.
    MarkAnyRejection,

    // Healing.
    NeverHeal,
    /// `rejected_by` alone selects the rows, without `error_reason`.
    HealAnyReason,
    /// A mark without `rejected_by` stays.
    OldMarksStay,
    /// A rejected retry keeps the old `rejected_by`.
    RetryKeepsRejectedBy,

    // The queue.
    /// A message does not tell when its run began.
    MessageWithoutTime,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Proof,
    HealthySpared,
    WorkingSpared,
    GrantStands,
    CredentialsNamed,
    Noted,
    RefreshedOnce,
    Healed,
    NoLoop,
    LostMarked,
}

type Condition = fn(&Marking, &State) -> bool;

impl Promise {
    const ALL: [(Self, Condition); 10] = [
        (Self::Proof, |_, state| state.keeps(Self::Proof)),
        (Self::HealthySpared, |_, state| state.keeps(Self::HealthySpared)),
        (Self::WorkingSpared, |_, state| state.keeps(Self::WorkingSpared)),
        (Self::GrantStands, |_, state| state.keeps(Self::GrantStands)),
        (Self::CredentialsNamed, |_, state| state.keeps(Self::CredentialsNamed)),
        (Self::Noted, |_, state| state.keeps(Self::Noted)),
        (Self::RefreshedOnce, |_, state| state.keeps(Self::RefreshedOnce)),
        (Self::Healed, |_, state| state.keeps(Self::Healed)),
        (Self::NoLoop, |_, state| state.keeps(Self::NoLoop)),
        (Self::LostMarked, |_, state| state.keeps(Self::LostMarked)),
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Proof => "no mark without proof, except by an exception, and then never against a disproof",
            Self::HealthySpared => "an integration that its app would refresh is marked only by an exception",
            Self::WorkingSpared => {
                "no row is marked while its access token works, unless by an exception under wrong credentials"
            }
            Self::GrantStands => "no mark hits a row that was refreshed since the rejection",
            Self::CredentialsNamed => "a mark names the credentials that earned it",
            Self::Noted => "a clear rejection is in the row before anything else is asked",
            Self::RefreshedOnce => "a run refreshes a row once, however often the message is delivered",
            Self::Healed => "a run with the right credentials lifts each mark that TikTok does not confirm",
            Self::NoLoop => "a marked row is asked for once per change of the credentials",
            Self::LostMarked => "a lost integration is marked if a witness works",
        }
    }
}

/// What breaks a promise.
impl Marking {
    fn judge_mark(&self, state: &mut State, invocation: &Invocation, attempt: &Attempt, grounds: Grounds) {
        let row = state.rows[attempt.row];
        let default = attempt.with[0];
        let is_proper = match grounds {
            Grounds::Proof => default.right,
            Grounds::OnlyOne => {
                !matches!(invocation.kind, Kind::Team(_)) && invocation.only_one.has(default.app as usize)
            }
            Grounds::Forced => matches!(invocation.kind, Kind::ForcedRow(_)),
            Grounds::Other => false,
        };
        state.expect(Promise::Proof, is_proper && !invocation.disproves(attempt));
        // An exception may mark under wrong credentials, with which nothing tells whether a token works.
        let is_excused = grounds != Grounds::Proof && !attempt.own_app_rejected;
        state.expect(Promise::HealthySpared, attempt.own_app_rejected || is_excused);
        state.expect(Promise::WorkingSpared, !row.truth.works || is_excused);
        state.expect(Promise::GrantStands, row.pair == attempt.pair);
        let names_credentials = row.rejected_by == self.rejected_by(&attempt.with);
        state.expect(Promise::CredentialsNamed, names_credentials || self.has(Flaw::OneWrite));
    }

    /// A kill loses what the invocation knew and had not written. Right after TikTok's answer nobody can help it.
    fn judge_kill(state: &mut State, killed: &Invocation) {
        let checked = match &killed.step {
            Step::Checking(attempt) => Some(attempt),
            Step::Next | Step::Asking(_) | Step::Rejected(_) => None,
        };
        let is_forgotten = |attempt: &Attempt| {
            let row = &state.rows[attempt.row];
            row.pair == attempt.pair && row.lease.is_some_and(|lease| lease.owner == killed.id)
        };
        let forgotten = killed.held.iter().chain(checked).any(is_forgotten);
        state.expect(Promise::Noted, !forgotten);
    }

    /// A retry of a marked row is settled, for now. Invocations with other credentials can undo that.
    fn judge_retry(state: &mut State, invocation: &Invocation, at: usize) {
        let mut retries = state.rows[at].truth.retries;
        match invocation.kind {
            kind if kind.is_forced() => {}
            _ if invocation.secret == state.secret => retries.0 += 1,
            _ => retries.1 += 1,
        }
        state.rows[at].truth.retries = retries;
        state.expect(Promise::NoLoop, retries.0 <= 1 + retries.1);
    }

    /// The first quiet run is over.
    fn judge_quiet_run(&self, state: &mut State) {
        let own_app = |row: &Row| Fingerprint { app: row.truth.app, right: true };
        if !state.rows.iter().all(|row| self.secrets[state.secret].contains(&own_app(row))) {
            return;
        }
        let is_settled = |row: &Row| {
            row.status == Status::Active || row.reason == Reason::IdentityMismatch || row.truth.rejected
        };
        let is_witness = |row: &Row, fingerprint: Fingerprint| {
            row.status == Status::Active
                && row.access_expiry == Expiry::Ahead
                && row.truth.works
                && own_app(row) == fingerprint
                && self.credentials(row, state.secret)[0] == fingerprint
        };
        let has_witnesses = |at: usize| {
            let mut with = self.credentials(&state.rows[at], state.secret).into_iter();
            let others = || state.rows.iter().enumerate().filter(move |(other, _)| *other != at);
            with.all(|fingerprint| others().any(|(_, other)| is_witness(other, fingerprint)))
        };
        let is_missed = |(at, row): (usize, &Row)| {
            let is_lost = !(row.truth.works || row.truth.alive && row.truth.fresh);
            row.status == Status::Active && self.sellers[at].due && is_lost && has_witnesses(at)
        };
        let healed = state.rows.iter().all(is_settled);
        let missed = state.rows.iter().enumerate().any(is_missed);
        state.expect(Promise::Healed, healed);
        state.expect(Promise::LostMarked, !missed);
    }
}

/// A row and its seller, as they are when the model begins.
#[derive(Clone, Copy, Debug)]
struct Seller {
    app_key: Option<App>,
    /// The app that the seller authorized.
    of: App,
    /// The row is always due; otherwise it never is, and serves as a witness.
    due: bool,
    cases: &'static [Case],
}

/// What may be the case with a seller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Healthy,
    /// The authorization is alive, the access token dead before its time: a witness that lies dead.
    HealthyDead,
    HealthyExpired,
    /// The access token works, and its expiry is unknown.
    HealthyUnknown,
    /// The refresh token is stale, and the access token works: an answer was lost, or another row has the same
    /// authorization.
    Stale,
    StaleExpired,
    StaleUnknown,
    Revoked,
    RevokedExpired,
    /// Marked by an older version, and healthy.
    OldMark,
    /// Marked by an older version, and revoked.
    OldMarkRevoked,
    /// Marked because another seller has authorized.
    OtherSeller,
}

/// One configuration of the model.
struct Marking {
    sellers: &'static [Seller],
    /// All rows have the same authorization.
    one_authorization: bool,
    /// The versions of the secret. Any of them may be the first.
    secrets: &'static [Secret],
    /// The runs, in the order in which they begin.
    runs: &'static [Kind],
    /// How many invocations may be under way at once.
    places: usize,
    message_size: usize,
    deliveries: u8,
    /// Each grant brings a new refresh token and ends the old one.
    single_use: bool,
    /// What may go wrong or come from outside, `faults` times in all.
    allowed: &'static [Fault],
    faults: u8,
    flaw: Option<Flaw>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    /// The next run begins.
    Begin,
    /// A worker begins on a message.
    Deliver(usize),

    // The steps of the invocation at a place.
    /// Takes the lease of the next row that is due.
    Acquire(usize),
    Ask(usize, Answer),
    /// Write 1: notes the rejection and releases the lease.
    Note(usize),
    /// The own-token check.
    Check(usize, Shops),
    /// Asks for the authorized shops with another row's access token.
    Witness(usize, usize, Shops),
    /// Write 2: marks a row.
    Mark(usize),
    Enqueue(usize),

    // What comes from outside.
    Kill(usize),
    /// A row's lease runs out: the holder hangs or was killed.
    RunOut(usize),
    /// The secret changes to another version.
    Change(usize),
    /// A row's seller revokes the authorization.
    Revoke(usize),
    /// A row's seller renews the authorization in Seller Center.
    Renew(usize),
    /// A row's access token expires.
    Expire(usize),

    /// The world turns quiet, with a version of the secret.
    Quiet(usize),
}

/// What may go wrong or come from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    RunOut,
    Change,
    Revoke,
    Renew,
    Expire,
    /// The answer to a refresh is lost.
    LoseAnswer,
    /// Get Authorized Shops gives no answer.
    NoAnswer,
}

/// What happens, step by step.
impl Marking {
    fn may(&self, state: &State, fault: Fault) -> bool {
        state.phase == Phase::Busy && state.faults_left > 0 && self.allowed.contains(&fault)
    }

    fn begin(&self, state: &mut State, place: usize, kind: Kind, message: Option<Message>) {
        state.clock += 1;
        let mut invocation = Invocation {
            id: state.clock,
            kind,
            began: message.map_or(state.clock, |message| message.began),
            secret: state.secret,
            todo: Set::default(),
            step: Step::Next,
            held: Vec::new(),
            proved: message.map_or_else(Set::default, |message| message.proved),
            disproved: Set::default(),
            asked: Set::default(),
            only_one: message.map_or_else(Set::default, |message| message.only_one),
        };
        if !invocation.proved.is_empty() && self.has(Flaw::ProofByMessage) {
            invocation.proved = Set(u16::MAX);
        }
        let seen = || state.rows.iter().enumerate().filter(|&(at, _)| kind.sees(at));
        invocation.todo = match kind {
            Kind::Worker(rows) => rows,
            _ => seen().filter(|&(at, row)| self.may_take(at, row, &invocation)).map(|(at, _)| at).collect(),
        };
        if kind.is_full_scan() || matches!(kind, Kind::Team(_)) && self.has(Flaw::OnlyOneOfTeam) {
            let app = |row: &Row| Some(self.credentials(row, state.secret).first()?.app);
            let active =
                |of| seen().filter(|(_, row)| row.status == Status::Active && app(row) == Some(of)).count();
            let only_one = [App::A, App::B].into_iter().filter(|&of| active(of) == 1);
            invocation.only_one = only_one.map(|app| app as usize).collect();
        }
        self.go_on(state, place, invocation);
    }

    /// Puts an invocation back into its place, or ends it.
    fn go_on(&self, state: &mut State, place: usize, mut invocation: Invocation) {
        let is_learning = invocation.step != Step::Next
            || !invocation.todo.is_empty()
            || !self.witnesses(state, &invocation).is_empty();
        if !is_learning {
            // Nothing more will be known. A row without grounds is spared.
            let has_grounds = |attempt: &Attempt| self.grounds(&invocation, attempt).is_some();
            let (judged, spared): (_, Vec<_>) = invocation.held.iter().cloned().partition(has_grounds);
            invocation.held = judged;
            for attempt in spared {
                // Does nothing, unless the note had to wait.
                self.note(&mut state.rows[attempt.row], invocation.id, &attempt);
            }
        }
        let is_over = !is_learning && invocation.held.is_empty();
        state.places[place] = (!is_over).then_some(invocation);
        match state.phase {
            Phase::FirstQuiet if is_over => {
                self.judge_quiet_run(state);
                state.phase = Phase::SecondQuiet;
                self.begin(state, place, Kind::Scan, None);
            }
            Phase::SecondQuiet if is_over => state.phase = Phase::Over,
            _ => {}
        }
    }

    fn acquire(&self, state: &mut State, invocation: &mut Invocation) {
        // Marked rows come last.
        let order = |&at: &usize| (state.rows[at].status != Status::Active, at);
        while let Some(at) = invocation.todo.iter().min_by_key(order) {
            invocation.todo.remove(at);
            if self.may_take(at, &state.rows[at], invocation) {
                let row = &mut state.rows[at];
                row.lease = Some(Lease { owner: invocation.id, ran_out: false });
                invocation.step = Step::Asking(Attempt {
                    row: at,
                    pair: row.pair,
                    with: self.credentials(row, invocation.secret),
                    used: 0,
                    own_token: OwnToken::Unchecked,
                    own_app_rejected: false,
                });
                let is_retry = row.status != Status::Active;
                state.expect(Promise::NoLoop, !(is_retry && state.phase == Phase::SecondQuiet));
                return;
            }
        }
    }

    fn ask(&self, state: &mut State, invocation: &mut Invocation, mut attempt: Attempt, answer: Answer) {
        let fingerprint = attempt.with[attempt.used];
        let row = &mut state.rows[attempt.row];
        match answer {
            Answer::Grants => {
                invocation.proved.insert(fingerprint.number());
                self.store_grant(state, invocation, attempt.row, fingerprint);
            }
            Answer::IsLost => {
                state.faults_left -= 1;
                self.same_authorization(attempt.row).for_each(|at| state.rows[at].truth.fresh = false);
                invocation.step = Step::Asking(attempt);
            }
            Answer::NamesCredentials => {
                row.lease = row.lease.filter(|lease| lease.owner != invocation.id);
                // The secret is read again. If that helps, the row has another try.
                if invocation.secret != state.secret {
                    invocation.secret = state.secret;
                    invocation.todo.insert(attempt.row);
                }
            }
            Answer::Rejects => {
                if fingerprint == (Fingerprint { app: row.truth.app, right: true }) {
                    attempt.own_app_rejected = true;
                    row.truth.rejected |= row.pair == attempt.pair;
                }
                attempt.used += 1;
                invocation.step = if attempt.used < attempt.with.len() {
                    Step::Asking(attempt)
                } else if self.has(Flaw::OneWrite) && row.status == Status::Active {
                    self.check_or_hold(row, invocation, Attempt { used: 0, ..attempt })
                } else {
                    Step::Rejected(attempt)
                };
            }
        }
    }

    fn store_grant(&self, state: &mut State, invocation: &Invocation, at: usize, fingerprint: Fingerprint) {
        if self.single_use {
            self.same_authorization(at).for_each(|other| state.rows[other].truth.fresh = false);
        }
        let row = &mut state.rows[at];
        let was = *row;
        let (status, reason) = if was.truth.other_seller {
            (Status::Marked(Grounds::Other), Reason::IdentityMismatch)
        } else {
            (Status::Active, Reason::None)
        };
        *row = Row {
            app_key: Some(fingerprint.app),
            status,
            reason,
            rejected_by: Set::default(),
            pair: Pair { refresh: was.pair.refresh + u8::from(self.single_use), access: was.pair.access + 1 },
            access_expiry: Expiry::Ahead,
            last_refreshed_at: state.clock,
            lease: None,
            truth: Truth {
                fresh: true,
                works: true,
                rejected: false,
                refreshed_for: Some(invocation.began),
                lifted: was.truth.lifted
                    || matches!(was.status, Status::Marked(Grounds::OnlyOne | Grounds::Forced)),
                retries: if status == Status::Active { (0, 0) } else { was.truth.retries },
                ..was.truth
            },
        };
        if status != Status::Active {
            Self::judge_retry(state, invocation, at);
        }
        let is_repeated = was.status == Status::Active
            && was.truth.refreshed_for == Some(invocation.began)
            && !invocation.kind.is_forced();
        state.expect(Promise::RefreshedOnce, !is_repeated);
    }

    fn take_note(&self, state: &mut State, invocation: &mut Invocation, attempt: Attempt) {
        let row = &mut state.rows[attempt.row];
        let is_noted = self.note(row, invocation.id, &attempt);
        if row.status == Status::Active {
            invocation.step = self.check_or_hold(row, invocation, Attempt { used: 0, ..attempt });
        } else if is_noted {
            // A marked row is not marked anew.
            Self::judge_retry(state, invocation, attempt.row);
        }
    }

    /// Goes on with the own-token check, or holds the attempt until it is judged.
    fn check_or_hold(&self, row: &Row, invocation: &mut Invocation, mut attempt: Attempt) -> Step {
        let checks = self.checks(row, &attempt);
        if attempt.used < checks && attempt.own_token != OwnToken::Works {
            return Step::Checking(attempt);
        }
        if checks == 0 {
            attempt.own_token = OwnToken::Dead;
        }
        invocation.held.push(attempt);
        Step::Next
    }

    fn check(&self, row: &Row, invocation: &mut Invocation, mut attempt: Attempt, answer: Shops) {
        self.learn(invocation, attempt.with[attempt.used], row, answer);
        attempt.own_token = self.own_token(attempt.own_token, answer);
        attempt.used += 1;
        invocation.step = self.check_or_hold(row, invocation, attempt);
    }

    fn ask_witness(&self, state: &State, invocation: &mut Invocation, at: usize, answer: Shops) {
        let row = &state.rows[at];
        let answer = match answer {
            Shops::TokenError if self.has(Flaw::TokenErrorProves) => Shops::Success,
            Shops::TokenError if self.has(Flaw::TokenErrorDisproves) => Shops::BadSign,
            answer => answer,
        };
        let fingerprint = self.credentials(row, invocation.secret)[0];
        self.learn(invocation, fingerprint, row, answer);
        invocation.asked.insert(at);
    }

    fn mark(&self, state: &mut State, invocation: &mut Invocation) -> Option<()> {
        let grounds = self.grounds(invocation, invocation.held.first()?)?;
        let attempt = invocation.held.remove(0);
        if self.may_mark(&state.rows[attempt.row], invocation.id, &attempt) {
            self.judge_mark(state, invocation, &attempt, grounds);
            let row = &mut state.rows[attempt.row];
            if self.has(Flaw::OneWrite) {
                self.note(row, invocation.id, &attempt);
            }
            row.status = Status::Marked(grounds);
        }
        Some(())
    }

    /// The events that are possible for the invocation at a place.
    fn steps(&self, state: &State, place: usize, invocation: &Invocation) -> Vec<Event> {
        let shops = |at: usize, pair, fingerprint| self.shops_answers(state, at, pair, fingerprint);
        match &invocation.step {
            Step::Asking(attempt) => {
                self.refresh_answers(state, attempt).into_iter().map(|answer| Ask(place, answer)).collect()
            }
            Step::Rejected(_) => vec![Note(place)],
            Step::Checking(attempt) => {
                let answers = shops(attempt.row, attempt.pair, attempt.with[attempt.used]);
                answers.into_iter().map(|answer| Check(place, answer)).collect()
            }
            Step::Next if !invocation.todo.is_empty() && invocation.kind != Kind::FanOut => {
                vec![Acquire(place)]
            }
            Step::Next => {
                let witnesses = self.witnesses(state, invocation);
                let ask = |&(at, fingerprint): &(usize, Fingerprint)| {
                    let answers = shops(at, state.rows[at].pair, fingerprint);
                    answers.into_iter().map(move |answer| Witness(place, at, answer))
                };
                match invocation.kind {
                    _ if !witnesses.is_empty() => witnesses.iter().flat_map(ask).collect(),
                    Kind::FanOut => vec![Enqueue(place)],
                    _ => vec![Mark(place)],
                }
            }
        }
    }

    fn step(&self, state: &mut State, place: usize, event: Event) -> Option<()> {
        let mut invocation = state.places[place].take()?;
        match (event, std::mem::replace(&mut invocation.step, Step::Next)) {
            (Acquire(_), Step::Next) => self.acquire(state, &mut invocation),
            (Ask(_, answer), Step::Asking(attempt)) => self.ask(state, &mut invocation, attempt, answer),
            (Note(_), Step::Rejected(attempt)) => self.take_note(state, &mut invocation, attempt),
            (Check(_, answer), Step::Checking(attempt)) => {
                self.check(&state.rows[attempt.row], &mut invocation, attempt, answer);
            }
            (Witness(_, at, answer), Step::Next) => self.ask_witness(state, &mut invocation, at, answer),
            (Mark(_), Step::Next) => self.mark(state, &mut invocation)?,
            (Enqueue(_), Step::Next) => {
                state.queue.extend(self.messages(state, &invocation));
                invocation.todo = Set::default();
            }
            _ => return None,
        }
        if matches!(event, Check(_, Shops::NoAnswer) | Witness(_, _, Shops::NoAnswer)) {
            state.faults_left -= 1;
        }
        self.go_on(state, place, invocation);
        Some(())
    }

    /// What may come from outside.
    fn faults(&self, state: &State) -> Vec<Event> {
        let may = |fault| self.may(state, fault);
        let mut events = Vec::new();
        let places = state.places.iter().enumerate();
        events
            .extend(places.filter(|(_, at)| at.is_some() && may(Fault::Kill)).map(|(place, _)| Kill(place)));
        let versions = 0..self.secrets.len();
        events.extend(versions.filter(|&at| at != state.secret && may(Fault::Change)).map(Change));
        for (at, row) in state.rows.iter().enumerate() {
            let runs_out = |lease: Lease| !lease.ran_out && (may(Fault::RunOut) || !state.is_held(lease));
            let rows = [
                (RunOut(at), row.lease.is_some_and(runs_out)),
                (Revoke(at), may(Fault::Revoke) && row.truth.alive),
                (Renew(at), may(Fault::Renew) && !row.truth.alive),
                (Expire(at), may(Fault::Expire) && row.access_expiry == Expiry::Ahead),
            ];
            events.extend(rows.into_iter().filter(|(_, is_possible)| *is_possible).map(|(event, _)| event));
        }
        events
    }

    fn go_wrong(&self, state: &mut State, event: Event) -> Option<()> {
        match event {
            Kill(place) => {
                let killed = state.places[place].take()?;
                Self::judge_kill(state, &killed);
            }
            RunOut(at) => {
                let lease = state.rows[at].lease.as_mut()?;
                lease.ran_out = true;
                let lease = *lease;
                if !state.is_held(lease) {
                    return Some(());
                }
            }
            Change(secret) => {
                state.secret = secret;
                state.rows.iter_mut().for_each(|row| row.truth.retries = (0, 0));
            }
            Revoke(at) => self.same_authorization(at).for_each(|at| {
                let truth = &mut state.rows[at].truth;
                (truth.alive, truth.works) = (false, false);
            }),
            Renew(at) => self.same_authorization(at).for_each(|at| state.rows[at].truth.alive = true),
            Expire(at) => {
                let row = &mut state.rows[at];
                (row.access_expiry, row.truth.works) = (Expiry::Passed, false);
            }
            _ => return None,
        }
        state.faults_left -= 1;
        Some(())
    }

    fn turn_quiet(&self, state: &mut State, secret: usize) {
        for row in &mut state.rows {
            (row.lease, row.last_refreshed_at, row.pair) = (None, 0, Pair::default());
            (row.truth.refreshed_for, row.truth.retries) = (None, (0, 0));
        }
        *state = State {
            rows: std::mem::take(&mut state.rows),
            secret,
            places: vec![None],
            queue: Vec::new(),
            runs: 0,
            clock: 0,
            faults_left: 0,
            phase: Phase::FirstQuiet,
            broken: state.broken,
        };
        self.begin(state, 0, Kind::Scan, None);
    }
}

impl State {
    fn expect(&mut self, promise: Promise, is_kept: bool) {
        if !is_kept {
            self.broken.insert(promise as usize);
        }
    }

    fn keeps(&self, promise: Promise) -> bool {
        !self.broken.has(promise as usize)
    }

    fn at_work(&self) -> impl Iterator<Item = &Invocation> {
        self.places.iter().flatten()
    }

    /// Whether the invocation that took a lease is still there.
    fn is_held(&self, lease: Lease) -> bool {
        self.at_work().any(|invocation| invocation.id == lease.owner)
    }
}

impl Invocation {
    fn disproves(&self, attempt: &Attempt) -> bool {
        attempt.with.iter().any(|fingerprint| self.disproved.has(fingerprint.number()))
    }
}

impl Kind {
    fn is_forced(self) -> bool {
        matches!(self, Self::ForcedScan | Self::ForcedRow(_))
    }

    fn is_full_scan(self) -> bool {
        matches!(self, Self::Scan | Self::ForcedScan | Self::FanOut)
    }

    fn sees(self, at: usize) -> bool {
        match self {
            Self::Scan | Self::ForcedScan | Self::FanOut => true,
            Self::Team(rows) | Self::Worker(rows) => rows.has(at),
            Self::ForcedRow(row) => row == at,
        }
    }
}

impl Fingerprint {
    fn number(self) -> usize {
        self.app as usize * 2 + usize::from(self.right)
    }
}

impl Set {
    fn insert(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    fn remove(&mut self, number: usize) {
        self.0 &= !(1 << number);
    }

    fn has(self, number: usize) -> bool {
        self.0 & 1 << number != 0
    }

    fn only(self, number: usize) -> Self {
        Self(self.0 & 1 << number)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn len(self) -> u32 {
        self.0.count_ones()
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        (0..16).filter(move |&number| self.has(number))
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        Self(numbers.into_iter().fold(0, |bits, number| bits | 1 << number))
    }
}

impl Seller {
    fn row(self, case: Case) -> Row {
        let (status, reason) = match case {
            Case::OldMark | Case::OldMarkRevoked => (Status::Marked(Grounds::Other), Reason::OldCode),
            Case::OtherSeller => (Status::Marked(Grounds::Other), Reason::IdentityMismatch),
            _ => (Status::Active, Reason::None),
        };
        Row {
            app_key: self.app_key,
            status,
            reason,
            rejected_by: Set::default(),
            pair: Pair::default(),
            access_expiry: match case {
                Case::HealthyUnknown | Case::StaleUnknown => Expiry::Unknown,
                Case::HealthyExpired | Case::StaleExpired | Case::RevokedExpired => Expiry::Passed,
                _ => Expiry::Ahead,
            },
            last_refreshed_at: 0,
            lease: None,
            truth: Truth {
                app: self.of,
                alive: !matches!(case, Case::Revoked | Case::RevokedExpired | Case::OldMarkRevoked),
                fresh: !matches!(case, Case::Stale | Case::StaleExpired | Case::StaleUnknown),
                works: matches!(
                    case,
                    Case::Healthy | Case::HealthyUnknown | Case::Stale | Case::StaleUnknown | Case::OldMark
                ),
                other_seller: case == Case::OtherSeller,
                rejected: false,
                refreshed_for: None,
                lifted: false,
                retries: (0, 0),
            },
        }
    }
}

impl Model for Marking {
    type State = State;
    type Action = Event;

    /// Every case of every seller, with every version of the secret.
    fn init_states(&self) -> Vec<State> {
        let mut tables = vec![Vec::new()];
        for seller in self.sellers {
            let with = |table: &Vec<Row>| {
                let table = table.clone();
                seller.cases.iter().map(move |&case| [&table[..], &[seller.row(case)]].concat())
            };
            tables = tables.iter().flat_map(with).collect();
        }
        let state = |rows: Vec<Row>, secret| State {
            rows,
            secret,
            places: vec![None; self.places],
            queue: Vec::new(),
            runs: 0,
            clock: 0,
            faults_left: self.faults,
            phase: Phase::Busy,
            broken: Set::default(),
        };
        let versions = 0..self.secrets.len();
        versions.flat_map(|secret| tables.iter().map(move |rows| state(rows.clone(), secret))).collect()
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        for (place, invocation) in state.places.iter().enumerate() {
            events.extend(invocation.iter().flat_map(|invocation| self.steps(state, place, invocation)));
        }
        if state.phase == Phase::Busy {
            if state.places.contains(&None) {
                events.extend((state.runs < self.runs.len()).then_some(Begin));
                events.extend((0..state.queue.len()).map(Deliver));
            }
            if state.at_work().next().is_none() {
                events.extend((0..self.secrets.len()).map(Quiet));
            }
            events.extend(self.faults(state));
        }
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        let free = state.places.iter().position(Option::is_none);
        match event {
            Begin => {
                state.runs += 1;
                self.begin(&mut state, free?, self.runs[before.runs], None);
            }
            Deliver(at) => {
                let message = state.queue[at];
                state.queue[at].deliveries_left -= 1;
                state.queue.retain(|message| message.deliveries_left > 0);
                self.begin(&mut state, free?, Kind::Worker(message.rows), Some(message));
            }
            Acquire(place)
            | Ask(place, _)
            | Note(place)
            | Check(place, _)
            | Witness(place, _, _)
            | Mark(place)
            | Enqueue(place) => self.step(&mut state, place, event)?,
            Quiet(secret) => self.turn_quiet(&mut state, secret),
            Kill(_) | RunOut(_) | Change(_) | Revoke(_) | Renew(_) | Expire(_) => {
                self.go_wrong(&mut state, event)?;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Promise::ALL.map(|(promise, is_kept)| Property::always(promise.text(), is_kept));
        let met = SIGHTS.map(|(name, is_met)| Property::sometimes(name, is_met));
        kept.into_iter().chain(met).collect()
    }
}

type Sight = (&'static str, Condition);

const BY_PROOF: &str = "a row is marked by proof";
const BY_OWN_GRANT: &str = "a worker's own grant proves the credentials";
const AS_ONLY_ONE: &str = "an app's only integration is marked without proof";
const BY_FORCE: &str = "a forced row is marked without proof";
const SECOND_WITNESS: &str = "one witness gives no proof, and another one does";
const DISPROOF: &str = "the credentials are disproved";
const TOKEN_LOST: &str = "a rejected row's own access token works";
const PROOF_OUTDATED: &str = "a worker's credentials are not those that its message has proved";
const UNPROVED: &str = "a message carries no proof";
const APP_FOUND: &str = "a legacy row gets the app that granted";
const LIFTED: &str = "the mark of an exception is lifted";
const OLD_MARK_LIFTED: &str = "the mark of an older version is lifted";
const RETRY_REJECTED: &str = "the retry of a marked row is rejected";
const NOTE_REFUSED: &str = "a note is refused, as the lease is another's";
const WORKING_MARKED: &str = "an exception marks a row whose access token works, under wrong credentials";
const STALE_STAYS: &str = "such a mark stays if the refresh token is stale, although the access token works";

/// What must be met, or the model says nothing.
const SIGHTS: [Sight; 16] = [
    (BY_PROOF, |_, state| state.has_row(|row| row.status == Status::Marked(Grounds::Proof))),
    (BY_OWN_GRANT, |_, state| {
        let own = |at: &Invocation| matches!(at.kind, Kind::Worker(_)) && !at.held.is_empty();
        state.queue.iter().all(|message| message.proved.is_empty())
            && state.at_work().any(|at| own(at) && !at.proved.is_empty())
    }),
    (AS_ONLY_ONE, |_, state| state.has_row(|row| row.status == Status::Marked(Grounds::OnlyOne))),
    (BY_FORCE, |_, state| state.has_row(|row| row.status == Status::Marked(Grounds::Forced))),
    (SECOND_WITNESS, |_, state| state.at_work().any(|at| at.asked.len() == 2 && at.proved.len() == 1)),
    (DISPROOF, |_, state| state.at_work().any(|at| !at.disproved.is_empty())),
    (TOKEN_LOST, |_, state| {
        state.at_work().any(|at| at.held.iter().any(|attempt| attempt.own_token == OwnToken::Works))
    }),
    (PROOF_OUTDATED, |model, state| {
        let in_use = |at: &Invocation| model.rejected_by(model.secrets[at.secret]);
        state.at_work().any(|at| {
            matches!(at.kind, Kind::Worker(_)) && at.proved.iter().any(|proved| !in_use(at).has(proved))
        })
    }),
    (UNPROVED, |_, state| state.queue.iter().any(|message| message.proved.is_empty())),
    (APP_FOUND, |model, state| {
        let mut rows = state.rows.iter().zip(model.sellers);
        rows.any(|(row, seller)| seller.app_key.is_none() && row.app_key.is_some())
    }),
    (LIFTED, |_, state| state.has_row(|row| row.truth.lifted)),
    (OLD_MARK_LIFTED, |model, state| {
        let mut rows = state.rows.iter().zip(model.sellers);
        rows.any(|(row, seller)| seller.cases[0] == Case::OldMark && row.status == Status::Active)
    }),
    (RETRY_REJECTED, |_, state| state.has_row(|row| row.truth.retries != (0, 0))),
    (NOTE_REFUSED, |_, state| {
        let is_refused = |attempt: &Attempt| {
            let row = &state.rows[attempt.row];
            row.pair == attempt.pair && row.rejected_by.is_empty()
        };
        state.at_work().any(|at| at.held.iter().any(is_refused))
    }),
    (WORKING_MARKED, |_, state| state.has_row(Row::is_excepted_and_works)),
    (STALE_STAYS, |model, state| {
        let is_repaired = model.secrets[state.secret].iter().all(|fingerprint| fingerprint.right);
        state.phase == Phase::Over && is_repaired && state.has_row(Row::is_excepted_and_works)
    }),
];

impl Row {
    fn is_excepted_and_works(&self) -> bool {
        matches!(self.status, Status::Marked(Grounds::OnlyOne | Grounds::Forced)) && self.truth.works
    }
}

impl State {
    fn has_row(&self, is_such: fn(&Row) -> bool) -> bool {
        self.rows.iter().any(is_such)
    }
}

const ROW: Seller = Seller { app_key: Some(App::A), of: App::A, due: true, cases: &[Case::Healthy] };
const LEGACY: Seller = Seller { app_key: None, ..ROW };
const WITNESS: Seller = Seller { due: false, ..ROW };
const WITNESS_B: Seller = Seller { app_key: Some(App::B), of: App::B, ..WITNESS };

impl Seller {
    const fn who(self, cases: &'static [Case]) -> Self {
        Self { cases, ..self }
    }
}

/// Runs that do their own work, two at once.
const RUNS: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::Healthy, Case::HealthyExpired, Case::Stale, Case::StaleUnknown, Case::Revoked]),
        ROW.who(&[Case::Healthy, Case::HealthyExpired, Case::RevokedExpired]),
    ],
    one_authorization: false,
    secrets: &[&[A], &[WRONG_A]],
    runs: &[Kind::Scan, Kind::Scan],
    places: 2,
    message_size: 1,
    deliveries: 1,
    single_use: true,
    allowed: &[Fault::Kill, Fault::Change, Fault::Renew, Fault::LoseAnswer],
    faults: 1,
    flaw: None,
};

/// One rejected row, and two that may be asked.
const WITNESSES: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::Healthy, Case::Stale, Case::StaleExpired, Case::StaleUnknown, Case::Revoked]),
        WITNESS.who(&[Case::Healthy, Case::HealthyDead, Case::Revoked]),
        WITNESS.who(&[Case::Healthy, Case::HealthyDead]),
    ],
    runs: &[Kind::Scan, Kind::Scan],
    places: 1,
    allowed: &[Fault::Change, Fault::NoAnswer, Fault::Revoke],
    faults: 2,
    ..RUNS
};

/// Messages that come twice, or late.
const QUEUE: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::Healthy, Case::RevokedExpired]),
        ROW.who(&[Case::HealthyExpired, Case::Revoked]),
        WITNESS.who(&[Case::Healthy, Case::HealthyDead]),
    ],
    runs: &[Kind::FanOut],
    places: 1,
    deliveries: 2,
    allowed: &[Fault::Kill, Fault::Change],
    faults: 2,
    ..RUNS
};

/// Two workers at once.
const WORKERS: Marking = Marking {
    sellers: &[ROW.who(&[Case::HealthyExpired, Case::RevokedExpired]), WITNESS],
    runs: &[Kind::FanOut, Kind::FanOut],
    places: 2,
    allowed: &[Fault::Change],
    ..QUEUE
};

/// A message of two rows, of which one may be granted.
const LARGE_MESSAGES: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::Healthy, Case::Revoked]),
        ROW.who(&[Case::HealthyExpired, Case::RevokedExpired]),
        ROW.who(&[Case::HealthyDead]),
    ],
    message_size: 2,
    faults: 1,
    ..QUEUE
};

/// A row without an app key, and a witness of either app.
const LEGACY_ROW: Marking = Marking {
    sellers: &[
        LEGACY.who(&[
            Case::Healthy,
            Case::HealthyExpired,
            Case::Stale,
            Case::StaleUnknown,
            Case::Revoked,
            Case::RevokedExpired,
        ]),
        WITNESS,
        WITNESS_B,
    ],
    secrets: &[&[A, B], &[B, A], &[B, WRONG_A], &[WRONG_A, B], &[WRONG_A, WRONG_B]],
    runs: &[Kind::Scan, Kind::Scan],
    places: 1,
    allowed: &[Fault::Kill, Fault::Change, Fault::NoAnswer],
    faults: 2,
    ..RUNS
};

/// A witness without an app key, which may be another app's.
const LEGACY_WITNESS: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::Healthy, Case::Revoked]),
        WITNESS,
        Seller { of: App::B, due: false, ..LEGACY },
    ],
    secrets: &[&[A, B], &[B, A], &[WRONG_A, B]],
    ..LEGACY_ROW
};

/// A row without an app key in a message.
const LEGACY_MESSAGE: Marking = Marking {
    sellers: &[LEGACY.who(&[Case::HealthyExpired, Case::RevokedExpired]), WITNESS, WITNESS_B],
    secrets: &[&[A, B], &[B, A], &[B, WRONG_A]],
    ..QUEUE
};

/// The only row of its default app in a message. The other app has two.
const LEGACY_ONLY_ONE: Marking = Marking {
    sellers: &[LEGACY.who(&[Case::HealthyExpired, Case::RevokedExpired]), WITNESS_B, WITNESS_B],
    secrets: &[&[A, B], &[B, A], &[WRONG_A, WRONG_B]],
    ..QUEUE
};

/// A secret that may lack the app of a row without an app key.
const MISSING_APP: Marking = Marking {
    sellers: &[LEGACY.who(&[Case::Healthy, Case::HealthyExpired, Case::Revoked]), WITNESS_B],
    secrets: &[&[B], &[B, A], &[A, B]],
    allowed: &[Fault::Change],
    ..LEGACY_ROW
};

/// Marks of older versions and an identity mismatch.
const OLD_MARKS: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::OldMark, Case::OldMarkRevoked, Case::OtherSeller]),
        LEGACY.who(&[Case::OldMark, Case::OldMarkRevoked, Case::Revoked]),
        WITNESS_B,
    ],
    secrets: &[&[A, B], &[WRONG_A, B], &[B, A]],
    runs: &[Kind::Scan, Kind::Scan],
    places: 1,
    allowed: &[Fault::Kill, Fault::Change],
    faults: 2,
    ..RUNS
};

/// An app's only row, runs of everything and a forced run of it.
const EXCEPTIONS: Marking = Marking {
    sellers: &[ROW.who(&[
        Case::Healthy,
        Case::HealthyExpired,
        Case::Stale,
        Case::StaleUnknown,
        Case::Revoked,
    ])],
    runs: &[Kind::ForcedRow(0), Kind::Scan, Kind::Scan],
    allowed: &[Fault::Kill, Fault::RunOut, Fault::Change],
    faults: 2,
    single_use: false,
    ..RUNS
};

/// Two rows of one authorization, whose tokens end each other.
const ONE_AUTHORIZATION: Marking = Marking {
    sellers: &[ROW, ROW.who(&[Case::Healthy, Case::HealthyUnknown, Case::Stale])],
    one_authorization: true,
    allowed: &[Fault::Kill, Fault::Revoke, Fault::Renew, Fault::Expire, Fault::NoAnswer],
    ..RUNS
};

/// A forced run of everything, and a run of one team that has one row.
const FORCED_AND_TEAM: Marking = Marking {
    sellers: &[
        ROW.who(&[Case::HealthyExpired, Case::RevokedExpired, Case::OldMark]),
        ROW.who(&[Case::HealthyExpired, Case::Revoked]),
    ],
    runs: &[Kind::ForcedScan, Kind::Team(Set(0b01))],
    places: 1,
    allowed: &[Fault::Kill, Fault::Change],
    faults: 2,
    ..RUNS
};

fn checked(model: Marking, until: HasDiscoveries) -> impl Checker<Marking> {
    model.checker().finish_when(until).spawn_bfs().join()
}

/// Checks every order of events, that there are as many states as there should be, and that these sights are met.
fn promises_are_kept(model: Marking, at_least: usize, sights: &[&'static str]) {
    let checked = checked(model, HasDiscoveries::All);
    for (promise, _) in Promise::ALL {
        checked.assert_no_discovery(promise.text());
    }
    for sight in sights {
        checked.assert_any_discovery(sight);
    }
    let states = checked.unique_state_count();
    assert!(states >= at_least, "only {states} states");
}

/// Checks that each flaw breaks these promises.
fn each_is_needed<const N: usize>(flaws: [(Flaw, Marking, &[Promise]); N]) {
    for (flaw, model, broken) in flaws {
        let broken = broken.iter().map(|promise| promise.text());
        let until = HasDiscoveries::AllOf(broken.clone().collect());
        let checked = checked(Marking { flaw: Some(flaw), ..model }, until);
        for promise in broken {
            assert!(checked.discovery(promise).is_some(), "{flaw:?} does not break: {promise}");
        }
    }
}

#[test]
fn runs_that_do_their_own_work_keep_the_promises() {
    promises_are_kept(RUNS, 45_000, &[BY_PROOF, AS_ONLY_ONE, DISPROOF, TOKEN_LOST, LIFTED]);
    let reusable = Marking { single_use: false, ..RUNS };
    promises_are_kept(reusable, 40_000, &[BY_PROOF, AS_ONLY_ONE, DISPROOF, TOKEN_LOST, LIFTED]);
    promises_are_kept(ONE_AUTHORIZATION, 12_000, &[BY_PROOF, TOKEN_LOST]);
    promises_are_kept(FORCED_AND_TEAM, 4_000, &[BY_PROOF, DISPROOF]);
}

#[test]
fn witnesses_keep_the_promises() {
    promises_are_kept(WITNESSES, 13_000, &[BY_PROOF, SECOND_WITNESS, RETRY_REJECTED]);
}

#[test]
fn the_queue_keeps_the_promises() {
    promises_are_kept(QUEUE, 50_000, &[BY_PROOF, BY_OWN_GRANT, PROOF_OUTDATED, UNPROVED, SECOND_WITNESS]);
    promises_are_kept(LARGE_MESSAGES, 20_000, &[BY_PROOF, BY_OWN_GRANT, PROOF_OUTDATED, UNPROVED]);
    promises_are_kept(WORKERS, 100_000, &[BY_PROOF, PROOF_OUTDATED, UNPROVED]);
}

#[test]
fn legacy_rows_keep_the_promises() {
    promises_are_kept(LEGACY_WITNESS, 1_000, &[BY_PROOF, SECOND_WITNESS]);
    promises_are_kept(LEGACY_ONLY_ONE, 1_400, &[AS_ONLY_ONE, APP_FOUND, LIFTED]);
}

#[test]
fn marks_of_older_versions_keep_the_promises() {
    promises_are_kept(OLD_MARKS, 18_000, &[OLD_MARK_LIFTED, RETRY_REJECTED, APP_FOUND]);
}

#[test]
fn the_exceptions_keep_the_promises() {
    let sights = [AS_ONLY_ONE, BY_FORCE, LIFTED, RETRY_REJECTED, NOTE_REFUSED];
    promises_are_kept(EXCEPTIONS, 30_000, &sights);
    promises_are_kept(Marking { single_use: true, ..EXCEPTIONS }, 30_000, &sights);
}

/// All promises but these hold.
fn all_are_kept_but(model: Marking, broken: &[Promise]) {
    let checked = checked(model, HasDiscoveries::All);
    for (promise, _) in Promise::ALL {
        let is_broken = broken.contains(&promise);
        assert_eq!(checked.discovery(promise.text()).is_some(), is_broken, "{promise:?}");
    }
}

/// Proof of the default app says nothing of another app, whose secret is wrong. What remains is that the mark heals.
#[test]
fn a_legacy_row_is_marked_by_mistake_if_the_secret_of_its_app_is_wrong_and_heals() {
    all_are_kept_but(LEGACY_ROW, &[Promise::HealthySpared, Promise::WorkingSpared]);
    all_are_kept_but(LEGACY_MESSAGE, &[Promise::HealthySpared]);
}

/// Nothing tells such a row from one that its seller revoked. What remains is that the mark heals.
#[test]
fn a_legacy_row_is_marked_by_mistake_if_the_secret_lacks_its_app_and_heals() {
    all_are_kept_but(MISSING_APP, &[Promise::HealthySpared, Promise::WorkingSpared]);
}

/// With wrong credentials, a token error does not show that an access token is dead. An exception marks all the same.
#[test]
fn an_exception_may_mark_a_row_whose_access_token_works() {
    let checked = checked(EXCEPTIONS, HasDiscoveries::AllOf(BTreeSet::from([WORKING_MARKED, STALE_STAYS])));
    checked.assert_any_discovery(WORKING_MARKED);
    checked.assert_any_discovery(STALE_STAYS);
}

#[test]
fn each_rule_of_the_proof_is_needed() {
    each_is_needed([
        // In a run that reads the secret again, and in a late message.
        (Flaw::ProofByName, RUNS, &[Promise::Proof, Promise::HealthySpared]),
        (Flaw::ProofByName, QUEUE, &[Promise::Proof, Promise::HealthySpared]),
        (Flaw::ProofByMessage, QUEUE, &[Promise::Proof, Promise::HealthySpared]),
        (Flaw::GuardInOneMessage, QUEUE, &[Promise::Proof, Promise::HealthySpared]),
        (Flaw::TokenErrorProves, WITNESSES, &[Promise::Proof, Promise::HealthySpared]),
        (Flaw::TokenErrorDisproves, WITNESSES, &[Promise::LostMarked]),
        (Flaw::ForceIsProof, FORCED_AND_TEAM, &[Promise::Proof]),
        (Flaw::MessageWithoutTime, QUEUE, &[Promise::RefreshedOnce]),
    ]);
}

#[test]
fn each_limit_of_the_exceptions_is_needed() {
    each_is_needed([
        (Flaw::DisproofIgnored, EXCEPTIONS, &[Promise::Proof]),
        (Flaw::OnlyOneOfMessage, QUEUE, &[Promise::Proof]),
        (Flaw::OnlyOneOfTeam, FORCED_AND_TEAM, &[Promise::Proof]),
        (Flaw::OnlyOneOfAnyApp, LEGACY_ONLY_ONE, &[Promise::Proof]),
    ]);
}

#[test]
fn each_rule_of_the_own_token_check_is_needed() {
    each_is_needed([
        (Flaw::NoOwnTokenCheck, WITNESSES, &[Promise::WorkingSpared]),
        (Flaw::NoOwnTokenCheck, ONE_AUTHORIZATION, &[Promise::WorkingSpared]),
        (Flaw::NoAnswerIsDead, WITNESSES, &[Promise::WorkingSpared]),
        (Flaw::UnknownExpiryIsDead, WITNESSES, &[Promise::WorkingSpared]),
    ]);
}

#[test]
fn each_rule_of_legacy_rows_is_needed() {
    each_is_needed([
        (Flaw::AskDefaultAppOnly, LEGACY_ROW, &[Promise::HealthySpared, Promise::Healed]),
        (Flaw::CheckDefaultAppOnly, LEGACY_ROW, &[Promise::WorkingSpared]),
        (Flaw::NoteDefaultAppOnly, LEGACY_ROW, &[Promise::Healed]),
        (Flaw::NoteDefaultAppOnly, MISSING_APP, &[Promise::Healed]),
        (Flaw::LegacyTokenDisproves, LEGACY_WITNESS, &[Promise::LostMarked]),
    ]);
}

#[test]
fn each_condition_of_the_mark_is_needed() {
    each_is_needed([
        (Flaw::MarkAnyAccessToken, EXCEPTIONS, &[Promise::GrantStands]),
        (Flaw::MarkAnyRejection, EXCEPTIONS, &[Promise::CredentialsNamed, Promise::Healed]),
    ]);
}

/// One write marks nobody by mistake. It loses TikTok's answer if the invocation is killed before it is judged.
#[test]
fn one_write_for_note_and_mark_forgets_a_rejection() {
    for model in [RUNS, QUEUE, EXCEPTIONS] {
        all_are_kept_but(Marking { flaw: Some(Flaw::OneWrite), ..model }, &[Promise::Noted]);
    }
}

#[test]
fn each_rule_of_healing_is_needed() {
    each_is_needed([
        (Flaw::NeverHeal, EXCEPTIONS, &[Promise::Healed]),
        (Flaw::NeverHeal, OLD_MARKS, &[Promise::Healed]),
        (Flaw::HealAnyReason, OLD_MARKS, &[Promise::NoLoop]),
        (Flaw::OldMarksStay, OLD_MARKS, &[Promise::Healed]),
        (Flaw::RetryKeepsRejectedBy, OLD_MARKS, &[Promise::NoLoop]),
    ]);
}
