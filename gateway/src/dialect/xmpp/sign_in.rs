//! SASL (RFC 6120, section 6): the client proves who it is.

use carillon_proto::pb::store::ScramCredentials;
use carillon_xmpp::{
    Element, Jid,
    error::{SaslFailure, StreamCondition},
    sasl::{ChannelBindings, Hash, Keys, Mechanism, Negotiation, Offer, Request, Secret, Step as SaslStep},
};

use super::{
    Check,
    dialog::{Dialog, Protection, Stage, Step},
};
use crate::{config::XmppTls, conversation::Ask};

/// A client that has not proven who it is.
pub(super) struct SigningIn {
    /// `None`: there must be TLS before.
    pub(super) negotiation: Option<Negotiation>,
    waits: Waits,
}

/// The cause for which a sign-in waits.
enum Waits {
    /// The client sends the next element.
    Client,
    /// The keys of this user are looked up, to challenge the client, or to compare the password that the client has shown.
    Keys(Jid, Option<Secret>),
    /// The password of this user is compared.
    Check(Jid),
}

/// The mechanisms that are offered. There are no keys for SHA-1, and no tokens yet.
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
        let offer = Offer { host, is_encrypted, bindings, allowed: ALLOWED.to_vec() };
        Self { negotiation: may.then(|| Negotiation::new(offer).protected()), waits: Waits::Client }
    }
}

impl Dialog {
    /// Handles an element of SASL.
    ///
    /// No element comes while keys are looked up or a password is compared: the conversation lets nothing be read before it has answered, and
    /// [`Self::is_checking`] holds up the dialog. So a connection has at most one look-up or one check at a time.
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

    /// The keys of the user who was looked up. `Some`: the password is to be compared with them.
    pub(super) fn keys(&mut self, stored: &ScramCredentials) -> Option<Box<Check>> {
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
        let Waits::Keys(user, password) = std::mem::replace(&mut signing_in.waits, Waits::Client) else { return None };
        let keys = Keys::stored(Hash::Sha256, stored).unwrap_or_else(|| self.service.decoy(&user));
        if let Some(password) = password {
            signing_in.waits = Waits::Check(user);
            return Some(Box::new(Check { keys, password }));
        }
        let challenge = self.negotiation()?.keys(&user, keys);
        self.sasl_step(challenge);
        None
    }

    /// The password of the last [`Check`] was right, or not.
    pub(crate) fn checked(&mut self, is_right: bool) -> Option<Step> {
        let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
        let Waits::Check(user) = &signing_in.waits else { return None };
        let step = signing_in.negotiation.as_mut()?.checked(user, is_right);
        signing_in.waits = Waits::Client;
        self.sasl_step(step)
    }

    /// True while a password is compared. Nothing is heard meanwhile.
    pub(super) fn is_checking(&self) -> bool {
        matches!(&self.stage, Stage::SigningIn(Some(signing_in)) if matches!(signing_in.waits, Waits::Check(_)))
    }

    /// The session ends while the client signs in. A client that waits for an answer is told so in the words of SASL, too.
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
                self.stage = Stage::Proven(user);
                self.restart();
                Some(Step::Restart(Ask::Proven))
            }
            SaslStep::Failure(failure) => {
                if let Some(refusal) = self.negotiation().and_then(|negotiation| negotiation.refusal()) {
                    self.fail(&refusal);
                }
                (failure == SaslFailure::NotAuthorized).then_some(Step::Ask(Ask::NotProven))
            }
        }
    }

    fn look_up(&mut self, user: Jid, password: Option<Secret>) -> Option<Step> {
        let step = match (self.service.user(&user), password) {
            (Some(id), password) => {
                let Stage::SigningIn(Some(signing_in)) = &mut self.stage else { return None };
                signing_in.waits = Waits::Keys(user, password);
                return Some(Step::Ask(Ask::LookUp(id)));
            }
            // Everybody knows which names nobody can have: a quick answer tells nothing, and no processor has to compare anything.
            (None, Some(_)) => self.negotiation()?.checked(&user, false),
            (None, None) => {
                let decoy = self.service.decoy(&user);
                self.negotiation()?.keys(&user, decoy)
            }
        };
        self.sasl_step(step)
    }

    fn negotiation(&mut self) -> Option<&mut Negotiation> {
        match &mut self.stage {
            Stage::SigningIn(Some(signing_in)) => signing_in.negotiation.as_mut(),
            _ => None,
        }
    }
}
