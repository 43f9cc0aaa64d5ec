//! Turns tells into server frames.

use carillon_proto::{
    Position, TimelineId,
    pb::{
        client::{
            Accepted, Bye, Challenge, Done, Pong, Refused, Renewed, SessionEnd, SignedIn, TimelinePosition, Timelines,
            Trimmed, refused::What, server_frame::Body,
        },
        link::evict::Why,
        store::StoredEntry,
    },
};

use super::{
    Outgoing, RawPage,
    conversations::{told_changes, told_conversations, told_marked, told_marks},
    groups::{told_group, told_groups, told_members},
    media::{told_slot, told_url},
    raw::RawEntry,
};
use crate::conversation::{AskId, Page, Placed, Tell, Welcome};

impl From<Tell> for Outgoing {
    fn from(tell: Tell) -> Self {
        let body = match tell {
            Tell::Entry(entry) => return Self::Entry(entry),
            Tell::Page(page) => return Self::Page(raw_page(*page)),
            Tell::Scheduled(told) => return (*told).into(),
            Tell::Reported { request } => Body::Done(Done { request }),
            Tell::Challenge(scram_server_first) => Body::Challenge(Challenge { scram_server_first }),
            // The native dialect leaves the check of passwords to the conversation.
            Tell::Keys(_) => unreachable!("only asked for by `Ask::LookUp`"),
            Tell::SignedIn(welcome) => Body::SignedIn(signed_in(*welcome)),
            Tell::Timelines(timelines) => Body::Timelines(Timelines { timelines }),
            Tell::Accepted(Placed { client_id, message_id, timeline, position, time_ms, expires_at_ms }) => {
                Body::Accepted(Accepted { client_id, message_id, timeline, position, time_ms, expires_at_ms })
            }
            Tell::Refused { asked, why } => Body::Refused(Refused {
                code: why.code,
                reason: why.reason,
                retry: why.retry,
                retry_after_ms: why.retry_after_ms,
                what: match asked {
                    AskId::Send(client_id) => Some(What::ClientId(client_id)),
                    AskId::Request(request) => Some(What::Request(request)),
                    AskId::SignIn => None,
                },
            }),
            Tell::Trimmed { timeline, first } => {
                Body::Trimmed(Trimmed { timeline: Some(timeline.id.to_client()), first: Some(first.into()) })
            }
            Tell::Heads { nonce, heads } => Body::Pong(Pong { nonce, heads: heads.into_iter().map(head).collect() }),
            Tell::Group(read) => Body::Group(Box::new(told_group(*read))),
            Tell::Members { request, group, read } => Body::Members(told_members(request, group, read)),
            Tell::Groups { request, read } => Body::Groups(told_groups(request, read)),
            Tell::Conversations { request, read } => Body::Conversations(told_conversations(request, read)),
            Tell::ConversationsMoved { request, moved } => Body::Conversations(told_changes(request, *moved)),
            Tell::Marks { request, group, users, read } => Body::Marks(told_marks(request, group, users, read)),
            Tell::Marked(marked) => Body::Marks(told_marked(*marked)),
            Tell::Contact(told) => return (*told).into(),
            Tell::Privacy(told) => (*told).into(),
            Tell::ChatState(told) => (*told).into(),
            Tell::MediaSlot(slot) => Body::MediaSlot(told_slot(*slot)),
            Tell::MediaUrl(url) => Body::MediaUrl(told_url(*url)),
            Tell::Renewed { request, expires_ms, ticket } => Body::Renewed(Renewed { request, expires_ms, ticket }),
            Tell::Bye { code, reason, again_ms, ended } => Body::Bye(Bye {
                code: code.into(),
                reason,
                reconnect: again_ms.is_some(),
                reconnect_after_ms: again_ms.unwrap_or_default(),
                ended: session_end(ended).into(),
            }),
        };
        body.into()
    }
}

fn session_end(ended: Option<Why>) -> SessionEnd {
    match ended {
        // The code says it.
        None | Some(Why::Replaced) => SessionEnd::Unspecified,
        Some(Why::Deleted) => SessionEnd::Deleted,
        Some(Why::Credentials) => SessionEnd::Credentials,
        Some(Why::Token) => SessionEnd::Token,
        Some(Why::Operator) => SessionEnd::Operator,
    }
}

fn signed_in(welcome: Welcome) -> SignedIn {
    let Welcome { handle, user, device, verdict, limits, heartbeat_ms, timelines, expires_ms, features, ticket } =
        welcome;
    SignedIn {
        handle,
        user,
        device,
        scram_server_final: verdict,
        limits: Some(limits),
        heartbeat_ms,
        timelines,
        expires_ms,
        features,
        ticket,
    }
}

fn raw_page(page: Page) -> RawPage {
    let Page { request, timeline, epoch, entries, first, last, complete } = page;
    let entries = entries.into_iter().map(raw_entry).collect();
    RawPage { request, timeline: Some(timeline.to_client()), epoch, entries, first, last, complete }
}

fn raw_entry(StoredEntry { seq, envelope, state }: StoredEntry) -> RawEntry {
    RawEntry { seq, envelope, state: Some(state).filter(|state| !state.is_empty()) }
}

fn head((timeline, position): (TimelineId, Position)) -> TimelinePosition {
    TimelinePosition { timeline: Some(timeline.to_client()), position: Some(position.into()) }
}
