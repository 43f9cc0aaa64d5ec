//! A client that checks each entry that it is told, and a session that tells it.

use carillon_proto::Epoch;

use super::{
    super::{Followed, Next},
    world::content,
};

pub(super) enum Client {
    Out,
    /// The heads that its sign-in has read.
    SigningIn {
        incarnation: u64,
        epoch: Epoch,
        last: u64,
    },
    In(Session),
}

pub(super) struct Session {
    pub(super) incarnation: u64,
    pub(super) followed: Followed,
    pub(super) reads: Option<u64>,
    /// The epoch, and each position that its client has or knows to be gone.
    pub(super) epoch: Option<u64>,
    pub(super) next: u64,
}

impl Session {
    pub(super) fn told(&mut self, out: Vec<Next>) {
        for next in out {
            match next {
                Next::Entry(entry) => {
                    assert_eq!(entry.envelope, content(entry.position.epoch.0, entry.position.seq));
                    self.sees(entry.position.epoch.0, entry.position.seq);
                }
                Next::Trimmed(_, first) => {
                    assert!(self.epoch.is_none_or(|epoch| epoch == first.epoch.0) && first.seq > self.next);
                    self.epoch = Some(first.epoch.0);
                    self.next = first.seq;
                }
            }
        }
    }

    pub(super) fn sees(&mut self, epoch: u64, seq: u64) {
        assert_eq!((*self.epoch.get_or_insert(epoch), self.next), (epoch, seq), "each position once, in order");
        self.next += 1;
    }
}
