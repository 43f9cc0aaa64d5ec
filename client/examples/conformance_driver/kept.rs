//! The file of the device: its messages, and those that are not sent yet.

use std::{collections::BTreeMap, fs, io};

use carillon_client::Client;
use carillon_proto::pb::client::{Content, Envelope, content::Body};
use serde::{Deserialize, Serialize};

/// Content of the device's file.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Epoch and number.
    pub(super) position: Option<(u64, u64)>,
    /// By position.
    pub(super) messages: BTreeMap<u64, Message>,
    pub(super) unsent: Vec<Unsent>,
    /// Number of messages that were written here.
    pub(super) written: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) id: String,
    pub(super) text: String,
    pub(super) expires_at_ms: u64,
    /// Time and id of the edit that counts.
    pub(super) edit: Option<(u64, String)>,
    pub(super) recalled: bool,
    /// The secret of its file.
    pub(super) file: Option<Vec<u8>>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Unsent {
    pub(super) client_id: String,
    pub(super) to: String,
    pub(super) text: String,
    pub(super) label: String,
}

impl Kept {
    pub(super) fn read(folder: &std::path::Path) -> io::Result<Self> {
        match fs::read(folder.join("kept.json")) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Returns when it is on the disk.
    pub(super) fn write(&self, folder: &std::path::Path) -> io::Result<()> {
        let (new, file) = (folder.join("kept.json.new"), folder.join("kept.json"));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &file)
    }
}

impl Message {
    pub(super) fn of(envelope: &Envelope) -> Self {
        let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
        let file = match body {
            Some(Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media)) => Some(media),
            _ => None,
        };
        Self {
            id: envelope.id.clone(),
            text: envelope.content.as_ref().map(text_of).unwrap_or_default(),
            // Nothing is left of what is over already.
            expires_at_ms: if envelope.erased { 0 } else { envelope.expires_at_ms },
            edit: None,
            recalled: false,
            file: file.map(|media| media.id.to_vec()),
        }
    }
}

pub(super) fn text_envelope(text: &str) -> Envelope {
    Envelope { content: Some(Client::text(text)), ..Envelope::default() }
}

pub(super) fn text_of(content: &Content) -> String {
    match &content.body {
        Some(Body::Text(text)) => text.body.clone(),
        _ => String::new(),
    }
}

/// True if it says something about another message, or about a group.
pub(super) fn is_about(envelope: &Envelope) -> bool {
    let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
    envelope.change.is_some()
        || matches!(body, Some(Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Vote(_)))
}
