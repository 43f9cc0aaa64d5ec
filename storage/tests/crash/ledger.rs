//! The writes that were sent to the store and those that it acknowledged, to check that the store has them.

use carillon_proto::{
    ShardId, UserId,
    pb::store::{
        Account, Append, DirectoryCommand, PutAccount, ReadTimeline, ReadUser, StoreRequest, TimelineCommand,
        directory_command, put_account::Mode, store_request::Op, timeline_command,
    },
};

use crate::support::{MAP, inbox, timeline_shard};

/// An account is written now and then, so that the directory has something to lose.
const MESSAGES_PER_ACCOUNT: u64 = 16;

/// All writes of one test.
pub(crate) struct Ledger {
    pub(crate) writers: Vec<Writer>,
    /// Distinguishes the envelopes of this run from those of others.
    seed: u64,
    longest: u64,
}

/// One user's inbox, and its shard of the directory. Writes are numbered from 0, and each is sent again until it is
/// acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) user: String,
    /// The store has acknowledged all writes before this one.
    pub(crate) acknowledged: u64,
    /// Neither this write nor a later one was ever sent.
    pub(crate) sent: u64,
    pub(crate) accounts: u64,
    pub(crate) accounts_sent: u64,
}

impl Ledger {
    /// `longest` is the size of the longest envelope.
    pub(crate) fn new(writers: usize, seed: u64, longest: u64) -> Self {
        let writer = |n| Writer { user: format!("user-{n}"), ..Writer::default() };
        Self { writers: (0..writers).map(writer).collect(), seed, longest }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.writers.iter().map(|writer| writer.acknowledged + writer.accounts).sum()
    }

    /// The n-th envelope of this writer: noise, so that neither log nor table can compress it.
    pub(crate) fn envelope(&self, writer: usize, n: u64) -> Vec<u8> {
        let mut noise = self.seed ^ ((writer as u64) << 48) ^ n.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut byte = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            (noise >> 24) as u8
        };
        byte();
        let len = 16 + (u64::from(byte()) << 8 | u64::from(byte())) % self.longest;
        format!("{writer}/{n} ").into_bytes().into_iter().chain((0..len).map(|_| byte())).collect()
    }

    pub(crate) fn append(&self, writer: usize, n: u64) -> StoreRequest {
        let user = &self.writers[writer].user;
        let mut duplicate_key = [0; 16];
        duplicate_key[..8].copy_from_slice(&n.to_be_bytes());
        let append = Append {
            after_key: Default::default(),
            timeline: Some(inbox(user).to_key()),
            duplicate_key: duplicate_key.to_vec().into(),
            time_ms: now_ms(),
            envelope: self.envelope(writer, n).into(),
            new_epoch: 7,
            incarnation: 0,
            ..Append::default()
        };
        let op = Op::Timeline(TimelineCommand { op: Some(timeline_command::Op::Append(append)) });
        request(id(writer, n), timeline_shard(user), op)
    }

    /// The account to be written after this many messages, if there is one.
    pub(crate) fn due_account(&self, writer: usize) -> Option<StoreRequest> {
        let Writer { sent, accounts, accounts_sent, .. } = &self.writers[writer];
        (accounts == accounts_sent && sent / MESSAGES_PER_ACCOUNT > *accounts).then(|| self.account(writer, *accounts))
    }

    pub(crate) fn account(&self, writer: usize, n: u64) -> StoreRequest {
        let account = Account { user: account(writer, n), created_ms: self.seed ^ n, ..Account::default() };
        let shard = directory(&account.user);
        let put = PutAccount { account: Some(account), mode: Mode::Ensure.into(), ..PutAccount::default() };
        let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::PutAccount(put)) });
        request(id(writer, n) | ACCOUNT, shard, op)
    }

    pub(crate) fn read_account(&self, writer: usize, n: u64) -> StoreRequest {
        let user = account(writer, n);
        request(id(writer, n) | ACCOUNT, directory(&user), Op::ReadUser(ReadUser { user, by: None }))
    }

    pub(crate) fn account_is_right(&self, n: u64, found: Option<&Account>) -> bool {
        found.is_some_and(|account| account.created_ms == self.seed ^ n)
    }

    pub(crate) fn read(&self, writer: usize, from_seq: u64) -> StoreRequest {
        let user = &self.writers[writer].user;
        let timeline = Some(inbox(user).to_key());
        let read = ReadTimeline { timeline, from_seq, limit: 1000, max_bytes: 1 << 20, ..ReadTimeline::default() };
        request(id(writer, 0), timeline_shard(user), Op::ReadTimeline(read))
    }
}

const ACCOUNT: u64 = 1 << 63;

fn id(writer: usize, n: u64) -> u64 {
    (writer as u64) << 48 | n
}

/// The writer, the number of the write, and whether it is an account.
pub(crate) fn of_id(id: u64) -> (usize, u64, bool) {
    ((id >> 48 & 0x7fff) as usize, id & 0xffff_ffff_ffff, id & ACCOUNT != 0)
}

fn account(writer: usize, n: u64) -> String {
    format!("account-{writer}-{n}")
}

fn directory(user: &str) -> ShardId {
    MAP.directory_of(&UserId::new(user).expect("valid"))
}

fn request(id: u64, shard: ShardId, op: Op) -> StoreRequest {
    StoreRequest { id, shard: Some(shard.to_pb()), op: Some(op), ..StoreRequest::default() }
}

fn now_ms() -> u64 {
    carillon_proto::now_ms()
}
