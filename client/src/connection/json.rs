//! Server frames in JSON, also those of later releases.

use carillon_proto::pb::client::ServerFrame;
use serde_json::Value;

/// Unknown values of enums in one frame that are passed over.
const UNKNOWN: usize = 64;

/// Reads a frame. Where an enum has a value that this release does not know, it is as if nothing stood there, as protobuf asks for:
/// https://protobuf.dev/programming-guides/json/#unknown-enum-string-values. The generated code refuses such a frame.
pub(super) fn read(text: &str) -> Result<ServerFrame, serde_json::Error> {
    let mut error = match serde_json::from_str(text) {
        Ok(frame) => return Ok(frame),
        Err(error) => error,
    };
    let mut value: Value = serde_json::from_str(text)?;
    for _ in 0..UNKNOWN {
        let told = error.to_string();
        let unknown = told.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`'));
        let Some((unknown, _)) = unknown.filter(|(name, _)| remove(&mut value, name)) else { break };
        tracing::debug!(unknown, "the gateway is of a later release");
        match serde_json::from_value(value.clone()) {
            Ok(frame) => return Ok(frame),
            Err(next) => error = next,
        }
    }
    Err(error)
}

/// Removes the fields with this value. True if there was one.
fn remove(value: &mut Value, name: &str) -> bool {
    let mut removed = false;
    match value {
        Value::Object(fields) => {
            let before = fields.len();
            fields.retain(|_, value| value.as_str() != Some(name));
            removed = fields.len() < before;
            for value in fields.values_mut() {
                removed |= remove(value, name);
            }
        }
        Value::Array(items) => {
            for value in items {
                removed |= remove(value, name);
            }
        }
        _ => {}
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::client::{Code, Show, server_frame::Body};

    #[test]
    fn an_unknown_value_of_an_enum_is_as_if_nothing_stood_there() {
        match read(r#"{"bye": {"code": "CODE_OF_2031", "reason": "new", "reconnect": true}}"#).expect("a frame").body {
            Some(Body::Bye(bye)) => assert!(bye.code() == Code::Unspecified && bye.reconnect && bye.reason == "new"),
            other => panic!("{other:?}"),
        }
        let two = r#"{"presences": {"presences": [{"user": "a", "show": "SHOW_X"}, {"user": "b", "show": "SHOW_AWAY"}, {"user": "c", "show": "SHOW_Y"}]}}"#;
        match read(two).expect("a frame").body {
            Some(Body::Presences(told)) => {
                let shown: Vec<_> = told.presences.iter().map(|presence| presence.show()).collect();
                assert_eq!(shown, [Show::Unspecified, Show::Away, Show::Unspecified]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for wrong in ["", "[]", r#"{"bye": 1}"#, r#"{"bye": {"reconnect": "yes"}}"#, r#"{"pong": {"nonce": "x"}}"#] {
            read(wrong).expect_err(wrong);
        }
        assert_eq!(read(r#"{"later": {}}"#).expect("a frame of a later release").body, None);
    }
}
