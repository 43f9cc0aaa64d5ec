//! Failures of commands of users, in words: one reason, said once.

use std::{fmt::Display, time::Duration};

use carillon_client::{Client, Ending, FetchError, Refusal, SendError};
use carillon_proto::duration;

/// The exit code of a command whose user, credential or request the service does not take: trying again is of no use.
const REFUSED: u8 = 4;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// `what` names what was refused.
    #[error("{what}refused: {reason}")]
    Refused { what: String, reason: String, retry: bool },
    /// The session is over, or there was none.
    #[error("{why}")]
    Ended { ending: Option<Ending>, why: String },
    /// Arguments are missing, or do not go together.
    #[error("{0}")]
    Arguments(String),
    /// The command has found out by itself that the request can't be carried out: the message is erased, for example.
    #[error("{0}")]
    Impossible(String),
}

impl Failed {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_) => 2,
            Self::Refused { retry: true, .. } => 1,
            Self::Refused { retry: false, .. } | Self::Impossible(_) => REFUSED,
            Self::Ended { ending, .. } => match ending {
                Some(Ending::Closed | Ending::Stopped) | None => 1,
                Some(_) => REFUSED,
            },
        }
    }

    pub(super) fn arguments(why: &str) -> Self {
        Self::Arguments(why.to_owned())
    }

    fn refused(what: impl Display, refusal: Refusal) -> Self {
        Self::Refused { what: what.to_string(), reason: reason(&refusal), retry: refusal.retry }
    }

    /// By the client, which was not signed in in time or is not any more.
    pub(super) fn ended(client: &Client, why: String) -> Self {
        Self::Ended { ending: client.ending(), why }
    }
}

/// The service's reason, and when it may be otherwise.
fn reason(refusal: &Refusal) -> String {
    let reason = match refusal.reason.as_str() {
        "" => refusal.code.as_str_name(),
        reason => reason,
    };
    match refusal.retry && refusal.retry_after >= Duration::from_secs(1) {
        true => {
            let after = Duration::from_secs(refusal.retry_after.as_millis().div_ceil(1000) as u64);
            format!("{reason}; it may be tried again in {}", duration::in_words(after))
        }
        false => reason.to_owned(),
    }
}

/// A request that is no message.
pub(super) fn not_answered(error: FetchError) -> anyhow::Error {
    match error {
        FetchError::Refused(refusal) => Failed::refused("", refusal).into(),
        other => other.into(),
    }
}

/// A change, or a message about another one.
pub(super) fn not_done(error: SendError) -> anyhow::Error {
    match error {
        SendError::Refused(refusal) => Failed::refused("", refusal).into(),
        SendError::TimedOut { last: Some(refusal), .. } => {
            Failed::refused("not done in time, and last ", refusal).into()
        }
        SendError::TimedOut { last: None, .. } => anyhow::anyhow!("no answer in time: it may have been done, or not"),
        other => other.into(),
    }
}

/// A message to a user or a group.
pub(super) fn not_sent(to: impl Display, error: SendError) -> anyhow::Error {
    match error {
        SendError::Refused(refusal) => Failed::refused(format_args!("message to {to} was "), refusal).into(),
        SendError::TimedOut { last: Some(refusal), .. } => {
            Failed::refused(format_args!("message to {to} was not accepted in time, and last "), refusal).into()
        }
        SendError::TimedOut { last: None, .. } => {
            anyhow::anyhow!("message to {to}: no answer in time: it may have been accepted, or not")
        }
        other => anyhow::anyhow!("message to {to}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::Code;

    use super::*;

    fn refusal(retry_after_ms: u64) -> Refusal {
        let (reason, retry_after) =
            ("slow mode: one message in 10 minutes".to_owned(), Duration::from_millis(retry_after_ms));
        Refusal { code: Code::RateLimited, reason, retry: retry_after_ms > 0, retry_after }
    }

    #[test]
    fn a_refusal_is_said_once_with_its_time() {
        let told = |error| crate::causes::told(&not_sent("group club", error));
        let slow = "message to group club was refused: slow mode: one message in 10 minutes";
        assert_eq!(told(SendError::Refused(refusal(0))), slow);
        let again = format!("{slow}; it may be tried again in 9 minutes 59 seconds");
        assert_eq!(told(SendError::Refused(refusal(598_001))), again);
        let nameless = Refusal { reason: String::new(), ..refusal(0) };
        assert_eq!(told(SendError::Refused(nameless)), "message to group club was refused: CODE_RATE_LIMITED");
    }

    #[test]
    fn the_exit_code_says_whether_to_try_again() {
        let code = |error: anyhow::Error| error.downcast::<Failed>().expect("one of these").exit_code();
        assert_eq!(code(not_answered(FetchError::Refused(refusal(1000)))), 1);
        assert_eq!(code(not_answered(FetchError::Refused(refusal(0)))), 4);
        let ended = |ending| Failed::Ended { ending, why: String::new() }.exit_code();
        assert_eq!([ended(None), ended(Some(Ending::NotLetIn)), ended(Some(Ending::Replaced))], [1, 4, 4]);
    }
}
