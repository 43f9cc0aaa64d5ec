//! Stanzas of a client: their recipients, and the answers to stanzas that are not served.

use carillon_xmpp::{
    Jid,
    error::{StanzaCondition, StanzaError, StreamCondition, StreamError},
    jid::Hosts,
    stream::{Stanza, StanzaKind},
};

use super::dialog::{Dialog, Stage, Step};
use crate::conversation::Now;

/// The recipient of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipient {
    /// The domain of the client.
    Server,
    /// The client's own account.
    Account,
    Other,
}

impl Dialog {
    /// Handles a stanza of a client that has proven who it is.
    pub(super) fn stanza(&mut self, kind: StanzaKind, stanza: &Stanza, now: Now) -> Option<Step> {
        let own = self.own_address()?;
        // RFC 6120, section 4.9.3.9: "The data provided in a 'from' attribute does not match an authorized JID [...] as negotiated [...] between a
        // client and a server via SASL authentication and resource binding."
        if let Some(from) = stanza.from()
            && Jid::new(from).ok().is_none_or(|from| from != *own && from.as_str() != own.bare())
        {
            self.fail(&StreamCondition::InvalidFrom.into());
            return None;
        }
        let recipient = self.recipient(stanza.to());
        match (kind, &self.stage) {
            (StanzaKind::Iq, Stage::Bound(_)) => self.iq(stanza, recipient, now),
            (StanzaKind::Iq, _) if matches!(recipient, Ok(Recipient::Server | Recipient::Account)) => {
                self.iq(stanza, recipient, now)
            }
            (_, Stage::Bound(_)) => {
                self.refuse_unserved(kind, stanza, recipient.err());
                None
            }
            // RFC 6120, section 7.1: "If, before completing the resource binding step, the client attempts to send an XML stanza to an
            // entity other than the server itself or the client's account, the server MUST NOT process the stanza and MUST close the
            // stream with a \<not-authorized/\> stream error".
            _ => {
                let error = StreamError::new(StreamCondition::NotAuthorized);
                self.fail(&error.with_text("the client has no resource yet"));
                None
            }
        }
    }

    /// Answers a stanza by an error, if it may have one.
    pub(super) fn refuse(&mut self, stanza: &Stanza, error: &StanzaError) {
        let answer = self.own_address().and_then(|own| error.answer(stanza, own));
        if let Some(answer) = answer {
            self.write(&answer);
        }
    }

    /// The client's address, which has no resource before the client has one.
    pub(super) fn own_address(&self) -> Option<&Jid> {
        match &self.stage {
            Stage::SigningIn(_) => None,
            Stage::Proven(user) => Some(user),
            Stage::Binding { jid, .. } | Stage::Bound(jid) => Some(jid),
        }
    }

    /// Answers messages and presence, which are not served yet, by an error.
    fn refuse_unserved(&mut self, kind: StanzaKind, stanza: &Stanza, wrong_address: Option<StanzaCondition>) {
        let what = match (kind, stanza.stanza_type()) {
            // Nobody has seen the client as available, so that nobody has to hear that it is not.
            (StanzaKind::Presence, Some("unavailable")) => return,
            (StanzaKind::Presence, _) => "presence is not served yet",
            _ => "messages are not served yet",
        };
        let condition = wrong_address.unwrap_or(StanzaCondition::FeatureNotImplemented);
        let error = StanzaError::new(condition);
        self.refuse(stanza, &if wrong_address.is_none() { error.with_text(what) } else { error });
    }

    /// The recipient by the stanza's `to`.
    ///
    /// RFC 6120, section 10.3: "If the stanza possesses no 'to' attribute, the server MUST handle it directly on behalf of the entity that sent it".
    fn recipient(&self, to: Option<&str>) -> Result<Recipient, StanzaCondition> {
        let Some(to) = to else { return Ok(Recipient::Account) };
        let to = Jid::new(to).map_err(|error| error.stanza_condition())?;
        let Some(own) = self.own_address() else { return Ok(Recipient::Other) };
        if to.is_bare() && to.as_str() == own.bare() {
            return Ok(Recipient::Account);
        }
        if to.as_str() == own.domain() {
            return Ok(Recipient::Server);
        }
        let of_users = |domain: &str| self.service.serves(domain);
        let is_ours = of_users(to.domain())
            || to.domain().split_once('.').is_some_and(|(_, rest)| Hosts::rooms(rest) == to.domain() && of_users(rest));
        // Addresses of other servers can't be reached: there is no federation.
        if is_ours { Ok(Recipient::Other) } else { Err(StanzaCondition::RemoteServerNotFound) }
    }
}
