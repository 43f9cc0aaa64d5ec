//! Asks and tells of chat states, from and to frames.

use carillon_proto::pb::{
    client::{ChatStateNotice, Done, SetChatState, server_frame::Body},
    link::ChatStateTold,
};

use crate::conversation::{Ask, ChatStateAsk, ChatStateTell};

impl From<SetChatState> for Ask {
    fn from(SetChatState { request, to, state, group }: SetChatState) -> Self {
        Self::ChatState(Box::new(ChatStateAsk { request, to, group, state }))
    }
}

impl From<ChatStateTell> for Body {
    fn from(told: ChatStateTell) -> Self {
        match told {
            ChatStateTell::Done { request } => Self::Done(Done { request }),
            ChatStateTell::Told(ChatStateTold { from, state, group }) => {
                Self::ChatState(ChatStateNotice { from, state, group })
            }
        }
    }
}
