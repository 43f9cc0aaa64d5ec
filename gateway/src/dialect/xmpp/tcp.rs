//! A dialog over a byte stream.

use std::{sync::Arc, time::Instant};

use carillon_proto::pb::client::Code;
use carillon_xmpp::{
    Framing,
    sasl::ChannelBindings,
    stream::{Limits, TcpParser},
};

use super::{
    Check, Dialog, Seed, Service,
    dialog::{End, Step},
};
use crate::conversation::{Ask, Now, Tell};

pub(crate) struct TcpDialog {
    parser: TcpParser,
    dialog: Dialog,
}

/// Work for the transport.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Ask(Ask),
    /// A sign of life that asks nothing of the conversation.
    Alive,
    /// TLS begins once everything is written.
    StartTls,
    /// The client has violated a rule, and was told so.
    Fault(Code, String),
    /// The client has closed its stream.
    Closed,
}

impl TcpDialog {
    pub(crate) fn new(service: Arc<Service>, seed: Seed, now: Now) -> Self {
        let dialog = Dialog::new(service, Framing::Tcp, seed, now);
        Self { parser: TcpParser::new(Limits::BEFORE_AUTHENTICATION), dialog }
    }

    /// Takes bytes out of `input` up to the next work. `None`: all are taken, or the client is read later: when its password is checked, or at
    /// [`Self::paused_until`].
    pub(crate) fn hear(&mut self, input: &mut &[u8], now: Now) -> Option<Heard> {
        // A part of an element is no sign of life: a client could go on with one for ever.
        let (before, mut is_alive) = (input.len(), false);
        loop {
            if let Some(end) = self.dialog.take_end() {
                return Some(match end {
                    End::Fault(code, why) => Heard::Fault(code, why),
                    End::Closed => Heard::Closed,
                });
            }
            if self.dialog.is_over() {
                *input = &[];
                return None;
            }
            if self.dialog.is_checking() || self.dialog.paused_until(now).is_some() {
                return is_alive.then_some(Heard::Alive);
            }
            let Some(event) = self.parser.feed(input) else {
                is_alive |= before > 0 && self.parser.buffered() == 0;
                return is_alive.then_some(Heard::Alive);
            };
            is_alive = true;
            match self.dialog.hear(event, now) {
                Some(Step::Ask(ask)) => return Some(Heard::Ask(ask)),
                Some(Step::Restart(ask)) => {
                    self.restart();
                    return Some(Heard::Ask(ask));
                }
                // RFC 6120, section 5.3.3: "the entities MUST NOT send any whitespace as separators between XML elements (i.e., from the
                // last character of the first-level <starttls/> element". Some clients send some, which is dropped. All other bytes were put
                // there by somebody who wants them to count as encrypted.
                Some(Step::StartTls) if !input.iter().all(|byte| b" \t\r\n".contains(byte)) => {
                    self.dialog.refuse_tls("something follows starttls");
                }
                Some(Step::StartTls) => {
                    *input = &[];
                    self.dialog.proceed();
                    self.restart();
                    return Some(Heard::StartTls);
                }
                None => {}
            }
        }
    }

    /// As [`Dialog::checked`].
    pub(crate) fn checked(&mut self, is_right: bool) -> Option<Heard> {
        match self.dialog.checked(is_right)? {
            Step::Ask(ask) => Some(Heard::Ask(ask)),
            Step::Restart(ask) => {
                self.restart();
                Some(Heard::Ask(ask))
            }
            Step::StartTls => None,
        }
    }

    pub(crate) fn paused_until(&mut self, now: Now) -> Option<Instant> {
        self.dialog.paused_until(now)
    }

    /// As [`Dialog::tell`].
    pub(crate) fn tell(&mut self, tell: Tell) -> Option<Box<Check>> {
        self.dialog.tell(tell)
    }

    pub(crate) fn ping(&mut self) {
        self.dialog.ping();
    }

    pub(crate) fn secured(&mut self, bindings: ChannelBindings) {
        self.dialog.secured(bindings);
    }

    /// Longer elements are taken from now on.
    pub(crate) fn signed_in(&mut self) {
        self.parser.set_limits(Limits::AFTER_AUTHENTICATION);
    }

    pub(crate) fn out(&self) -> &[u8] {
        self.dialog.out()
    }

    /// As [`Dialog::sent`].
    pub(crate) fn sent(&mut self, bytes: usize) -> usize {
        self.dialog.sent(bytes)
    }

    /// Bytes of the buffers.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.parser.buffered() + self.dialog.kept_bytes()
    }

    fn restart(&mut self) {
        self.parser = TcpParser::new(Limits::BEFORE_AUTHENTICATION);
    }
}
