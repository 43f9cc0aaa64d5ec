//! Files of users: their rows in the store. See docs/adr/0030-media.md.

use carillon_proto::{
    Level, MediaId, ShardId, TimelineId, UserId, narrowed,
    pb::{
        link,
        store::{self, Person, TimelineCommand, store_request, timeline_command},
    },
};

use super::{Answer, Continuation, Owner, done, unexpected};
use crate::{
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

const NO_ID: Failure = Failure::Invalid("the file has no id");

impl Owner {
    /// In the shard of the user's inbox, where the user's files are counted.
    pub(super) fn create_media(&mut self, create: link::CreateMedia, parts: RequestContext) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::Media);
        }
        let timeline = TimelineId::Inbox(parts.user.clone());
        let shard = self.topology.shards.timeline_of(&timeline);
        let Ok(tail) = create.tail.as_ref().try_into() else { return self.refuse(parts.slot, &NO_ID) };
        let op = timeline_command::Op::CreateMedia(store::CreateMedia {
            timeline: Some(timeline.to_key()),
            incarnation: create.incarnation,
            sender_generation: create.generation,
            id: id_bytes(&MediaId::new(shard.index, tail)),
            size_bytes: create.size_bytes,
            media_type: create.media_type,
            name: create.name,
            most_bytes: narrowed(create.most_bytes, self.media_limit(&parts.user)),
            most_files: create.most_files,
        });
        let asked = Continuation::MediaCreated(shard.index, parts.slot);
        self.media_command(shard, op, parts.deadline, asked);
    }

    pub(super) fn media_created(&mut self, shard: u16, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        let created = match answer {
            Err(StoreFailure::NoRoom { detail }) => Err(Failure::Quota(detail)),
            answer => done(answer).map(|_| Answer::MediaCreated(link::MediaCreated { shard: shard.into() })),
        };
        self.end(slot, created);
    }

    pub(super) fn complete_media(&mut self, complete: link::CompleteMedia, parts: RequestContext) {
        let Some((id, shard)) = self.media(&complete.id) else { return self.refuse(parts.slot, &NO_ID) };
        let op = timeline_command::Op::CompleteMedia(store::CompleteMedia {
            owner: Some(Person { user: parts.user.as_str().to_owned(), incarnation: complete.incarnation }),
            id: id_bytes(&id),
            media_type: complete.media_type,
            sha256: complete.sha256,
            size_bytes: complete.size_bytes,
        });
        self.media_command(shard, op, parts.deadline, Continuation::MediaCompleted(parts.slot));
    }

    pub(super) fn media_completed(&mut self, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        let completed = match answer {
            Err(StoreFailure::NoRoom { detail }) => Err(Failure::NoRoom(detail)),
            answer => done(answer),
        };
        self.end(slot, completed);
    }

    pub(super) fn read_media(&mut self, read: link::ReadMedia, parts: RequestContext) {
        let Some((_, shard)) = self.media(&read.id) else { return self.refuse(parts.slot, &NO_ID) };
        let op = store_request::Op::ReadMedia(store::ReadMedia { id: read.id });
        self.ask(shard, op, String::new(), parts.deadline, Continuation::MediaRead(parts.user, parts.slot));
    }

    /// Every user who knows the reference of a file gets it, unless the owner's domain does not talk to the user's.
    pub(super) fn media_read(&mut self, user: &UserId, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        let read = match answer {
            Ok(StoreAnswer::MediaRead(read)) => {
                let owner = read.row.as_ref().and_then(|row| row.owner.as_ref());
                let is_open = owner.is_some_and(|owner| self.topology.domains.allow_ids(user.as_str(), &owner.user));
                let none = || Failure::Store(StoreFailure::NotFound { detail: "there is no such file".to_owned() });
                if is_open { Ok(Answer::MediaRead(Box::new(read))) } else { Err(none()) }
            }
            other => Err(unexpected(other)),
        };
        self.end(slot, read);
    }

    fn media(&self, id: &[u8]) -> Option<(MediaId, ShardId)> {
        let id = MediaId::from_bytes(id)?;
        Some((id, id.shard(self.topology.shards)?))
    }

    fn media_command(
        &mut self,
        shard: ShardId,
        op: timeline_command::Op,
        deadline: tokio::time::Instant,
        asked: Continuation,
    ) {
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(op) });
        self.ask(shard, op, String::new(), deadline, asked);
    }
}

fn id_bytes(id: &MediaId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id.as_bytes())
}
