//! Files of the small router: their rows, without limits and shards.

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::{
        client::Code,
        link::{self, CompleteMedia, CreateMedia, MediaCreated, Refusal, router_reply::Result as Reply},
        store::{MediaRead, MediaRow, Person, media_row::State as OfFile},
    },
};

use super::State;

/// Of all files.
const SHARD: u16 = 5;

fn not_found() -> Reply {
    Reply::Refusal(Refusal { code: Code::NotFound.into(), reason: "refused".to_owned(), ..Refusal::default() })
}

impl State {
    pub(super) fn create_media(&self, create: CreateMedia) -> Reply {
        let tail = create.tail.as_ref().try_into().expect("14 bytes");
        let row = MediaRow {
            owner: Some(Person { user: create.user, incarnation: create.incarnation }),
            size_bytes: create.size_bytes,
            media_type: create.media_type,
            name: create.name,
            state: OfFile::Pending.into(),
            ..MediaRow::default()
        };
        self.store.lock().files.insert(MediaId::new(SHARD, tail), row);
        Reply::MediaCreated(MediaCreated { shard: SHARD.into() })
    }

    pub(super) fn complete_media(&self, complete: CompleteMedia) -> Reply {
        let mut store = self.store.lock();
        let Some(row) = file(&complete.id).and_then(|id| store.files.get_mut(&id)) else { return not_found() };
        assert_eq!(row.owner.as_ref().map(|owner| &owner.user), Some(&complete.user));
        if row.state() == OfFile::Complete {
            return Reply::Done(link::Done {});
        }
        (row.state, row.media_type) = (OfFile::Complete.into(), complete.media_type);
        if !complete.sha256.is_empty() {
            (row.sha256, row.size_bytes) = (complete.sha256, complete.size_bytes);
        }
        Reply::Done(link::Done {})
    }

    pub(super) fn read_media(&self, id: &Bytes) -> Reply {
        match file(id).and_then(|id| self.store.lock().files.get(&id).cloned()) {
            Some(row) => Reply::MediaRead(Box::new(MediaRead { row: Some(row) })),
            None => not_found(),
        }
    }
}

fn file(id: &[u8]) -> Option<MediaId> {
    MediaId::from_bytes(id)
}
