//! Requests of the model to the service and the terminal, and their answers.

use std::path::PathBuf;

use carillon_client::{FetchError, ListVersion};
use carillon_proto::{
    GroupId, Position, TimelineId, UserId,
    pb::client::{
        Content, Conversation, ConversationSettings, MessageRef, Page, ReportReason, RequestAnswer, Show, UserMark,
    },
};

use crate::{command::About, thread::With};

/// The outcome of an act.
pub(crate) enum Answer {
    /// The message was not accepted.
    Refused(With, String, String),
    /// The content of the message with this client id: its file is uploaded.
    Uploaded(With, String, Box<Content>),
    History(TimelineId, Result<Page, FetchError>),
    List(Result<carillon_client::ConversationList, FetchError>),
    Conversations(Result<Vec<Conversation>, FetchError>),
    Marks(UserId, Result<Vec<UserMark>, FetchError>),
    /// Something was said about the message at this position.
    Referred(TimelineId, u64),
    Entry(TimelineId, Page),
    /// Names of members of the group, the first ones.
    Members(GroupId, Vec<String>),
    Told(String),
}

#[derive(Debug, PartialEq)]
pub(crate) enum Act {
    Send {
        with: With,
        client_id: String,
        content: Content,
        /// For how long it is shown; 0: without end.
        expires_after_ms: u64,
    },
    Upload {
        with: With,
        client_id: String,
        path: PathBuf,
        caption: String,
    },
    /// Writes the file of the message at this position.
    Save {
        timeline: TimelineId,
        seq: u64,
        path: Option<PathBuf>,
    },
    /// Sends the message at this position on.
    Forward {
        timeline: TimelineId,
        seq: u64,
        to: With,
    },
    /// Something about the message at this position.
    Refer {
        with: With,
        seq: u64,
        message: MessageRef,
        about: About,
    },
    /// Reads the message at this position anew, with its reactions and edits.
    ReadEntry {
        timeline: TimelineId,
        seq: u64,
    },
    ReadHistory {
        timeline: TimelineId,
        from_seq: u64,
    },
    ReadList(Option<ListVersion>),
    MarkRead(With, Position),
    Set(With, ConversationSettings),
    AnswerRequest(UserId, RequestAnswer),
    ReadMarks(UserId),
    ReadMembers(GroupId),
    /// Who has read the message at this position of the group.
    Who {
        group: GroupId,
        seq: u64,
        /// Who has written it, if that is known.
        author: Option<String>,
    },
    Show(Show, String),
    /// Of the message at this position.
    Report {
        with: With,
        seq: u64,
        reason: ReportReason,
        text: String,
    },
    Block(UserId),
    /// The user is writing there.
    Writing(With),
    Later {
        with: With,
        content: Content,
        at_ms: u64,
    },
    Bell,
    /// Draws the screen anew.
    Redraw,
    Quit,
}
