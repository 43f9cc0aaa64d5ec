//! The codes and texts of close frames: RFC 6455, section 7.4.

use carillon_proto::pb::client::Code;
use tokio_tungstenite::tungstenite::Utf8Bytes;
pub(crate) use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// A control frame has at most 125 bytes, two of which are the code.
const REASON: usize = 123;

/// The close code for a Bye. The transport itself reports invalid bytes (1002, 1003, 1007).
pub(crate) fn close_code(bye: Code) -> CloseCode {
    match bye {
        Code::SignedOut => CloseCode::Normal,
        Code::ShuttingDown => CloseCode::Away,
        Code::TooLarge => CloseCode::Size,
        // "Try Again Later", 1013 in the registry of RFC 6455.
        Code::Overloaded | Code::Unavailable => CloseCode::Again,
        Code::Internal | Code::Unspecified => CloseCode::Error,
        // The client or its user broke a rule of this protocol.
        Code::Invalid
        | Code::RateLimited
        | Code::Unauthenticated
        | Code::Forbidden
        | Code::NotFound
        | Code::Unsupported
        | Code::Replaced
        | Code::TooSlow
        | Code::TimedOut
        | Code::Expired
        | Code::OutOfOrder
        | Code::Exists
        | Code::TooLate => CloseCode::Policy,
    }
}

/// As much of the text as fits into a close frame.
pub(super) fn close_reason(reason: &str) -> Utf8Bytes {
    let ends = reason.char_indices().map(|(at, character)| at + character.len_utf8());
    let end = ends.take_while(|&end| end <= REASON).last().unwrap_or(0);
    Utf8Bytes::from(reason[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = close_reason(&"ä".repeat(100));
        assert_eq!(reason.len(), 122);
        assert_eq!(close_reason("short").as_str(), "short");
    }

    #[test]
    fn every_code_may_be_sent() {
        for code in (0..100).filter_map(|code| Code::try_from(code).ok()) {
            assert!(close_code(code).is_allowed(), "{code:?}");
        }
    }
}
