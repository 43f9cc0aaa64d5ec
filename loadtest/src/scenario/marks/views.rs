//! Checks at the end: the numbers of unread messages, and the marks of others, as the service tells them.

use carillon_proto::pb::client::{Conversation, UserMark};

use super::reading::Message;

/// The true number of unread messages, and the true mark of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Truth {
    pub(super) unread: u64,
    /// The last message that the user has read; `None`: nothing.
    pub(super) read: Option<Message>,
}

/// The row of the conversation in a device's list; `None`: it is not there.
pub(super) fn check_row(truth: &Truth, row: Option<&Conversation>) -> Result<(), String> {
    let unread = row.map_or(0, |row| row.unread);
    if unread != truth.unread {
        return Err(format!("the list says that {unread} are unread, and {} are", truth.unread));
    }
    let (read, wanted) = (row.and_then(|row| row.read).map_or(0, |read| read.seq), truth.read_seq());
    if read < wanted {
        return Err(format!("the list says that position {read} is read, and {wanted} is"));
    }
    Ok(())
}

/// Checks this user's mark, as the other side of a pair sees it.
pub(super) fn check_mark_of_pair(truth: &Truth, mark: Option<&UserMark>) -> Result<(), String> {
    let told = mark.map_or("", |mark| mark.read_id.as_str());
    let wanted = truth.read.as_ref().map_or("", |read| read.id.as_str());
    if told == wanted { Ok(()) } else { Err(format!("message {told:?} is told to be read, and {wanted:?} is")) }
}

/// Checks this user's mark, as another member sees it. `head`: the last position of the group's log.
pub(super) fn check_mark_of_group(truth: &Truth, mark: Option<&UserMark>, head: u64) -> Result<(), String> {
    let told = mark.and_then(|mark| mark.read).map_or(0, |read| read.seq);
    let wanted = truth.read_seq();
    if (wanted..=head).contains(&told) {
        Ok(())
    } else {
        Err(format!("position {told} is told to be read, and {wanted} of {head} is"))
    }
}

impl Truth {
    fn read_seq(&self) -> u64 {
        self.read.as_ref().map_or(0, |read| read.position.seq)
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{Epoch, Position, pb};

    use super::*;

    fn truth(unread: u64, read: Option<u64>) -> Truth {
        let message = |seq| Message { position: Position { epoch: Epoch(1), seq }, id: format!("m{seq}") };
        Truth { unread, read: read.map(message) }
    }

    fn position(seq: u64) -> Option<pb::client::Position> {
        (seq > 0).then_some(pb::client::Position { epoch: 1, seq })
    }

    #[test]
    fn a_wrong_count_is_found_and_a_mark_that_is_behind() {
        let row = |unread, read| Conversation { unread, read: position(read), ..Conversation::default() };
        assert_eq!(check_row(&truth(0, Some(7)), Some(&row(0, 7))), Ok(()));
        assert_eq!(check_row(&truth(3, None), Some(&row(3, 0))), Ok(()));
        assert_eq!(check_row(&truth(0, None), None), Ok(()));
        for (truth, row) in [
            (truth(0, Some(7)), Some(row(1, 7))),
            (truth(0, Some(7)), Some(row(0, 6))),
            (truth(3, None), Some(row(2, 0))),
            (truth(3, None), None),
            (truth(0, Some(7)), None),
        ] {
            assert!(check_row(&truth, row.as_ref()).is_err(), "{truth:?}, {row:?}");
        }
    }

    #[test]
    fn a_mark_that_is_told_wrong_is_found() {
        let mark = |id: &str, seq| UserMark { read_id: id.to_owned(), read: position(seq), ..UserMark::default() };
        assert_eq!(check_mark_of_pair(&truth(0, Some(7)), Some(&mark("m7", 0))), Ok(()));
        assert_eq!(check_mark_of_pair(&truth(5, None), Some(&mark("", 0))), Ok(()));
        for (truth, mark) in
            [(truth(0, Some(7)), Some(mark("m6", 0))), (truth(0, Some(7)), None), (truth(5, None), Some(mark("m1", 0)))]
        {
            assert!(check_mark_of_pair(&truth, mark.as_ref()).is_err(), "{truth:?}, {mark:?}");
        }
        assert_eq!(check_mark_of_group(&truth(0, Some(7)), Some(&mark("", 7)), 9), Ok(()));
        assert_eq!(check_mark_of_group(&truth(0, None), None, 9), Ok(()));
        for (told, head) in [(6, 9), (10, 9), (0, 9)] {
            assert!(check_mark_of_group(&truth(0, Some(7)), Some(&mark("", told)), head).is_err(), "{told}");
        }
    }
}
