//! What there is at one moment: the row, who works on it, the rescue queue, and TikTok. The row's attributes have the names
//! that they have in the table.

/// Whose shop it is: an `open_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seller {
    /// The seller of the row at the start.
    First,
    Second,
}

/// The app that the seller has authorized: an `app_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum App {
    /// The app of a row that names none.
    Default,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Active,
    Error,
    /// A status of the user's own.
    Paused,
}

/// A token pair. Its access token is the number of the redemption; its refresh token is the number of the pair that first
/// held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    pub refresh: u8,
    pub access: u8,
    /// When the access token expires.
    pub expires_at: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The attempt that holds it.
    pub owner: usize,
    pub has_expired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub pair: Pair,
    pub status: Status,
    /// The generation: the number of the authorization that a connect stored.
    pub authorization_id: Option<u8>,
    pub open_id: Option<Seller>,
    pub app_key: Option<App>,
    pub is_due: bool,
    pub lease: Option<Lease>,
}

/// Which authorization a pair in hand belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// The row's `authorization_id`, or its absence.
    Known(Option<u8>),
    /// A legacy rescue message: version 0.1 knew no `authorization_id`.
    Unknown,
}

/// The row as it was read with the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leased {
    pub pair: Pair,
    pub generation: Generation,
    pub open_id: Option<Seller>,
    pub app_key: Option<App>,
}

/// What a save expects of the row, as far as its condition asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Expected {
    pub pair: Pair,
    pub status: Status,
    pub authorization_id: Option<u8>,
}

/// A token pair in hand, and what its save needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PendingSave {
    pub pair: Pair,
    /// The seller, by the row or else by TikTok's response.
    pub open_id: Option<Seller>,
    /// The app that was called. A legacy message does not say.
    pub app_key: Option<App>,
    pub leased: Leased,
    /// `None` until a legacy message has seen the row.
    pub expected: Option<Expected>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Idle,
    /// Holds a lease and calls TikTok, for the second time if `is_retry`.
    Calling {
        leased: Leased,
        is_retry: bool,
    },
    /// Holds a token pair. `is_safe` once the row or the rescue queue holds it too.
    Saving {
        save: PendingSave,
        is_safe: bool,
    },
    /// Holds a definite rejection.
    Rejected {
        leased: Leased,
    },
    Ended(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Saved,
    Superseded,
    Deleted,
    Marked,
    /// Interrupted, out of time, or without a token pair: no property depends on it.
    Other,
}

/// One attempt to refresh the row, with a lease of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    pub step: Step,
    /// Its lease expired while it went on.
    pub has_lost_lease: bool,
}

/// What a connect was asked to do, and whether TikTok's response will name the seller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Who authorized the app.
    pub seller: Seller,
    /// `None`: the row's app.
    pub app_key: Option<App>,
    pub is_replace: bool,
    pub names_seller: bool,
}

/// The row as a connect read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub status: Status,
    pub authorization_id: Option<u8>,
    pub open_id: Option<Seller>,
    pub app_key: Option<App>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Connect {
    Idle,
    /// Has read the row, if there is one, and exchanges the auth code. `before` is the authorization that the row held: for the
    /// properties only.
    Exchanging {
        request: Request,
        seen: Option<Seen>,
        before: Option<u8>,
    },
    /// Holds the new authorization.
    Storing(PendingConnect),
    Ended(ConnectOutcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectOutcome {
    Stored,
    /// The row belongs to another seller.
    Refused,
    Interrupted,
}

/// A new authorization in hand, and what its write needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PendingConnect {
    pub request: Request,
    /// The number of the new authorization.
    pub id: u8,
    pub pair: Pair,
    pub app_key: App,
    /// The row as it was last read.
    pub seen: Option<Seen>,
    /// The row's `authorization_id` when the connect began.
    pub first_id: Option<u8>,
    /// The authorization that the row held when the connect began: for the properties only.
    pub before: Option<u8>,
}

/// One place in the rescue queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    None,
    Waiting(PendingSave),
    /// Deleted from the queue, and with which outcome.
    Handled(Outcome),
}

/// What TikTok remembers, and so what is true. No rule of the protocol may look at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TikTok {
    /// Who granted each authorization, to which app.
    pub authorizations: Vec<(Seller, App)>,
    /// The authorization of each token pair.
    pub pairs: Vec<u8>,
    /// The refresh tokens that TikTok accepts: a set of bits, like those below.
    pub live: u16,
    /// The refresh tokens that it has rejected.
    pub rejected: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub row: Option<Row>,
    /// Somebody deleted the row, and no connect has stored it again.
    pub is_deleted: bool,
    pub attempts: Vec<Attempt>,
    pub connects: Vec<Connect>,
    /// A message of each attempt, and the legacy message.
    pub rescue_queue: Vec<Message>,
    pub tiktok: TikTok,
    /// The authorization that was stored last. Of two connects at once it is the one that won.
    pub newest: u8,
    /// The token pairs that nobody could save: the response was lost, or the attempt was interrupted with it.
    pub lost: u16,
    /// The first property that one step of somebody's has violated.
    pub violated: Option<&'static str>,
    pub faults_left: u8,
}

pub fn bit(number: u8) -> u16 {
    1 << number
}

impl Row {
    pub fn leased(&self) -> Leased {
        Leased {
            pair: self.pair,
            generation: Generation::Known(self.authorization_id),
            open_id: self.open_id,
            app_key: self.app_key,
        }
    }

    /// Another program has stored a token pair.
    pub fn lift_mark(&mut self) {
        if self.status == Status::Error {
            self.status = Status::Active;
        }
    }

    pub fn expected(&self) -> Expected {
        Expected { pair: self.pair, status: self.status, authorization_id: self.authorization_id }
    }

    pub fn seen(&self) -> Seen {
        Seen {
            status: self.status,
            authorization_id: self.authorization_id,
            open_id: self.open_id,
            app_key: self.app_key,
        }
    }
}

impl PendingSave {
    /// The save of a pair that a call has brought.
    pub fn new(pair: Pair, granted_by: (Seller, App), leased: Leased) -> Self {
        let expected = match leased.generation {
            Generation::Known(authorization_id) => {
                Some(Expected { pair: leased.pair, status: Status::Active, authorization_id })
            }
            Generation::Unknown => None,
        };
        Self {
            pair,
            open_id: leased.open_id.or(Some(granted_by.0)),
            app_key: Some(granted_by.1),
            leased,
            expected,
        }
    }

    /// The row as this save would create it.
    pub fn new_row(&self) -> Row {
        Row {
            pair: self.pair,
            status: Status::Active,
            authorization_id: None,
            open_id: self.open_id,
            app_key: self.app_key,
            is_due: false,
            lease: None,
        }
    }
}

impl PendingConnect {
    /// The seller, if TikTok's response names one.
    pub fn open_id(&self) -> Option<Seller> {
        self.request.names_seller.then_some(self.request.seller)
    }
}

impl Attempt {
    pub fn is_in_flight(&self) -> bool {
        !matches!(self.step, Step::Idle | Step::Ended(_))
    }
}

impl TikTok {
    /// Who granted a pair, to which app.
    pub fn granted_by(&self, pair: Pair) -> (Seller, App) {
        self.authorizations[usize::from(self.authorization_of(pair))]
    }

    pub fn authorization_of(&self, pair: Pair) -> u8 {
        self.pairs[usize::from(pair.access)]
    }

    /// The numbers of the token pairs of one authorization.
    pub fn pairs_of(&self, authorization: u8) -> impl Iterator<Item = u8> {
        (0..).zip(&self.pairs).filter(move |(_, of)| **of == authorization).map(|(pair, _)| pair)
    }

    /// The refresh tokens of one authorization that TikTok accepts: a set of bits.
    pub fn live_tokens_of(&self, authorization: u8) -> u16 {
        self.pairs_of(authorization).fold(0, |tokens, pair| tokens | bit(pair)) & self.live
    }

    /// Issues a token pair, with the refresh token of an earlier pair or a new one. The first seller's access tokens live
    /// longer than any of the second: across authorizations an expiry says nothing.
    fn issue(&mut self, authorization: u8, refresh: Option<u8>) -> Pair {
        let access = u8::try_from(self.pairs.len()).unwrap();
        self.pairs.push(authorization);
        let lives_long = self.authorizations[usize::from(authorization)].0 == Seller::First;
        let refresh = refresh.unwrap_or(access);
        self.live |= bit(refresh);
        Pair { refresh, access, expires_at: access + if lives_long { 16 } else { 0 } }
    }

    /// A seller authorizes an app, and the auth code is exchanged.
    pub fn authorize(&mut self, seller: Seller, app: App) -> (u8, Pair) {
        let id = u8::try_from(self.authorizations.len()).unwrap();
        self.authorizations.push((seller, app));
        (id, self.issue(id, None))
    }

    /// Ends every authorization of an app by a seller. `false` if none is live.
    pub fn end_authorizations(&mut self, seller: Seller, app: App) -> bool {
        let same = (0..).zip(&self.authorizations).filter(|(_, by)| **by == (seller, app));
        let tokens = same.fold(0, |tokens, (id, _)| tokens | self.live_tokens_of(id));
        self.live &= !tokens;
        tokens != 0
    }

    /// Redeems a refresh token: a new pair, or a definite rejection.
    pub fn redeem(&mut self, token: u8, is_single_use: bool) -> Option<Pair> {
        if self.live & bit(token) == 0 {
            self.rejected |= bit(token);
            return None;
        }
        if is_single_use {
            self.live &= !bit(token);
        }
        Some(self.issue(self.pairs[usize::from(token)], (!is_single_use).then_some(token)))
    }
}

impl State {
    /// A row that is due: with every attribute, or as version 0.1 has left it.
    pub fn new(attempts: usize, connects: usize, faults: u8, is_legacy: bool) -> Self {
        let mut tiktok = TikTok { authorizations: Vec::new(), pairs: Vec::new(), live: 0, rejected: 0 };
        let (id, pair) = tiktok.authorize(Seller::First, App::Default);
        let row = Row {
            pair,
            status: Status::Active,
            authorization_id: (!is_legacy).then_some(id),
            open_id: (!is_legacy).then_some(Seller::First),
            app_key: (!is_legacy).then_some(App::Default),
            is_due: true,
            lease: None,
        };
        Self {
            row: Some(row),
            is_deleted: false,
            attempts: vec![Attempt { step: Step::Idle, has_lost_lease: false }; attempts],
            connects: vec![Connect::Idle; connects],
            rescue_queue: vec![Message::None; attempts + 1],
            tiktok,
            newest: id,
            lost: 0,
            violated: None,
            faults_left: faults,
        }
    }

    /// An attempt of version 0.1 has redeemed the row's token, and sent the pair to the rescue queue.
    pub fn with_legacy_message(mut self, is_single_use: bool) -> Self {
        let waiting = self.row.and_then(|row| {
            let pair = self.tiktok.redeem(row.pair.refresh, is_single_use)?;
            let leased = Leased { generation: Generation::Unknown, ..row.leased() };
            let save = PendingSave::new(pair, self.tiktok.granted_by(pair), leased);
            Some(Message::Waiting(PendingSave { app_key: None, ..save }))
        });
        self.rescue_queue.pop();
        self.rescue_queue.extend(waiting);
        self
    }

    pub fn in_flight(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.is_in_flight())
    }

    pub fn is_connecting(&self) -> bool {
        self.connects.iter().any(|connect| !matches!(connect, Connect::Idle | Connect::Ended(_)))
    }

    /// Nothing is in progress.
    pub fn is_at_rest(&self) -> bool {
        let waits = |message: &Message| matches!(message, Message::Waiting(_));
        self.in_flight().next().is_none() && !self.is_connecting() && !self.rescue_queue.iter().any(waits)
    }

    pub fn has_connect_ended(&self, outcome: ConnectOutcome) -> bool {
        self.connects.contains(&Connect::Ended(outcome))
    }

    pub fn has_ended(&self, outcome: Outcome) -> bool {
        self.attempts.iter().any(|attempt| attempt.step == Step::Ended(outcome))
    }

    pub fn end(&mut self, at: usize, outcome: Outcome) {
        self.attempts[at] = Attempt { step: Step::Ended(outcome), has_lost_lease: false };
    }

    pub fn violates(&mut self, property: &'static str) {
        self.violated.get_or_insert(property);
    }
}
