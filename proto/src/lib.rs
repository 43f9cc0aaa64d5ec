//! The words and contracts that all roles share: generated messages, validated ids, shard and ring keys, limits, and
//! how nodes authenticate to each other. See `docs/architecture.md`.

pub mod accepting;
pub mod address;
mod admission;
mod batch;
pub mod clock;
pub mod credentials;
pub mod date;
pub mod diagnostics;
mod domains;
mod duplicate;
pub mod duration;
mod envelope;
pub mod features;
mod id;
mod keyed;
pub mod lease;
mod level;
pub mod limits;
mod local_listeners;
mod media;
pub mod metrics;
pub mod pause;
pub mod pb;
pub mod peer;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod probation;
pub mod queues;
mod ready;
pub mod registry;
mod ring;
pub mod seldom;
pub mod sessions;
mod shard;
pub mod stream;
pub mod tasks;
mod tier;
mod timeline;
pub mod tls;
pub mod trace;
mod turns;
pub mod waiting;
mod wakes;
mod woken;

pub use admission::AdmissionLimit;
pub use batch::Batches;
pub use clock::now_ms;
pub use domains::{ANY_DOMAIN, Domains, domain_of, narrowed, new_domain_token, token_hash};
pub use duplicate::DuplicateKey;
pub use envelope::{
    EncodedNames, EnvelopeMarks, EnvelopeParts, EnvelopeTo, expired_envelope, expiring_at, group_change_envelope,
    recalled_envelope, time_of_envelope,
};
pub use id::{
    ClientId, ConnectionHandle, DeviceId, DomainId, GroupId, InvalidId, InvalidMessageId, LeaseId, MessageId, UserId,
    id_text,
};
pub use keyed::{Keyed, KeyedMap, KeyedSet};
pub use level::Level;
pub use media::{MediaId, MediaReference, MediaSecret};
pub use ready::{Readiness, Ready};
pub use ring::{Ring, RouterNode};
pub use shard::{ShardId, ShardKind, ShardMap};
pub use timeline::{Epoch, Position, TimelineId};
pub use turns::Turns;
pub use wakes::Wakes;
pub use woken::Woken;
