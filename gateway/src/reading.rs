//! Reading of single frames of clients as this gateway does it, for a program that checks clients without a whole gateway.

use carillon_proto::pb::client::{ClientFrame, Code, Content};
use prost::Message as _;

use crate::{conversation::content, dialect::native, transport::ws};

/// A text message on `carillon.v1.json`. The error is the reason that a client is told.
pub fn read_json(frame: &str) -> Result<ClientFrame, String> {
    native::read_json(frame).map_err(|error| error.to_string())
}

/// Checks the content of a message by itself: size in bytes and body. The error is the reason that a client is told.
pub fn check_content(sent: &Content, max_bytes: usize) -> Result<(), String> {
    content::check(&sent.encode_to_vec(), max_bytes).map(drop).map_err(|error| error.to_string())
}

/// The code of the WebSocket close frame that follows a `Bye`.
pub fn close_code(bye: Code) -> u16 {
    ws::close_code(bye).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_its_content_are_checked_as_a_session_checks_them() {
        let frame = read_json(r#"{"send": {"clientId": "1", "content": {"text": {"body": "hello"}}}}"#).expect("read");
        let Some(carillon_proto::pb::client::client_frame::Body::Send(send)) = frame.body else { panic!("no Send") };
        let sent = send.content.expect("content");
        assert_eq!(check_content(&sent, 100), Ok(()));
        assert!(check_content(&sent, 3).expect_err("too large").contains("at most 3"));
        check_content(&Content::default(), 100).expect_err("no body");
        read_json(r#"{"send": {"clientId": 1}}"#).expect_err("a number is no client id");
        assert_eq!(close_code(Code::ShuttingDown), 1001);
    }
}
