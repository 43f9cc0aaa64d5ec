//! Why a client has ended, for programs.

use carillon_proto::pb::client::{Bye, Code, SessionEnd};

use crate::{ConnectionError, Refusal, SignInError};

/// Why a client has ended. A gateway that stops, a connection that breaks and a service that is overloaded end no client: it connects again,
/// see [`State::Disconnected`](crate::State::Disconnected).
///
/// ```no_run
/// # async fn example(mut events: carillon_client::Events) {
/// use carillon_client::{Ending, Event, State};
///
/// while let Some(event) = events.next().await {
///     match event {
///         Event::State(State::Ended { ending: Ending::Replaced, .. }) => println!("this device is in use elsewhere"),
///         Event::State(State::Ended { ending, why }) if ending.needs_credential() => println!("sign in again: {why}"),
///         Event::State(State::Ended { why, .. }) => println!("the end: {why}"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The application has closed the client, or dropped its last handle.
    Closed,
    /// The tasks with which the client was opened were stopped.
    Stopped,
    /// The same device has signed in elsewhere. Another client of this device would replace that one.
    Replaced,
    /// The sign-in was refused: the password or the token is wrong, has expired or was revoked, or there is no such account.
    NotLetIn,
    /// The token has expired, and no newer one was given by [`Client::renew`](crate::Client::renew).
    Expired,
    /// The account was deleted.
    AccountDeleted,
    /// The password was changed, or all sessions of the user were ended. A sign-in with the credential of now is possible.
    CredentialsChanged,
    /// The token was revoked.
    TokenRevoked,
    /// The operator has ended this session. A new sign-in is possible.
    EndedByOperator,
    /// The session was ended by the service, which gives no reason that this release knows.
    EndedByService,
    /// The service offers no sign-in of this kind.
    Unsupported,
    /// Client or service have broken a rule of the protocol: this is a bug in one of them.
    Protocol,
    /// There is no WebSocket at the path of any address. A client that was signed in before tries again instead.
    NoWebSocket,
    /// The certificate authority or the certificate of the service can't be used.
    Tls,
}

impl Ending {
    /// True if the user, or who runs the program, has to give another credential.
    pub fn needs_credential(self) -> bool {
        matches!(
            self,
            Self::NotLetIn | Self::Expired | Self::AccountDeleted | Self::CredentialsChanged | Self::TokenRevoked
        )
    }

    /// By the last frame of a connection after which the client does not connect again. `signed_in`: it had a session.
    pub(crate) fn of_bye(bye: &Bye, signed_in: bool) -> Self {
        match (bye.ended(), bye.code()) {
            (SessionEnd::Deleted, _) => Self::AccountDeleted,
            (SessionEnd::Credentials, _) => Self::CredentialsChanged,
            (SessionEnd::Token, _) => Self::TokenRevoked,
            (SessionEnd::Operator, _) => Self::EndedByOperator,
            (SessionEnd::Unspecified, code) => Self::of_code(code, signed_in),
        }
    }

    fn of_code(code: Code, signed_in: bool) -> Self {
        match code {
            Code::Replaced => Self::Replaced,
            Code::Expired => Self::Expired,
            Code::Unsupported => Self::Unsupported,
            Code::Invalid | Code::TooLarge => Self::Protocol,
            Code::Unauthenticated | Code::Forbidden if !signed_in => Self::NotLetIn,
            _ => Self::EndedByService,
        }
    }

    /// By a sign-in that is of no use to repeat.
    pub(crate) fn of_sign_in(error: &SignInError) -> Self {
        match error {
            SignInError::Refused(Refusal { code, .. }) => Self::of_code(*code, false),
            SignInError::Bye(bye) => Self::of_bye(bye, false),
            SignInError::Scram(_) => Self::NotLetIn,
            SignInError::Connection(ConnectionError::Tls(_)) => Self::Tls,
            SignInError::Connection(ConnectionError::NoWebSocket { .. }) => Self::NoWebSocket,
            SignInError::Connection(_) | SignInError::Unexpected => Self::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_frame_names_the_ending() {
        let of = |code: Code, ended: SessionEnd, signed_in| {
            Ending::of_bye(&Bye { code: code.into(), ended: ended.into(), ..Bye::default() }, signed_in)
        };
        let none = SessionEnd::Unspecified;
        assert_eq!(of(Code::Replaced, none, true), Ending::Replaced);
        assert_eq!(of(Code::Expired, none, true), Ending::Expired);
        assert_eq!(of(Code::Unauthenticated, SessionEnd::Deleted, true), Ending::AccountDeleted);
        assert_eq!(of(Code::Unauthenticated, SessionEnd::Credentials, true), Ending::CredentialsChanged);
        assert_eq!(of(Code::Unauthenticated, SessionEnd::Token, true), Ending::TokenRevoked);
        assert_eq!(of(Code::Unauthenticated, SessionEnd::Operator, true), Ending::EndedByOperator);
        assert_eq!(of(Code::Unauthenticated, none, true), Ending::EndedByService, "a gateway of an earlier release");
        assert_eq!(of(Code::Unauthenticated, none, false), Ending::NotLetIn);
        assert_eq!(of(Code::Invalid, none, true), Ending::Protocol);
        // Of a later release.
        let unknown = Bye { code: 9999, ended: 99, ..Bye::default() };
        assert_eq!(Ending::of_bye(&unknown, true), Ending::EndedByService);
    }
}
