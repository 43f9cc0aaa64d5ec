//! The task of a connection: waits for the client, the routers and timers, and performs the session's effects.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    mem,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use carillon_proto::{
    clock, limits, now_ms,
    pb::{
        client::Code,
        link::{ConnectionProgress, router_request::Op},
        store::session::Protocol,
    },
};
use prost::Message as _;

use crate::{
    connections::Connections,
    conversation::{Effect, Input, Now, Rules, Session},
    feeding::{ConnectionFeeds, Feeding},
    feeds::{Entry, Follower},
    links::{RouterLinks, Submit},
    mailbox::{Mail, Mailbox},
    media::MediaService,
    metrics,
    outcome::refusal,
    transport::{Event, Transport},
};

/// Shared by all connections.
pub(crate) struct Shared {
    pub(crate) rules: Arc<Rules>,
    pub(crate) links: RouterLinks,
    pub(crate) connections: Arc<Connections>,
    pub(crate) feeding: Arc<Feeding>,
    pub(crate) write_timeout: Duration,
    pub(crate) max_outgoing_bytes: usize,
    /// `None`: this gateway has no place for files.
    pub(crate) media: Option<Arc<MediaService>>,
}

thread_local! {
    /// Reused by all connections of the thread; empty between inputs. A list in each connection would take more than a
    /// kilobyte of an idle one.
    static EFFECTS: Cell<Vec<Effect>> = const { Cell::new(Vec::new()) };
}

/// Deadline for writing the last frames and closing.
const CLOSING: Duration = Duration::from_secs(2);
/// The metrics are updated after this many bytes.
const COUNT_EACH: u64 = 16 * 1024;
/// How far ahead the timer is set when there is nothing to wait for.
const FAR: Duration = Duration::from_secs(3600);

/// How a client arrived.
pub(crate) struct Arrival {
    pub(crate) protocol: Protocol,
    /// The client's own address, looking through proxies.
    pub(crate) address: IpAddr,
    /// The client must be signed in by then.
    pub(crate) deadline: Instant,
}

/// Serves a connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, mut transport: impl Transport, arrival: Arrival) {
    let _counted = metrics::Counted::connection(name(arrival.protocol));
    let mut connection = Connection::new(shared, &arrival);
    transport.set_max_frame(limits::MAX_FRAME_BYTES_BEFORE_SIGN_IN);
    connection.run(&mut transport).await;
    connection.leave();
    // The client may be gone; then there is nothing to close.
    let _ = clock::timeout(CLOSING, poll_fn(|cx| transport.poll_close(cx))).await;
    connection.count(&transport);
}

/// The kind of event that the loop of a connection handles next.
enum Turn {
    Mail,
    Event(Event),
    /// Output waits that can't be written now.
    Stuck,
    /// A timer has run out.
    Timers,
}

struct Connection {
    shared: Arc<Shared>,
    number: u64,
    mailbox: Arc<Mailbox>,
    /// Boxed, to keep the task of an idle connection small.
    follows: Box<ConnectionFeeds>,
    session: Session,
    /// More output is pending than allowed.
    full: bool,
    /// The client has closed its half: there is nothing more to read.
    half_closed: bool,
    closing: bool,
    /// How many bytes had been read when some came last, and when that was.
    fresh: (u64, Instant),
    signed_in: bool,
    /// Bytes read and written that the metrics include.
    counted: (u64, u64),
    /// Frames read and written that they do not include.
    frames: (u32, u32),
    /// Since when pending output has made no progress, and the bytes written by then.
    stuck: Option<(Instant, u64)>,
}

impl Connection {
    fn new(shared: Arc<Shared>, arrival: &Arrival) -> Self {
        let number = shared.connections.number();
        let mailbox = Arc::new(Mailbox::default());
        shared.connections.insert(number, Arc::clone(&mailbox));
        let follows = Box::new(shared.feeding.follow(number));
        let rules = Arc::clone(&shared.rules);
        let now = now();
        let mut session = Session::new(rules, number, arrival.protocol, arrival.address, now);
        session.sign_in_by(arrival.deadline);
        Self {
            shared,
            number,
            mailbox,
            follows,
            session,
            full: false,
            half_closed: false,
            closing: false,
            fresh: (0, now.instant),
            signed_in: false,
            counted: (0, 0),
            frames: (0, 0),
            stuck: None,
        }
    }

    async fn run(&mut self, transport: &mut impl Transport) {
        let mut sleep = clock::sleep(FAR);
        let mut sleeps_until = now().instant + FAR;
        let (mut elapsed, mut mail_first) = (false, false);
        while !self.closing {
            let wake_at = self.wake_at();
            // Reset only if it would fire too late: firing early now and then costs less.
            if wake_at < sleeps_until || elapsed {
                sleep.reset(wake_at.into());
                (sleeps_until, elapsed) = (wake_at, false);
            }
            // Mail and transport are first in turns, so that neither holds up the other for long.
            mail_first = !mail_first;
            match self.next_turn(transport, &mut sleep, mail_first).await {
                Turn::Mail => {
                    let mail = self.mailbox.take();
                    self.mail(mail, transport);
                }
                Turn::Stuck => self.stuck = Some((now().instant, transport.written_bytes())),
                Turn::Event(event) => match event {
                    Event::Ask(ask) => {
                        self.frames.0 += 1;
                        let now = now();
                        self.refresh(now.instant, transport.read_bytes());
                        self.input_at(now, Input::Ask(ask), transport);
                    }
                    Event::Alive => self.input(Input::Alive, transport),
                    Event::Malformed(code, reason) => self.input(Input::Malformed { code, reason }, transport),
                    Event::Unreadable(what, reason) => {
                        self.input(Input::Unreadable { what, reason }, transport);
                    }
                    Event::HalfClosed => {
                        self.half_closed = true;
                        self.input(Input::HalfClosed, transport);
                    }
                    Event::Flushed => {}
                    Event::Ended => return,
                },
                Turn::Timers => elapsed = true,
            }
            self.timers(transport);
        }
    }

    async fn next_turn(&self, transport: &mut impl Transport, sleep: &mut clock::Sleep, mail_first: bool) -> Turn {
        // Above the bound nothing more is read, because what a client sends has answers.
        let read = !self.full && !self.half_closed && self.session.reads();
        let mut arrived = pin!(self.mailbox.arrived());
        poll_fn(|cx| {
            if mail_first && arrived.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::Mail);
            }
            let mut event = transport.poll(cx, read);
            // Nothing waits for the end of a write, nearly always: going on at once saves a turn for each message.
            if matches!(event, Poll::Ready(Event::Flushed)) && !self.full && self.stuck.is_none() {
                event = transport.poll(cx, read);
            }
            match event {
                Poll::Ready(event) => return Poll::Ready(Turn::Event(event)),
                Poll::Pending if self.stuck.is_none() && transport.queued_bytes() > 0 => {
                    return Poll::Ready(Turn::Stuck);
                }
                Poll::Pending => {}
            }
            if !mail_first && arrived.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::Mail);
            }
            Pin::new(&mut *sleep).poll(cx).map(|()| Turn::Timers)
        })
        .await
    }

    fn mail(&mut self, mut mail: Mail, transport: &mut impl Transport) {
        // Directed requests have no client frames yet.
        for (directed, asked) in mem::take(&mut mail.directed) {
            asked.answer(match directed.progress {
                true => Ok(self.progress(transport).encode_to_vec().into()),
                false => Err(refusal(Code::Unsupported, "the device takes no requests of this kind", 0)),
            });
        }
        let now = now();
        for input in mail.into_inputs() {
            if let Input::Entry(entry) = &input {
                self.measure(entry, now);
            }
            self.input_at(now, input, transport);
        }
    }

    fn progress(&self, transport: &impl Transport) -> ConnectionProgress {
        let queued_bytes = transport.queued_bytes() as u64;
        ConnectionProgress { timelines: self.session.progress(), queued_bytes }
    }

    /// Measures how long a message took to get here. Those of this client itself go no further.
    fn measure(&self, entry: &Entry, now: Now) {
        if entry.sender != Some(Follower(self.number)) && entry.time_ms != 0 {
            metrics::delivered(now.unix_ms.saturating_sub(entry.time_ms));
        }
    }

    /// Frames that were read together were read when the first of them is handled.
    fn refresh(&mut self, now: Instant, read_bytes: u64) {
        if self.fresh.0 != read_bytes {
            self.fresh = (read_bytes, now);
        }
    }

    fn input(&mut self, input: Input, transport: &mut impl Transport) {
        self.input_at(now(), input, transport);
    }

    fn input_at(&mut self, now: Now, input: Input, transport: &mut impl Transport) {
        let mut effects = EFFECTS.take();
        // Answers of feeds, which are there at once.
        let mut answers = Vec::new();
        let mut next = Some(input);
        while let Some(input) = next {
            self.session.handle(now, input, &mut effects);
            for effect in effects.drain(..) {
                answers.extend(self.perform(now, effect, transport));
            }
            next = answers.pop();
        }
        EFFECTS.set(effects);
        let queued = transport.queued_bytes();
        // On and off at different marks, to avoid flapping.
        let full = if self.full {
            queued > self.shared.max_outgoing_bytes / 4
        } else {
            queued > self.shared.max_outgoing_bytes
        };
        if full != self.full {
            self.full = full;
            self.input_at(now, Input::Backlog { full }, transport);
        }
    }

    /// `Some`: the answer of a feed.
    fn perform(&mut self, now: Now, effect: Effect, transport: &mut impl Transport) -> Option<Input> {
        match effect {
            Effect::Tell(tell) => {
                self.frames.1 += 1;
                transport.tell(tell, now);
            }
            Effect::Request { tag, op, traceparent } => {
                let client = Some((Arc::clone(&self.mailbox), tag));
                let read_at = matches!(op, Op::Send(_)).then_some(self.fresh.1);
                let submit = Submit { connection: self.number, client, op, traceparent, read_at };
                self.shared.links.submit(submit);
            }
            Effect::Feed(ask) => return self.follows.ask(ask).map(Input::from),
            Effect::Ping => transport.ping(),
            Effect::SignedIn => {
                transport.set_max_frame(self.shared.rules.max_frame_bytes);
                transport.signed_in();
                if !std::mem::replace(&mut self.signed_in, true) {
                    self.shared.connections.signed_in();
                }
            }
            Effect::Close => self.closing = true,
        }
        None
    }

    fn wake_at(&self) -> Instant {
        let stuck = self.stuck.map(|(since, _)| since + self.shared.write_timeout);
        let wake = [self.session.wake_at(), stuck].into_iter().flatten().min();
        wake.unwrap_or_else(|| now().instant + FAR)
    }

    fn timers(&mut self, transport: &mut impl Transport) {
        let now = now();
        if self.session.wake_at().is_some_and(|at| at <= now.instant) {
            self.input_at(now, Input::Wake, transport);
        } else if self.full {
            // The queue may have drained meanwhile.
            self.backlog(now, transport);
        }
        let written = transport.written_bytes();
        if transport.read_bytes() + written >= self.counted.0 + self.counted.1 + COUNT_EACH {
            self.count(transport);
        }
        if transport.queued_bytes() == 0 {
            self.stuck = None;
            return;
        }
        // `None`: it will be written in the next turn, nearly always.
        let Some((since, before)) = self.stuck else { return };
        if before != written {
            self.stuck = Some((now.instant, written));
        } else if now.instant.saturating_duration_since(since) >= self.shared.write_timeout {
            self.input_at(now, Input::TooSlow, transport);
        }
    }

    fn backlog(&mut self, now: Now, transport: &mut impl Transport) {
        if transport.queued_bytes() <= self.shared.max_outgoing_bytes / 4 {
            self.full = false;
            self.input_at(now, Input::Backlog { full: false }, transport);
        }
    }

    fn count(&mut self, transport: &impl Transport) {
        let (read, written) = (transport.read_bytes(), transport.written_bytes());
        let (frames_read, frames_written) = mem::take(&mut self.frames);
        metrics::traffic(
            (read - self.counted.0, written - self.counted.1),
            (frames_read.into(), frames_written.into()),
        );
        self.counted = (read, written);
    }

    /// Sends the last requests to the routers if the client left without notice.
    fn leave(&mut self) {
        self.shared.connections.remove(self.number);
        if std::mem::take(&mut self.signed_in) {
            self.shared.connections.signed_out();
        }
        for op in self.session.leave() {
            self.shared.links.submit(Submit::unasked(self.number, op));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Only if the task was ended from outside: otherwise nothing is left to send.
        self.leave();
    }
}

pub(crate) fn now() -> Now {
    Now { instant: clock::now().into_std(), unix_ms: now_ms() }
}

pub(crate) fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Websocket => "websocket",
        Protocol::Grpc => "grpc",
        Protocol::Xmpp => "xmpp",
        Protocol::Unspecified => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{stream::StreamTransport, xmpp::stream::XmppStream};
    use tokio::net::TcpStream;

    fn size_of_future<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// The task tracker holds the future twice while the task starts.
    #[test]
    fn an_idle_connections_task_is_small() {
        type Tcp = StreamTransport<TcpStream>;
        let size = size_of_future(|shared, transport: Tcp, arrival| serve(shared, transport, arrival));
        assert!(size <= 2048, "{size} bytes");
        type Xmpp = XmppStream<TcpStream>;
        let size = size_of_future(|shared, transport: Xmpp, arrival| serve(shared, transport, arrival));
        assert!(size <= 2048, "{size} bytes");
    }
}
