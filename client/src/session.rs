//! One connection after the sign-in.

mod frames;
pub(crate) mod simulation;
mod writer;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use carillon_proto::{
    TimelineId, features,
    pb::client::{
        self, Limits, Ping, Renew, SignOut, SignedIn, Timeline, TimelineState, client_frame::Body,
        server_frame::Body as Frame,
    },
};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{sleep_until, timeout};

use self::writer::Writer;
use crate::{
    Connection, ConnectionError, Event,
    command::Command,
    connection::Incoming,
    driver::{Driver, End, TICK},
    positions::Rest,
};

/// Frames handled before anything else gets its turn.
const FRAMES_AT_ONCE: usize = 64;
/// Request number of a new token. Fetches have numbers from 1.
const RENEWAL: u32 = 0;
/// The client sends something after this part of the gateway's heartbeat: a little early, to arrive in time.
const HEARTBEAT_PART: f64 = 0.9;
/// Deadline of a sign-out.
const SIGN_OUT: Duration = Duration::from_secs(2);

struct Session {
    incoming: Incoming,
    writer: Writer,
    /// The client sends something at least this often.
    heartbeat: Duration,
    heard: Instant,
    /// Since when there has been an unanswered send without interruption.
    asked: Option<Instant>,
    next_ping: Instant,
    /// When recorded acknowledgements are sent.
    next_acks: Option<Instant>,
    next_tick: Instant,
    /// The service has contacts, and privacy.
    features: (bool, bool),
}

impl Driver {
    /// `rest`: positions that the sign-in had no room for.
    pub(crate) async fn session(&mut self, connection: Connection, signed_in: &SignedIn, rest: Rest) -> End {
        let mut session = Session::new(connection, signed_in);
        if let Err(end) = self.begin(signed_in) {
            return end;
        }
        // To another service, which does not wait for them, they mean nothing.
        if signed_in.features.iter().any(|feature| feature == features::MORE_POSITIONS) {
            let max_bytes = signed_in.limits.as_ref().map_or(0, |limits| limits.max_frame_bytes);
            rest.into_frames(max_bytes as usize)
                .into_iter()
                .for_each(|frame| session.writer.push(Body::Positions(frame)));
        }
        self.ask_own(&mut session);
        let end = match self.serve(&mut session).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        };
        if matches!(end, End::Closed) {
            self.sign_out(session).await;
        }
        end
    }

    /// Sends the requests that the client makes by itself: at the beginning of a connection, and again when one was refused for now. Otherwise
    /// nobody would show the user again.
    fn ask_own(&mut self, session: &mut Session) {
        self.own(session.features).into_iter().for_each(|frame| session.writer.push(frame));
    }

    /// `features`: the service has contacts, and privacy.
    fn own(&mut self, features: (bool, bool)) -> Vec<Body> {
        self.own_again = None;
        let (contacts, privacy) = features;
        let contacts = contacts.then(|| self.contacts.begin()).into_iter().flatten();
        let privacy = privacy.then(|| self.privacy.begin()).flatten();
        contacts.chain(privacy).collect()
    }

    fn begin(&mut self, signed_in: &SignedIn) -> Result<(), End> {
        let window = signed_in.limits.as_ref().map_or(1, |limits: &Limits| limits.max_pending_sends);
        self.outbox.connected(window as usize);
        self.fetches.disconnected();
        self.acks.connected();
        self.positions.connected();
        self.delivered_from(&signed_in.timelines)
    }

    /// The gateway says where delivery of these timelines begins.
    fn delivered_from(&mut self, timelines: &[TimelineState]) -> Result<(), End> {
        for state in timelines {
            let timeline = timeline(state.timeline.as_ref())?;
            if let Some(first) = self.positions.signed_in(timeline.clone(), state) {
                self.events.push(Event::Trimmed { timeline, first });
            }
        }
        Ok(())
    }

    /// Runs until the client is closed or the connection is of no more use.
    async fn serve(&mut self, session: &mut Session) -> Result<(), End> {
        // When it is full, commands wait in their channel.
        let mut commands: Vec<Command> = Vec::with_capacity(64);
        let timer = sleep_until(Instant::now().into());
        tokio::pin!(timer);
        loop {
            self.fill(session);
            timer.as_mut().reset(self.next_wake(session).into());
            let reading = self.events.has_room();
            tokio::select! {
                frame = session.incoming.next(), if reading => {
                    self.read(session, frame)?;
                }
                written = session.writer.drive(), if session.writer.has_work() => {
                    written.map_err(lost)?;
                }
                // Cancel-safe: takes nothing unless it returns.
                count = self.commands.recv_many(&mut commands, 64) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for command in commands.drain(..) {
                        if self.take(Some(command)).is_err() {
                            return Ok(());
                        }
                    }
                }
                () = self.events.give(), if !self.events.is_empty() => {}
                () = self.acks.changed.notified(), if session.next_acks.is_none() => {
                    session.next_acks = Some(Instant::now() + self.config.acknowledge.interval());
                }
                () = &mut timer => self.on_timer(session)?,
            }
            if !reading {
                // We stopped reading, so silence says nothing.
                session.heard = Instant::now();
            }
        }
    }

    /// Moves to the writer what may go out.
    fn fill(&mut self, session: &mut Session) {
        let (writer, now) = (&mut session.writer, Instant::now());
        self.outbox.take_ready(now, |request| writer.push(request.into()));
        session.asked = self.outbox.awaits_answer().then(|| session.asked.unwrap_or(now));
        self.fetches.take_ready(|query| writer.push(query));
        for renewal in self.renewals.iter_mut().filter(|renewal| !renewal.sent) {
            renewal.sent = true;
            writer.push(Body::Renew(Renew { request: RENEWAL, token: renewal.token.clone() }));
        }
    }

    fn next_wake(&self, session: &Session) -> Instant {
        let silent = session.dead_at(self.config.answer_patience);
        let mut wake = session.next_ping.min(silent);
        if let Some(acks) = session.next_acks {
            wake = wake.min(acks);
        }
        if let Some(release) = self.outbox.next_release() {
            wake = wake.min(release);
        }
        if let Some(again) = self.own_again {
            wake = wake.min(again);
        }
        if self.has_deadlines() {
            wake = wake.min(session.next_tick);
        }
        wake
    }

    fn on_timer(&mut self, session: &mut Session) -> Result<(), End> {
        let now = Instant::now();
        if now >= session.dead_at(self.config.answer_patience) {
            return Err(lost_because("nothing was heard for too long"));
        }
        if now >= session.next_ping {
            session.next_ping = now + session.heartbeat;
            session.writer.push(Body::Ping(Ping { nonce: 0 }));
        }
        if session.next_acks.is_some_and(|due| now >= due) {
            session.next_acks = None;
            self.acks.take(|ack| session.writer.push(Body::Ack(ack)));
        }
        if self.own_again.is_some_and(|again| now >= again) {
            self.ask_own(session);
        }
        if now >= session.next_tick {
            session.next_tick = now + TICK;
            self.expire(now);
        }
        Ok(())
    }

    /// Handles a frame, and those that have arrived already.
    fn read(
        &mut self,
        session: &mut Session,
        first: Option<Result<client::ServerFrame, ConnectionError>>,
    ) -> Result<(), End> {
        session.heard = Instant::now();
        let mut frame = first;
        let mut left = FRAMES_AT_ONCE;
        loop {
            match frame {
                Some(Ok(client::ServerFrame { body: Some(body) })) => self.handle(body, session.heard)?,
                // A frame of a newer release.
                Some(Ok(client::ServerFrame { body: None })) => {}
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(lost(ConnectionError::Closed)),
            }
            left -= 1;
            // Every frame taken from the connection is handled, so none is taken that may not be.
            if left == 0 || !self.events.has_room() {
                break;
            }
            match session.incoming.next().now_or_never() {
                Some(next) => frame = next,
                None => break,
            }
        }
        self.events.give_what_fits();
        Ok(())
    }

    /// Signs out, and reads for a short time what is still on its way.
    async fn sign_out(&mut self, mut session: Session) {
        self.acks.take(|ack| session.writer.push(Body::Ack(ack)));
        session.writer.push(Body::SignOut(SignOut {}));
        let goodbye = async {
            loop {
                tokio::select! {
                    frame = session.incoming.next() => match frame {
                        // Nobody takes it any more; the cursor stays before it.
                        Some(Ok(client::ServerFrame { body: Some(Frame::Deliver(_)) | None })) => {}
                        Some(Ok(client::ServerFrame { body: Some(body) })) => {
                            if self.handle(body, Instant::now()).is_err() {
                                return;
                            }
                        }
                        Some(Err(_)) | None => return,
                    },
                    written = session.writer.drive(), if session.writer.has_work() => {
                        if written.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        if timeout(SIGN_OUT, goodbye).await.is_err() {
            tracing::debug!("the gateway did not answer the sign-out");
        }
    }
}

impl Session {
    fn new(connection: Connection, signed_in: &SignedIn) -> Self {
        let (outgoing, incoming) = connection.split();
        let now = Instant::now();
        let heartbeat = Duration::from_millis(u64::from(signed_in.heartbeat_ms.max(100))).mul_f64(HEARTBEAT_PART);
        Self {
            incoming,
            writer: Writer { outgoing, waiting: VecDeque::new(), dirty: false },
            heartbeat,
            heard: now,
            asked: None,
            next_ping: now + heartbeat,
            next_acks: None,
            next_tick: now + TICK,
            features: own_features(signed_in),
        }
    }

    /// When silence means that the connection is dead: the gateway answers each ping at once, and each send within the
    /// patience.
    fn dead_at(&self, answer_patience: Duration) -> Instant {
        let unheard_ping = self.heard + self.heartbeat + answer_patience.min(self.heartbeat + Duration::from_secs(1));
        match self.asked {
            Some(asked) => unheard_ping.min(self.heard.max(asked) + answer_patience),
            None => unheard_ping,
        }
    }
}

/// The service has contacts, and privacy.
fn own_features(signed_in: &SignedIn) -> (bool, bool) {
    let has = |name: &str| signed_in.features.iter().any(|feature| feature == name);
    (has(features::CONTACTS), has(features::PRIVACY))
}

fn timeline(timeline: Option<&Timeline>) -> Result<TimelineId, End> {
    let known = timeline.and_then(|timeline| TimelineId::from_client(timeline).ok().flatten());
    known.ok_or_else(|| lost_because("a frame names no valid timeline"))
}

fn lost(error: ConnectionError) -> End {
    End::Lost { why: error.to_string(), after: None }
}

fn lost_because(why: &str) -> End {
    End::Lost { why: why.to_owned(), after: None }
}
