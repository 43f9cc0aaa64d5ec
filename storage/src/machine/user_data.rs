//! Reads of what the store holds of one user.

use std::io;

use carillon_proto::pb::store::{ReadHead, TimelineKey, User};

use super::{
    DirectoryReader, TimelineReader, Unread,
    directory_reader::without_keys,
    keys::{self, Cursor, GroupCursor},
    timeline_reader::load,
};

/// How far a device is in a timeline.
pub(crate) struct CursorRow {
    pub(crate) device: String,
    /// `None`: the user's inbox.
    pub(crate) group: Option<TimelineKey>,
    /// Of the group's timeline; 0 for the inbox.
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
}

impl DirectoryReader {
    /// Account and sessions, without the keys of the password.
    pub(crate) fn user_without_keys(&self, user: &str) -> io::Result<User> {
        let mut found = self.user(user)?;
        found.account = found.account.map(without_keys);
        Ok(found)
    }
}

impl TimelineReader {
    /// Up to `limit` cursors of the devices of this inbox's user after the key `after`, and the key to continue after; empty at
    /// the end.
    pub(crate) fn cursors(
        &self,
        inbox: &ReadHead,
        after: &[u8],
        limit: usize,
    ) -> Result<(Vec<CursorRow>, Vec<u8>), Unread> {
        let view = self.shard.view();
        let Some(state) = load(&view, inbox.timeline.as_ref(), inbox.incarnation)? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let [_, _, in_inbox, in_groups, ..] = keys::all_of(state.number);
        let mut found = Vec::new();
        for prefix in [in_inbox, in_groups] {
            // A key after the number: a name of at most 64 bytes, in UTF-8, and in groups another one.
            let end = [&*prefix, &[0xff]].concat().into();
            let begin = if after < &*prefix { prefix } else { keys::after(after) };
            if begin > end {
                continue;
            }
            for row in view.range(begin..=end) {
                let (key, value) = row?;
                found.push(cursor(&key, &value)?);
                if found.len() == limit {
                    return Ok((found, key.to_vec()));
                }
            }
        }
        Ok((found, Vec::new()))
    }
}

fn cursor(key: &[u8], value: &[u8]) -> io::Result<CursorRow> {
    if key < &*keys::group_cursors() {
        let (_, device) = keys::cursor_of(key)?;
        let Cursor { seq, .. } = Cursor::decode(value)?;
        return Ok(CursorRow { device: device.to_owned(), group: None, epoch: 0, seq });
    }
    let (_, device, group) = keys::group_cursor_of(key)?;
    let GroupCursor { epoch, seq, .. } = GroupCursor::decode(value)?;
    Ok(CursorRow { device: device.to_owned(), group: Some(group), epoch, seq })
}
