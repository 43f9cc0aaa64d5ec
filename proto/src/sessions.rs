//! Decides from its account whether a session is over although nobody has closed it.

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
