//! XMPP over TCP, with STARTTLS or inside TLS.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use carillon_proto::{clock, pb::client::Code};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::Io;
use crate::{
    connection::now,
    conversation::{Now, Tell},
    dialect::xmpp::{Check, Heard, Seed, Service, TcpDialog},
    listener::XmppTlsSide,
    transport::{Event, Transport, linger::Linger},
};

/// Bytes read at once. On the stack, so that an idle connection holds no buffer.
const READ: usize = 8 * 1024;

pub(crate) struct XmppStream<S> {
    io: Io<S>,
    service: Arc<Service>,
    dialog: Box<TcpDialog>,
    /// `None`: there is no TLS here.
    tls: Option<XmppTlsSide>,
    /// Bytes that were read, and that the dialog has not heard.
    input: BytesMut,
    /// The number of those of the dialog's bytes for the client that the network has taken.
    sent: usize,
    written: u64,
    read: u64,
    unflushed: bool,
    /// The handshake begins when everything is written.
    starts_tls: bool,
    linger: Linger,
    /// A password is being compared, on another thread.
    checking: Option<Checking>,
    /// The client has sent too much, and is read later.
    pause: Option<clock::Sleep>,
}

type Checking = Pin<Box<dyn Future<Output = bool> + Send>>;

impl<S: AsyncRead + AsyncWrite + Unpin> XmppStream<S> {
    /// `is_direct`: TLS begins now; otherwise STARTTLS begins it, if `tls` is there.
    pub(crate) fn new(stream: S, service: Arc<Service>, seed: Seed, tls: Option<XmppTlsSide>, is_direct: bool) -> Self {
        let dialog = Box::new(TcpDialog::new(Arc::clone(&service), seed, now()));
        let mut io = Io::Plain(stream);
        if let Some(side) = tls.as_ref().filter(|_| is_direct) {
            io.shake(side);
        }
        Self {
            io,
            service,
            dialog,
            tls,
            input: BytesMut::new(),
            sent: 0,
            written: 0,
            read: 0,
            unflushed: false,
            starts_tls: false,
            linger: Linger::default(),
            checking: None,
            pause: None,
        }
    }

    /// The next event of the client in the bytes that were read.
    fn next_heard(&mut self, cx: &mut Context<'_>, now: Now) -> Option<Event> {
        if let Some(checking) = &mut self.checking {
            let Poll::Ready(is_right) = checking.as_mut().poll(cx) else { return None };
            self.checking = None;
            if let Some(heard) = self.dialog.checked(is_right) {
                return self.event(heard);
            }
        }
        if self.starts_tls || self.is_paused(cx, now) {
            return None;
        }
        let mut rest = &self.input[..];
        let heard = self.dialog.hear(&mut rest, now);
        let taken = self.input.len() - rest.len();
        self.input.advance(taken);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.event(heard?)
    }

    fn event(&mut self, heard: Heard) -> Option<Event> {
        Some(match heard {
            Heard::Ask(ask) => Event::Ask(ask),
            Heard::Alive => Event::Alive,
            Heard::Fault(code, reason) => Event::Malformed(code, reason),
            Heard::Closed => Event::HalfClosed,
            Heard::StartTls => {
                self.starts_tls = true;
                return None;
            }
        })
    }

    fn is_paused(&mut self, cx: &mut Context<'_>, now: Now) -> bool {
        let Some(until) = self.dialog.paused_until(now) else {
            self.pause = None;
            return false;
        };
        let pause = self.pause.get_or_insert_with(|| clock::sleep_until(until.into()));
        if Pin::new(&mut *pause).poll(cx).is_pending() {
            return true;
        }
        // The pause has run out after the clock was read.
        self.pause = None;
        cx.waker().wake_by_ref();
        true
    }

    fn check(&mut self, check: Box<Check>) {
        let service = Arc::clone(&self.service);
        self.checking = Some(Box::pin(async move { service.checks.run(move || check.run()).await }));
    }

    fn unsent(&self) -> usize {
        self.dialog.out().len() - self.sent
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent() > 0 {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &self.dialog.out()[self.sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += taken;
            self.written += taken as u64;
            self.unflushed = true;
            // Taken bytes are forgotten when they are as many as those that wait: so each byte is moved once on the average.
            if self.sent >= self.unsent() {
                self.sent = self.dialog.sent(self.sent);
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The number of bytes read; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut got = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut got))?;
        self.input.extend_from_slice(got.filled());
        self.read += got.filled().len() as u64;
        Poll::Ready(Ok(got.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for XmppStream<S> {
    fn tell(&mut self, tell: Tell, _now: Now) {
        if let Some(check) = self.dialog.tell(tell) {
            self.check(check);
        }
    }

    fn ping(&mut self) {
        self.dialog.ping();
    }

    fn queued_bytes(&self) -> usize {
        self.unsent()
    }

    fn written_bytes(&self) -> u64 {
        self.written
    }

    fn read_bytes(&self) -> u64 {
        self.read
    }

    /// Elements have limits of their own.
    fn set_max_frame(&mut self, _bytes: usize) {}

    fn signed_in(&mut self) {
        self.dialog.signed_in();
    }

    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        loop {
            if self.io.is_shaking() {
                if ready!(self.io.poll_shake(cx)).is_err() {
                    return Poll::Ready(Event::Ended);
                }
                let bindings = self.tls.as_ref().map(|side| self.io.bindings(side)).unwrap_or_default();
                self.dialog.secured(bindings);
            }
            // Whole elements first, so that their answers are written together.
            if read && let Some(event) = self.next_heard(cx, now()) {
                return Poll::Ready(event);
            }
            let wrote = self.unsent() > 0 || self.unflushed;
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) if self.starts_tls => {
                    self.starts_tls = false;
                    match &self.tls {
                        Some(side) => self.io.shake(side),
                        None => return Poll::Ready(Event::Malformed(Code::Internal, "there is no TLS".to_owned())),
                    }
                    continue;
                }
                Poll::Ready(Ok(())) if wrote => return Poll::Ready(Event::Flushed),
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Ended),
            }
            // Nothing is read while the dialog waits: neither behind bytes that it has not heard, nor before it goes on.
            if !read || self.starts_tls || self.checking.is_some() || self.pause.is_some() || !self.input.is_empty() {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Event::HalfClosed),
                Err(_) => return Poll::Ready(Event::Ended),
                Ok(_) => {}
            }
        }
    }

    /// RFC 6120, section 4.4: "the party that is closing the stream MUST send a TLS close_notify alert"; it MUST "Wait for the other party to also
    /// close its outbound stream before terminating the underlying TCP connection(s)".
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_write(cx)).is_err() {
            return Poll::Ready(());
        }
        self.linger.poll(&mut self.io, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use carillon_proto::credentials::new_credentials;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::{
        config::{GatewayConfig, XmppConfig, XmppTls},
        conversation::{Ask, Rules, Welcome},
    };

    const HEADER: &str = "<stream:stream to='a.b' version='1.0' xmlns='jabber:client' \
                          xmlns:stream='http://etherx.jabber.org/streams'>";

    fn service() -> Arc<Service> {
        let domain = "a.b".to_owned();
        let xmpp = XmppConfig { enabled: true, domain, tls: XmppTls::Outside, ..XmppConfig::default() };
        let config = GatewayConfig { xmpp, ..GatewayConfig::default() };
        let rules = Arc::new(Rules::new(&config, [1; 32]).expect("loads"));
        Arc::new(Service::new(&config.xmpp, rules).expect("a domain"))
    }

    /// Answers as a conversation does.
    async fn serve_once<S: AsyncRead + AsyncWrite + Unpin + Send>(transport: &mut XmppStream<S>) {
        let tell = match poll_fn(|cx| transport.poll(cx, true)).await {
            Event::Ask(Ask::LookUp(_)) => Tell::Keys(Box::new(new_credentials("pencil").expect("valid"))),
            Event::Ask(Ask::SignIn(ask)) => Tell::SignedIn(Box::new(Welcome::simple("juliet", &ask.device))),
            _ => return,
        };
        transport.tell(tell, now());
    }

    /// The bytes of a client that gets a resource.
    fn signs_in() -> Vec<u8> {
        let data = BASE64_STANDARD.encode("\0juliet\0pencil");
        let auth = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{data}</auth>");
        let bind = "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
        [HEADER, &auth, HEADER, bind].concat().into_bytes()
    }

    /// The stanzas have no answer, so that there is nothing to write between two reads.
    #[tokio::test]
    async fn a_client_that_is_read_later_takes_no_memory_meanwhile() {
        let (mut client, server) = duplex(64 * 1024);
        let mut transport = XmppStream::new(server, service(), Seed::new([1; 32]), None, false);
        let stanza = format!("<presence type='unavailable'><status>{}</status></presence>", "x".repeat(300));
        let flood = async {
            client.write_all(&signs_in()).await.expect("writes");
            loop {
                client.write_all(stanza.as_bytes()).await.expect("writes");
            }
        };
        // 500 come at once, and the others later.
        let (mut most_kept, enough) = (0, 560 * stanza.len() as u64);
        let serves = async {
            while !transport.dialog.out().ends_with(b"</bind></iq>") {
                serve_once(&mut transport).await;
            }
            poll_fn(|cx| {
                loop {
                    let event = transport.poll(cx, true);
                    most_kept = most_kept.max(transport.input.len());
                    if transport.read - transport.input.len() as u64 >= enough {
                        return Poll::Ready(());
                    }
                    assert!(matches!(ready!(event), Event::Flushed | Event::Alive));
                }
            })
            .await;
        };
        tokio::select! {
            () = flood => unreachable!("it floods for ever"),
            served = tokio::time::timeout(Duration::from_secs(20), serves) => served.expect("in time"),
        }
        assert!(most_kept <= READ, "{most_kept} bytes were read before the client was heard");
    }

    #[tokio::test]
    async fn what_the_network_has_taken_takes_no_memory_however_slowly_it_takes() {
        let (mut client, server) = duplex(4 * 1024);
        let mut transport = XmppStream::new(server, service(), Seed::new([1; 32]), None, false);
        let id = "\u{e9}".repeat(500);
        let ping = format!("<iq id='{id}' type='get'><ping xmlns='urn:xmpp:ping'/></iq>");
        let says = async {
            client.write_all(&signs_in()).await.expect("writes");
            let (mut read, mut some) = (Vec::new(), [0; 900]);
            for _ in 0..400 {
                client.write_all(ping.as_bytes()).await.expect("writes");
                // Always a bit less than what there is.
                let count = client.read(&mut some).await.expect("reads");
                read.extend_from_slice(&some[..count]);
            }
            while read.windows(2).filter(|two| two == b"/>").count() < 400 + 3 {
                let count = client.read(&mut some).await.expect("reads");
                read.extend_from_slice(&some[..count]);
            }
            String::from_utf8(read).expect("whole characters")
        };
        let mut most_kept = 0;
        let serves = async {
            loop {
                serve_once(&mut transport).await;
                most_kept = most_kept.max(transport.sent.saturating_sub(transport.unsent()));
            }
        };
        let told = tokio::select! {
            told = tokio::time::timeout(Duration::from_secs(20), says) => told.expect("in time"),
            () = serves => unreachable!("it serves for ever"),
        };
        assert_eq!(told.matches(&id).count(), 400, "nothing is lost or doubled");
        // A part of a character stays.
        assert!(most_kept <= 3, "{most_kept} bytes were kept that the network had taken");
    }
}
