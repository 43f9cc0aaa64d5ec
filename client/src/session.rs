//! One connection after the sign-in.

pub(crate) mod simulation;

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use carillon_proto::{
    TimelineId, features,
    pb::client::{
        self, ClientFrame, Limits, Ping, Renew, SignOut, SignedIn, Timeline, TimelineState, client_frame::Body,
        refused::What, server_frame::Body as Frame,
    },
};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{sleep_until, timeout};

use crate::{
    Connection, ConnectionError, Ending, Event, FetchError, Refusal, RenewError, SendError, Ticket,
    command::Command,
    connection::{Incoming, Outgoing},
    contacts::OWN,
    driver::{Driver, End, TICK, bye_pause},
    fetches::Found,
    positions::{Rest, Step},
};

/// Frames handled before anything else gets its turn.
const FRAMES_AT_ONCE: usize = 64;
/// The request number of a new token. Fetches have numbers from 1.
const RENEWAL: u32 = 0;
/// That of what nobody has asked for.
const UNASKED: u32 = 0;
/// The client sends something after this part of the gateway's heartbeat: a little early, to arrive in time.
const HEARTBEAT_PART: f64 = 0.9;
/// Deadline of a sign-out.
const SIGN_OUT: Duration = Duration::from_secs(2);
/// Least pause before what the client asks by itself is asked again.
const OWN_AGAIN: Duration = Duration::from_secs(1);

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

    fn handle(&mut self, body: Frame, now: Instant) -> Result<(), End> {
        match body {
            Frame::Deliver(deliver) => self.on_deliver(deliver),
            Frame::Accepted(accepted) => self.on_accepted(accepted),
            Frame::Refused(refused) => self.on_refused(refused, now),
            Frame::Trimmed(trimmed) => {
                let timeline = timeline(trimmed.timeline.as_ref())?;
                let first = trimmed.first.ok_or_else(|| lost_because("Trimmed has no position"))?.into();
                if self.positions.trimmed(&timeline, first) {
                    self.events.push(Event::Trimmed { timeline, first });
                }
                Ok(())
            }
            Frame::Page(page) => self.found(page.request, Found::Page(page)),
            Frame::Group(group) => self.found(group.request, Found::Group(*group)),
            Frame::Members(members) => self.found(members.request, Found::Members(members)),
            Frame::MediaSlot(slot) => self.found(slot.request, Found::MediaSlot(slot)),
            Frame::MediaUrl(url) => self.found(url.request, Found::MediaUrl(url)),
            Frame::ScheduledChanged(changed) if changed.request == UNASKED => {
                self.events.push(Event::Scheduled(changed));
                Ok(())
            }
            Frame::ScheduledChanged(changed) => self.found(changed.request, Found::ScheduledChanged(changed)),
            Frame::ScheduledMessages(list) => self.found(list.request, Found::ScheduledMessages(list)),
            Frame::Groups(groups) => self.found(groups.request, Found::Groups(groups)),
            Frame::Conversations(changed) if changed.request == UNASKED => {
                self.events.push(Event::Conversations(changed));
                Ok(())
            }
            Frame::Conversations(read) => self.found(read.request, Found::Conversations(read)),
            Frame::Marks(marks) if marks.request == UNASKED => {
                self.events.push(Event::Marks(marks));
                Ok(())
            }
            Frame::Marks(marks) => self.found(marks.request, Found::Marks(marks)),
            Frame::Contacts(contacts) => {
                self.events.extend(self.contacts.read(&contacts));
                self.found(contacts.request, Found::Contacts(contacts))
            }
            Frame::Done(done) => self.found(done.request, Found::Done),
            Frame::ContactNews(news) => {
                self.events.extend(self.contacts.news(*news));
                Ok(())
            }
            Frame::Presences(told) => {
                for presence in told.presences {
                    self.events.extend(self.contacts.presence(presence));
                }
                Ok(())
            }
            Frame::Privacy(privacy) => {
                self.events.extend(self.privacy.read(&privacy));
                self.found(privacy.request, Found::Privacy(privacy))
            }
            Frame::PrivacyNews(news) => {
                self.events.extend(self.privacy.news(news));
                Ok(())
            }
            Frame::ChatState(told) => {
                self.events.push(Event::ChatState(told));
                Ok(())
            }
            Frame::Timelines(begun) => self.delivered_from(&begun.timelines),
            Frame::Renewed(renewed) => {
                self.renewed(Ok(Ticket::new(renewed.ticket)));
                Ok(())
            }
            Frame::Pong(pong) => {
                for head in pong.heads {
                    let timeline = timeline(head.timeline.as_ref())?;
                    if let Some(position) = head.position
                        && self.positions.is_stuck(&timeline, position.into())
                    {
                        return Err(lost_because("the gateway does not deliver what it has"));
                    }
                }
                Ok(())
            }
            Frame::Bye(bye) => {
                let why = if bye.reason.is_empty() { bye.code().as_str_name().to_owned() } else { bye.reason.clone() };
                let after = bye_pause(&bye);
                Err(match bye.reconnect {
                    true => End::Lost { why, after },
                    false => End::Final { ending: Ending::of_bye(&bye, true), why },
                })
            }
            Frame::Challenge(_) | Frame::SignedIn(_) => Err(lost_because("a frame of the sign-in came after it")),
        }
    }

    fn found(&mut self, request: u32, found: Found) -> Result<(), End> {
        if let Some(answer) = self.fetches.answered(request) {
            let _ = answer.send(Ok(found));
        }
        Ok(())
    }

    fn on_deliver(&mut self, deliver: client::Deliver) -> Result<(), End> {
        let timeline = timeline(deliver.timeline.as_ref())?;
        let (Some(position), Some(envelope)) = (deliver.position, deliver.envelope) else {
            return Err(lost_because("Deliver has no position or no envelope"));
        };
        let position = position.into();
        match self.positions.step(&timeline, position) {
            Step::Next => self.events.push(Event::Delivered { timeline, position, envelope }),
            Step::Known => {}
            Step::Gap { has } => {
                let why = format!("{timeline} came with {position:?} after {has:?}");
                return Err(End::Lost { why, after: None });
            }
        }
        Ok(())
    }

    fn on_accepted(&mut self, accepted: client::Accepted) -> Result<(), End> {
        let timeline = timeline(accepted.timeline.as_ref())?;
        let position = accepted.position.ok_or_else(|| lost_because("Accepted has no position"))?.into();
        // A later one is delivered in its turn, and so are changes of groups; timelines that the device does not follow deliver nothing.
        let counts = !self.outbox.is_change(&accepted.client_id);
        if counts && self.positions.get(&timeline).is_some() && self.positions.step(&timeline, position) == Step::Next {
            self.events.push(Event::Sent {
                timeline,
                position,
                client_id: accepted.client_id.clone(),
                message_id: accepted.message_id.clone(),
                time_ms: accepted.time_ms,
                expires_at_ms: accepted.expires_at_ms,
            });
        }
        if let Some(answer) = self.outbox.accepted(&accepted.client_id) {
            answer.give(Ok(accepted));
        }
        Ok(())
    }

    fn on_refused(&mut self, refused: client::Refused, now: Instant) -> Result<(), End> {
        let what = refused.what.clone();
        let refusal = Refusal::from(refused);
        match what {
            Some(What::ClientId(client_id)) => {
                if let Some(answer) = self.outbox.refused(&client_id, &refusal, now) {
                    answer.give(Err(SendError::Refused(refusal)));
                }
                Ok(())
            }
            Some(What::Request(RENEWAL)) => {
                self.renewed(Err(RenewError::Refused(refusal)));
                Ok(())
            }
            Some(What::Request(OWN)) => {
                if refusal.retry {
                    self.own_again.get_or_insert(now + refusal.retry_after.max(OWN_AGAIN));
                }
                Ok(())
            }
            Some(What::Request(request)) => {
                if let Some(answer) = self.fetches.answered(request) {
                    let _ = answer.send(Err(FetchError::Refused(refusal)));
                }
                Ok(())
            }
            None => Err(End::Lost { why: refusal.to_string(), after: Some(refusal.retry_after) }),
        }
    }

    /// The answer belongs to the oldest renewal: the gateway answers renewals in order.
    fn renewed(&mut self, result: Result<Option<Ticket>, RenewError>) {
        if let Some(renewal) = self.renewals.pop_front() {
            let result = result.map(|ticket| self.use_token(renewal.token, ticket));
            let _ = renewal.answer.send(result);
        }
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

/// Outgoing frames. Bounded: sends by the window, the others by what caused them.
struct Writer {
    outgoing: Outgoing,
    waiting: VecDeque<ClientFrame>,
    dirty: bool,
}

impl Writer {
    fn push(&mut self, body: Body) {
        self.waiting.push_back(ClientFrame { body: Some(body) });
    }

    fn has_work(&self) -> bool {
        self.dirty || !self.waiting.is_empty()
    }

    /// Writes everything, then flushes once. Cancel-safe: unwritten frames stay here or in the sink.
    async fn drive(&mut self) -> Result<(), ConnectionError> {
        poll_fn(|context| self.poll_drive(context)).await
    }

    fn poll_drive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        while !self.waiting.is_empty() {
            std::task::ready!(self.outgoing.as_mut().poll_ready(context))?;
            if let Some(frame) = self.waiting.pop_front() {
                self.dirty = true;
                self.outgoing.as_mut().start_send(frame)?;
            }
        }
        std::task::ready!(self.outgoing.as_mut().poll_flush(context))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }
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
