//! Turns client frames into asks.

use carillon_proto::pb::client::{
    Ack, Fetch, Ping, Positions, Renew, ScramFinal, SignIn, SignOut, refused::What, sign_in,
};

use super::client::{Body, ClientFrame, Send};
use crate::conversation::{Ask, AskId, Credential, PageAsk, SendAsk, SignInAsk};

impl From<ClientFrame> for Ask {
    fn from(frame: ClientFrame) -> Self {
        match frame.body {
            Some(Body::SignIn(sign_in)) => Self::SignIn(Box::new(sign_in.into())),
            Some(Body::ScramFinal(ScramFinal { message })) => Self::Prove(message),
            Some(Body::SignOut(SignOut {})) => Self::SignOut,
            Some(Body::Send(Send { client_id, to, content, after, expires_after_ms })) => {
                Self::Send(SendAsk { client_id, to, content, after, expires_after_ms })
            }
            Some(Body::Ack(Ack { timeline, position })) => Self::Has { timeline, position },
            Some(Body::Fetch(Fetch { request, timeline, direction, from_seq, limit, edits_of, pinned_in })) => {
                Self::Page(PageAsk { request, timeline, direction, from_seq, limit, edits_of, pinned_in })
            }
            Some(Body::Ping(Ping { nonce })) => Self::Heads { nonce },
            Some(Body::Renew(Renew { request, token })) => Self::Renew { request, token },
            Some(Body::Positions(Positions { positions, more })) => Self::Positions { positions, more },
            Some(Body::Group(request)) => request.into(),
            Some(Body::ReadGroup(read)) => read.into(),
            Some(Body::ReadMembers(read)) => read.into(),
            Some(Body::ReadGroups(read)) => read.into(),
            Some(Body::ReadConversations(read)) => read.into(),
            Some(Body::MoveMarks(moves)) => moves.into(),
            Some(Body::SetConversation(set)) => set.into(),
            Some(Body::ReadMarks(read)) => read.into(),
            Some(Body::Contact(request)) => request.into(),
            Some(Body::ReadContacts(read)) => read.into(),
            Some(Body::SetPresence(set)) => set.into(),
            Some(Body::RequestMediaSlot(request)) => request.into(),
            Some(Body::RequestMediaUrl(request)) => request.into(),
            Some(Body::Privacy(request)) => request.into(),
            Some(Body::ReadPrivacy(read)) => read.into(),
            Some(Body::SetChatState(set)) => set.into(),
            Some(Body::Schedule(schedule)) => schedule.into(),
            Some(Body::ChangeScheduled(change)) => change.into(),
            Some(Body::ReadScheduled(read)) => read.into(),
            Some(Body::Report(report)) => report.into(),
            None => Self::Unknown,
        }
    }
}

impl From<SignIn> for SignInAsk {
    fn from(sign_in: SignIn) -> Self {
        let SignIn { user, device, positions, start, client, credential, more_positions, instance, attempt } = sign_in;
        let credential = credential.map(|credential| match credential {
            sign_in::Credential::ScramFirst(message) => Credential::Scram(message),
            sign_in::Credential::Token(token) => Credential::Token(token),
            sign_in::Credential::Ticket(ticket) => Credential::Ticket(ticket),
        });
        Self { user, device, credential, positions, more_positions, holds: false, start, client, instance, attempt }
    }
}

impl From<What> for AskId {
    fn from(what: What) -> Self {
        match what {
            What::ClientId(client_id) => Self::Send(client_id),
            What::Request(request) => Self::Request(request),
        }
    }
}
