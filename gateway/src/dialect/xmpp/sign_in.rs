//! SASL (RFC 6120, section 6): who the client is.

use carillon_proto::pb::store::ScramCredentials;
use carillon_xmpp::{
    Element, Jid,
    error::{SaslFailure, StreamCondition},
    sasl::{ChannelBindings, Hash, Keys, Mechanism, Negotiation, Offer, Request, Secret, Step as SaslStep},
};

use super::dialog::{Check, Dialog, Protection, Stage, Step};
use crate::{config::XmppTls, conversation::Ask};

/// A client that has not proven who it is.
pub(super) struct SigningIn {
    host: String,
    /// `None`: there must be TLS before.
    pub(super) negotiation: Option<Negotiation>,
    waits: Waits,
}

/// What a sign-in waits for.
enum Waits {
    Client,
    /// With whose address it began, and the password, if the client has shown it.
    Keys(Jid, Option<Secret>),
    /// Whether the password of this user is right.
    Check(Jid),
}

/// What is offered. There are no keys for SHA-1, and no tokens yet.
const ALLOWED: [Mechanism; 3] = [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain];

impl SigningIn {
    /// RFC 6120, section 6.3.4: "If the receiving entity considers TLS negotiation (Section 5) to be mandatory-to-negotiate before it will
    /// accept authentication with a particular SASL mechanism, it MUST NOT advertise that mechanism".
    pub(super) fn new(host: String, dialog: &Dialog) -> Self {
        let bindings = match &dialog.protection {
            Protection::Tls(bindings) => bindings.clone(),
            Protection::None | Protection::Outside => ChannelBindings::default(),
        };
        let is_encrypted = dialog.is_encrypted();
        let may = is_encrypted || dialog.service.tls == XmppTls::Optional;
        let offer = Offer { host: host.clone(), is_encrypted, bindings, allowed: ALLOWED.to_vec() };
        Self { host, negotiation: may.then(|| Negotiation::new(offer).protected()), waits: Waits::Client }
    }
}

impl Dialog {
    /// An element of SASL.
    pub(super) fn sasl(&mut self, element: &Element) -> Option<Step> {
        let Some(request) = Request::read(element) else {
            self.fail(&StreamCondition::UnsupportedStanzaType.into());
            return None;
        };
        let nonce = self.seed.name();
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
        let Some(negotiation) = &mut signing_in.negotiation else {
            // RFC 6120, section 6.5.4: "The mechanism requested by the initiating entity cannot be used unless the confidentiality and
            // integrity of the underlying stream are protected (typically via TLS)"
            self.write(&SaslFailure::EncryptionRequired.element());
            return None;
        };
        signing_in.waits = Waits::Client;
        let step = match request {
            Ok(Request::Auth { mechanism, data }) => {
                negotiation.start(&mechanism, data.as_ref().map(|data| data.as_slice()), &nonce)
            }
            Ok(Request::Response(data)) => negotiation.respond(&data),
            Ok(Request::Abort) => negotiation.abort(),
            Err(failure) => negotiation.give_up(failure),
        };
        self.sasl_step(step)
    }

    /// The keys of the user who was looked up.
    pub(super) fn keys(&mut self, stored: &ScramCredentials) {
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return };
        let Waits::Keys(user, password) = std::mem::replace(&mut signing_in.waits, Waits::Client) else { return };
        let keys = Keys::stored(Hash::Sha256, stored).unwrap_or_else(|| self.service.decoy(&user));
        self.with_keys(user, keys, password);
    }

    /// Whether the password of [`Dialog::take_check`] was right.
    pub(crate) fn checked(&mut self, is_right: bool) -> Option<Step> {
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
        let Waits::Check(user) = &signing_in.waits else { return None };
        let step = signing_in.negotiation.as_mut()?.checked(user, is_right);
        signing_in.waits = Waits::Client;
        self.sasl_step(step)
    }

    /// A password is being checked. Nothing is heard meanwhile.
    pub(super) fn is_checking(&self) -> bool {
        matches!(&self.stage, Stage::SigningIn(Some(signing_in)) if matches!(signing_in.waits, Waits::Check(_)))
    }

    /// The session ends while the client signs in: it is told so in the words of SASL, too, if it waits for an answer.
    pub(super) fn give_up_sign_in(&mut self) {
        let Stage::SigningIn(Some(signing_in)) = &self.stage else { return };
        if !matches!(signing_in.waits, Waits::Client) {
            self.write(&SaslFailure::TemporaryAuthFailure.element());
        }
    }

    fn sasl_step(&mut self, step: SaslStep) -> Option<Step> {
        if let Some(element) = step.element() {
            self.write(&element);
        }
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
        match step {
            SaslStep::Challenge(_) => None,
            SaslStep::Keys { user, .. } => self.look_up(user, None),
            SaslStep::Password { user, password } => self.look_up(user, Some(password)),
            // Not offered.
            SaslStep::Token { .. } => {
                self.write(&SaslFailure::InvalidMechanism.element());
                None
            }
            // RFC 6120, section 6.4.6: "Upon receiving the new initial stream header from the initiating entity, the receiving entity MUST
            // respond by sending a new response stream header to the initiating entity (for which it MUST generate a new stream ID instead
            // of reusing the old stream ID)."
            SaslStep::Success { user, .. } => {
                let host = std::mem::take(&mut signing_in.host);
                self.stage = Stage::Proven { user, host };
                self.restart();
                Some(Step::Restart(Ask::Proven))
            }
            SaslStep::Failure(failure) => {
                if let Some(refusal) = signing_in.negotiation.as_ref().and_then(Negotiation::refusal) {
                    self.fail(&refusal);
                }
                (failure == SaslFailure::NotAuthorized).then_some(Step::Ask(Ask::NotProven))
            }
        }
    }

    fn look_up(&mut self, user: Jid, password: Option<Secret>) -> Option<Step> {
        let id = self.service.user(&user);
        let decoy = self.service.decoy(&user);
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
        match (id, password, &mut signing_in.negotiation) {
            (Some(id), password, _) => {
                signing_in.waits = Waits::Keys(user, password);
                Some(Step::Ask(Ask::LookUp(id)))
            }
            // What names nobody can have is known: the time to find it out tells nothing, and nobody has to pay for it.
            (None, Some(_), Some(negotiation)) => {
                let step = negotiation.checked(&user, false);
                self.sasl_step(step)
            }
            (None, ..) => {
                self.with_keys(user, decoy, None);
                None
            }
        }
    }

    fn with_keys(&mut self, user: Jid, keys: Keys, password: Option<Secret>) {
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return };
        match (password, &mut signing_in.negotiation) {
            (Some(password), _) => {
                signing_in.waits = Waits::Check(user);
                self.check = Some(Box::new(Check { keys, password }));
            }
            // A challenge: nobody has to be asked.
            (None, Some(negotiation)) => {
                let challenge = negotiation.keys(&user, keys);
                self.sasl_step(challenge);
            }
            (None, None) => {}
        }
    }
}
