//! Decides from its account whether a session is over although nobody has closed it, and which of two sessions of a device
//! is the newer one.

use crate::pb::{
    link::evict::Why,
    store::{Account, Session},
};

/// Why a session of this account is over; `None` if it goes on.
pub fn over(account: &Account, session: &Session) -> Option<Why> {
    // A session that is older than the account belongs to the name's previous owner.
    if account.deleted || session.generation < account.incarnation {
        Some(Why::Deleted)
    } else if session.ended {
        Some(Why::Operator)
    } else if session.generation != account.generation {
        Some(Why::Credentials)
    } else if session.by_token && is_revoked(account, &session.token_id, session.token_issued_ms) {
        Some(Why::Token)
    } else {
        None
    }
}

/// A session whose sign-in was read later by more than this has not overtaken another one.
const SIGN_IN_TAKES_MS: u64 = 60_000;

/// True if `existing` is newer than `put`, another session of the same device or the same one, and therefore stays.
/// `announced`: `put` is no sign-in of now.
///
/// A client knows the order of its own sign-ins. Otherwise the sign-in that was read later is the newer one, unless a
/// gateway's clock must have been ahead.
pub fn overtook(existing: &Session, put: &Session, announced: bool) -> bool {
    if existing.instance != 0 && existing.instance == put.instance && existing.attempt != put.attempt {
        return existing.attempt > put.attempt;
    }
    let age = |session: &Session| (session.since_ms, session.lease, session.connection);
    age(existing) > age(put) && (announced || existing.since_ms - put.since_ms <= SIGN_IN_TAKES_MS)
}

/// A token without an issue time counts as issued long ago.
pub fn is_revoked(account: &Account, token_id: &str, issued_ms: u64) -> bool {
    issued_ms < account.tokens_from_ms
        || !token_id.is_empty() && account.revoked.iter().any(|token| token.id == token_id)
}

/// The text for the client whose session has ended.
pub fn told(why: Why) -> &'static str {
    match why {
        Why::Replaced => "this device has signed in elsewhere",
        Why::Deleted => "the account was deleted",
        Why::Credentials => "the credentials of this user were changed, or all its sessions ended: sign in again",
        Why::Token => "the token was revoked",
        Why::Operator => "the operator has ended this session",
    }
}

/// The text for a refused sign-in. After a name was registered anew, a token may belong to its previous owner.
pub fn told_of(account: &Account, session: &Session, why: Why) -> &'static str {
    let is_revoked_itself = account.revoked.iter().any(|token| token.id == session.token_id);
    if why == Why::Token && account.remade && !is_revoked_itself {
        "the token was issued before this account was made, or so soon after that clocks do not tell: get a new one"
    } else {
        told(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::store::RevokedToken;

    #[test]
    fn a_session_is_over_when_its_account_says_so() {
        let account = Account { generation: 7, ..Account::default() };
        let session = Session { generation: 7, ..Session::default() };
        assert_eq!(over(&account, &session), None);
        assert_eq!(over(&account, &Session { generation: 6, ..session.clone() }), Some(Why::Credentials));
        assert_eq!(over(&account, &Session { ended: true, ..session.clone() }), Some(Why::Operator));
        assert_eq!(over(&Account { deleted: true, ..account.clone() }, &session), Some(Why::Deleted));
        // Deleted and made again.
        assert_eq!(over(&Account { generation: 9, incarnation: 8, ..account.clone() }, &session), Some(Why::Deleted));
        assert_eq!(over(&Account { generation: 9, incarnation: 7, ..account }, &session), Some(Why::Credentials));
    }

    /// Of the sign-in that a client gave up, and of the next one at another gateway.
    fn given_up_and_next() -> (Session, Session) {
        let given_up = Session { instance: 7, attempt: 1, since_ms: 5_000, lease: 9, ..Session::default() };
        let next = Session { instance: 7, attempt: 2, since_ms: 1_000, lease: 8, ..Session::default() };
        (given_up, next)
    }

    #[test]
    fn of_one_client_the_later_attempt_is_newer_whenever_each_was_read() {
        let (given_up, next) = given_up_and_next();
        let late = Session { since_ms: next.since_ms + 10 * SIGN_IN_TAKES_MS, ..given_up.clone() };
        for announced in [false, true] {
            for given_up in [&given_up, &late] {
                assert!(overtook(&next, given_up, announced));
                assert!(!overtook(given_up, &next, announced));
            }
        }
    }

    #[test]
    fn of_two_clients_or_without_numbers_the_sign_in_that_was_read_later_is_newer() {
        let (early, late) = given_up_and_next();
        let (early, late) = (Session { since_ms: 1_000, ..early }, Session { since_ms: 5_000, ..late });
        let changes: [fn(Session) -> Session; 3] = [
            |session| Session { instance: 8, attempt: 9, ..session },
            |session| Session { instance: 0, attempt: 0, ..session },
            // The same sign-in, announced under another lease.
            |session| Session { attempt: 2, ..session },
        ];
        for change in changes {
            let early = change(early.clone());
            assert!(overtook(&late, &early, false) && !overtook(&early, &late, false), "{early:?}");
        }
        let neither = |session: Session| Session { instance: 0, attempt: 0, ..session };
        let (early, late) = (neither(early), neither(late));
        assert!(overtook(&late, &early, false) && !overtook(&early, &late, false));
    }

    #[test]
    fn a_session_of_the_same_time_is_newer_by_its_handle_and_none_than_itself() {
        let session = Session { since_ms: 1_000, lease: 8, connection: 3, ..Session::default() };
        assert!(!overtook(&session, &session, false));
        for newer in [Session { lease: 9, ..session.clone() }, Session { connection: 4, ..session.clone() }] {
            assert!(overtook(&newer, &session, false) && !overtook(&session, &newer, false));
        }
    }

    #[test]
    fn a_session_from_a_clock_that_was_ahead_does_not_stay_against_a_sign_in() {
        let put = Session { since_ms: 1_000, ..Session::default() };
        let ahead = |by_ms| Session { since_ms: put.since_ms + by_ms, ..Session::default() };
        assert!(overtook(&ahead(SIGN_IN_TAKES_MS), &put, false));
        assert!(!overtook(&ahead(SIGN_IN_TAKES_MS + 1), &put, false));
        assert!(overtook(&ahead(SIGN_IN_TAKES_MS + 1), &put, true), "an older session that is announced again");
    }

    #[test]
    fn tokens_are_revoked_by_time_and_one_by_one() {
        let revoked = vec![RevokedToken { id: "stolen".into(), expires_ms: 9 }];
        let account = Account { tokens_from_ms: 1000, revoked, ..Account::default() };
        let session = |id: &str, token_issued_ms| Session {
            by_token: true,
            token_id: id.into(),
            token_issued_ms,
            ..Session::default()
        };
        assert_eq!(over(&account, &session("", 1000)), None);
        assert_eq!(over(&account, &session("", 999)), Some(Why::Token));
        assert_eq!(over(&account, &session("", 0)), Some(Why::Token), "it does not say when it was issued");
        assert_eq!(over(&account, &session("stolen", 2000)), Some(Why::Token));
        assert_eq!(over(&account, &Session { by_token: false, ..session("", 1) }), None, "not signed in by a token");
    }
}
