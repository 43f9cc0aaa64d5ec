//! A client's requests about files: a place for an upload, and the URL of a download. See docs/adr/0030-media.md.

use bytes::Bytes;
use carillon_media::Version;
use carillon_proto::{
    MediaId, MediaReference, MediaSecret, features, limits,
    pb::{
        client::{Code, Envelope, Timeline},
        link::{self, Refusal, router_reply::Result as Reply, router_request::Op},
        store::{MediaRow, Person, media_row::State},
    },
};
use prost::Message as _;

use super::{
    AskId, Effect, Now, Rules, Tag, Tell, expiring,
    live::Live,
    sending::{may_use, refused},
};
use crate::{
    media::{Pass, Purpose},
    outcome::refusal,
};

const NO_MEDIA: &str = "this service keeps no files";
/// Whatever is wrong: who guesses learns nothing.
const NO_FILE: &str = "there is no such file in that message";

/// Asks for a place for a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SlotAsk {
    pub(crate) request: u32,
    pub(crate) size_bytes: u64,
    /// The type as the client names it.
    pub(crate) media_type: String,
    pub(crate) name: String,
}

/// Asks where a file can be downloaded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UrlAsk {
    pub(crate) request: u32,
    /// A [`MediaReference`], if it is valid.
    pub(crate) reference: Bytes,
    /// With the message that refers to the file; `None`: it must be the user's own file.
    pub(crate) timeline: Option<Timeline>,
    pub(crate) seq: u64,
}

/// A place for a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SlotTell {
    pub(crate) request: u32,
    pub(crate) reference: MediaReference,
    pub(crate) url: String,
    /// In milliseconds since 1970.
    pub(crate) expires_ms: u64,
}

/// Where a file can be downloaded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UrlTell {
    pub(crate) request: u32,
    pub(crate) url: String,
    /// In milliseconds since 1970.
    pub(crate) expires_ms: u64,
    pub(crate) size_bytes: u64,
    /// By what is in the file.
    pub(crate) media_type: String,
    pub(crate) name: String,
}

/// A request for a place, as it waits for its answer.
#[derive(Debug)]
pub(crate) struct SlotPending {
    request: u32,
    secret: MediaSecret,
    size_bytes: u64,
}

/// A request for an URL, as it waits for its answer.
#[derive(Debug)]
pub(crate) struct UrlPending {
    request: u32,
    reference: MediaReference,
    /// The position of the message that refers to the file; `None`: it must be the user's own file.
    seq: Option<u64>,
    /// The end of the message's time, in milliseconds since 1970.
    until_ms: u64,
}

impl Rules {
    fn has_media(&self) -> bool {
        self.media.is_some() && features::at(self.level.get()).any(|feature| feature == features::MEDIA)
    }

    /// The names in SignedIn.features.
    pub(super) fn features(&self) -> Vec<String> {
        let all = features::at(self.level.get());
        all.filter(|feature| *feature != features::MEDIA || self.media.is_some()).map(str::to_owned).collect()
    }
}

impl Live {
    pub(super) fn request_media_slot(&mut self, rules: &Rules, now: Now, ask: SlotAsk, out: &mut Vec<Effect>) {
        let request = ask.request;
        match self.media_slot_op(rules, now, ask) {
            Ok((asked, op)) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::MediaSlot(asked), op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn media_slot_op(&mut self, rules: &Rules, now: Now, ask: SlotAsk) -> Result<(SlotPending, Op), Refusal> {
        let Some(media) = rules.media.as_ref().filter(|_| rules.has_media()) else {
            return Err(refusal(Code::Unsupported, NO_MEDIA, 0));
        };
        let SlotAsk { request, size_bytes, media_type, name } = ask;
        let most = media.config.max_file_bytes;
        match size_bytes {
            0 => return Err(invalid("an empty file can't be kept")),
            size if size > most => {
                let why = format!("the file is {size} bytes but must be at most {most}");
                return Err(refusal(Code::TooLarge, &why, 0));
            }
            _ => {}
        }
        check_text("media_type", &media_type)?;
        check_text("name", &name)?;
        if name.contains(['/', '\\']) {
            return Err(invalid("name has a path but must be a name alone"));
        }
        self.history.begin(rules, now)?;
        let secret = MediaSecret::random();
        let op = Op::CreateMedia(Box::new(link::CreateMedia {
            user: self.who.user.as_str().to_owned(),
            incarnation: self.incarnation,
            generation: self.generation,
            tail: Bytes::copy_from_slice(&secret.tail()),
            size_bytes,
            media_type,
            name,
            most_bytes: media.config.max_user_bytes,
            most_files: media.config.max_user_files,
        }));
        Ok((SlotPending { request, secret, size_bytes }, op))
    }

    pub(super) fn media_created(
        &mut self,
        rules: &Rules,
        now: Now,
        asked: SlotPending,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        let SlotPending { request, secret, size_bytes } = asked;
        let shard = match result {
            Ok(Reply::MediaCreated(created)) => u16::try_from(created.shard).map_err(|_| wrong_kind()),
            Ok(_) => Err(wrong_kind()),
            Err(why) => Err(why),
        };
        let slot = shard.and_then(|shard| {
            let reference = secret.in_shard(shard);
            let to = Purpose::Upload { user: self.who.user.clone(), incarnation: self.incarnation };
            let (url, expires_ms) = url(rules, now, reference.id(), size_bytes, to, u64::MAX)?;
            Ok(SlotTell { request, reference, url, expires_ms })
        });
        out.push(match slot {
            Ok(slot) => Effect::Tell(Tell::MediaSlot(Box::new(slot))),
            Err(why) => refused(AskId::Request(request), why),
        });
    }

    pub(super) fn request_media_url(&mut self, rules: &Rules, now: Now, ask: &UrlAsk, out: &mut Vec<Effect>) {
        match self.media_url_op(rules, now, ask) {
            Ok((tag, op)) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag, op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(ask.request), why)),
        }
    }

    /// Reads the message as its reader would read it: a user who can read the message can read the file.
    fn media_url_op(&mut self, rules: &Rules, now: Now, ask: &UrlAsk) -> Result<(Tag, Op), Refusal> {
        if !rules.has_media() {
            return Err(refusal(Code::Unsupported, NO_MEDIA, 0));
        }
        let reference = MediaReference::from_bytes(&ask.reference).ok_or_else(|| invalid("id must be 24 bytes"))?;
        let request = ask.request;
        let Some(timeline) = &ask.timeline else {
            self.history.begin(rules, now)?;
            return Ok((
                Tag::MediaRow(UrlPending { request, reference, seq: None, until_ms: u64::MAX }),
                self.read_media(reference),
            ));
        };
        if ask.seq == 0 {
            return Err(invalid("seq must name the message that refers to the file"));
        }
        let timeline = may_use(self, rules, Some(timeline))?;
        self.history.begin(rules, now)?;
        let read = self.read(&timeline, ask.seq, false, 1, rules.max_page_bytes);
        let pending = UrlPending { request, reference, seq: Some(ask.seq), until_ms: u64::MAX };
        Ok((Tag::MediaMessage(pending), Op::Read(read)))
    }

    fn read_media(&self, reference: MediaReference) -> Op {
        let id = Bytes::copy_from_slice(reference.id().as_bytes());
        Op::ReadMedia(link::ReadMedia { user: self.who.user.as_str().to_owned(), id })
    }

    /// The message that should refer to the file was read.
    pub(super) fn media_message_read(
        &mut self,
        now: Now,
        asked: UrlPending,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        let refers = match result {
            Ok(Reply::TimelineRead(read)) => {
                let entry = read.entries.first().filter(|entry| Some(entry.seq) == asked.seq);
                let referring = entry.filter(|entry| refers_to(&entry.envelope, asked.reference));
                let until_ms = referring.and_then(|entry| expiring::shown_until(&entry.envelope, now));
                until_ms.ok_or_else(|| refusal(Code::NotFound, NO_FILE, 0))
            }
            Ok(_) => Err(wrong_kind()),
            Err(why) => Err(why),
        };
        match refers {
            Ok(until_ms) => {
                let asked = UrlPending { until_ms, ..asked };
                let op = self.read_media(asked.reference);
                out.push(Effect::Request { tag: Tag::MediaRow(asked), op, traceparent: String::new() });
            }
            Err(why) => {
                self.history.waiting = self.history.waiting.saturating_sub(1);
                out.push(refused(AskId::Request(asked.request), why));
            }
        }
    }

    pub(super) fn media_row_read(
        &mut self,
        rules: &Rules,
        now: Now,
        asked: &UrlPending,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        let no_file = || refusal(Code::NotFound, NO_FILE, 0);
        let row = match result {
            Ok(Reply::MediaRead(read)) => read.row.ok_or_else(no_file),
            Ok(_) => Err(wrong_kind()),
            Err(why) if why.code() == Code::NotFound => Err(no_file()),
            Err(why) => Err(why),
        };
        let told = row.and_then(|row| {
            let own = Person { user: self.who.user.as_str().to_owned(), incarnation: self.incarnation };
            if row.state() != State::Complete || asked.seq.is_none() && row.owner.as_ref() != Some(&own) {
                return Err(no_file());
            }
            let MediaRow { size_bytes, media_type, name, sha256, .. } = row;
            let version = Version::of_row(&sha256).ok_or_else(no_file)?;
            let keys = &rules.media.as_ref().ok_or_else(no_file)?.keys;
            let whose = keys.load().whose(&self.who.user);
            let to = Purpose::Download { version, media_type: media_type.clone(), name: name.clone(), whose };
            let (url, expires_ms) = url(rules, now, asked.reference.id(), size_bytes, to, asked.until_ms)?;
            Ok(UrlTell { request: asked.request, url, expires_ms, size_bytes, media_type, name })
        });
        out.push(match told {
            Ok(url) => Effect::Tell(Tell::MediaUrl(Box::new(url))),
            Err(why) => refused(AskId::Request(asked.request), why),
        });
    }
}

/// The URL, and until when it counts: not after this time.
fn url(
    rules: &Rules,
    now: Now,
    id: MediaId,
    size_bytes: u64,
    to: Purpose,
    until_ms: u64,
) -> Result<(String, u64), Refusal> {
    let no_media = || refusal(Code::Unsupported, NO_MEDIA, 0);
    let media = rules.media.as_ref().ok_or_else(no_media)?;
    let seconds = match to {
        Purpose::Upload { .. } => media.config.upload_url_s,
        Purpose::Download { .. } => media.config.download_url_s,
    };
    let expires_ms = now.unix_ms.saturating_add(u64::from(seconds) * 1000).min(until_ms);
    let url = media.keys.load().url(&media.config.url, &Pass { id, size_bytes, expires_ms, to });
    Ok((url.ok_or_else(no_media)?, expires_ms))
}

/// True if the content of the envelope, or of the edit in it, refers to this file.
fn refers_to(envelope: &[u8], reference: MediaReference) -> bool {
    let content = Envelope::decode(envelope).ok().and_then(|envelope| envelope.content);
    content.and_then(|content| MediaReference::of_content(&content)) == Some(reference)
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > limits::MAX_LABEL_BYTES || text.chars().any(char::is_control) {
        return Err(invalid(&format!("{what} must be at most 256 bytes without control characters")));
    }
    Ok(())
}

fn invalid(why: &str) -> Refusal {
    refusal(Code::Invalid, why, 0)
}

fn wrong_kind() -> Refusal {
    refusal(Code::Internal, "the service gave an answer of the wrong kind", 100)
}
