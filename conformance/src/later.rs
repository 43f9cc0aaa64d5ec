//! Frames as a later release could send them: with kinds, fields and values that this one does not know.

use carillon_proto::pb::client::{ServerFrame, server_frame::Body};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use serde_json::{Value, json};

/// The name of a frame that no release has.
const KIND: &str = "kindOfALaterRelease";
/// The name of a field that no release has.
const FIELD: &str = "fieldOfALaterRelease";
/// The ending of names of values that no release has.
const VALUE: &str = "_OF_A_LATER_RELEASE";
/// The numbers of the above in protobuf.
const KIND_TAG: u32 = 30_001;
const FIELD_TAG: u32 = 30_002;
const VALUE_NUMBER: i32 = 30_003;

/// A value of an enum that no release has, and where it stands in the frame.
pub(crate) struct LaterValue {
    /// Names and indices.
    path: Vec<String>,
    name: String,
}

/// The protobuf bytes of a frame of an unknown kind, if it is one.
pub(crate) fn kind(frame: &Value) -> Option<Vec<u8>> {
    frame.get(KIND)?;
    let mut bytes = Vec::new();
    put_bytes(KIND_TAG, b"\x08\x01", &mut bytes);
    Some(bytes)
}

/// Takes the unknown values of enums out of a frame.
pub(crate) fn take_values(frame: &mut Value) -> Vec<LaterValue> {
    let mut taken = Vec::new();
    take(frame, &mut Vec::new(), &mut taken);
    taken
}

fn take(value: &mut Value, path: &mut Vec<String>, taken: &mut Vec<LaterValue>) {
    let mut inside = |name: String, value: &mut Value, taken: &mut Vec<LaterValue>| {
        path.push(name);
        take(value, path, taken);
        path.pop();
    };
    match value {
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(name, value)| inside(name.clone(), value, taken));
            fields.retain(|_, value| !value.as_str().is_some_and(|text| text.ends_with(VALUE)));
        }
        Value::Array(items) => {
            items.iter_mut().enumerate().for_each(|(at, value)| inside(at.to_string(), value, taken));
        }
        Value::String(text) if text.ends_with(VALUE) => {
            taken.push(LaterValue { path: path.clone(), name: text.clone() });
        }
        _ => {}
    }
}

/// Puts them back: into JSON by name, into the message by number.
pub(crate) fn put_values(values: &[LaterValue], json: &mut Value, frame: &mut ServerFrame) -> Result<(), String> {
    for LaterValue { path, name } in values {
        let lost = || format!("{name} can't stand at {}", path.join("."));
        let (last, way) = path.split_last().ok_or_else(lost)?;
        let within = way.iter().try_fold(&mut *json, |json, step| match json {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get_mut(at)),
            json => json.get_mut(step),
        });
        let within = within.and_then(Value::as_object_mut).ok_or_else(lost)?;
        within.insert(last.clone(), name.clone().into());
        let at: Option<usize> = path.get(2).and_then(|at| at.parse().ok());
        match (&mut frame.body, last.as_str()) {
            (Some(Body::Bye(bye)), "code") => bye.code = VALUE_NUMBER,
            (Some(Body::Refused(refused)), "code") => refused.code = VALUE_NUMBER,
            (Some(Body::ChatState(notice)), "state") => notice.state = VALUE_NUMBER,
            (Some(Body::Presences(told)), "show") => {
                at.and_then(|at| told.presences.get_mut(at)).ok_or_else(lost)?.show = VALUE_NUMBER;
            }
            _ => return Err(lost()),
        }
    }
    Ok(())
}

/// Adds an unknown field to each message.
pub(crate) fn extend_json(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(extend_json);
            fields.insert(FIELD.to_owned(), json!({"list": [1, "a", {"b": null}]}));
        }
        Value::Array(items) => items.iter_mut().for_each(extend_json),
        _ => {}
    }
}

/// Adds unknown fields to a frame, to its body, and to the envelope and the content of a delivery.
pub(crate) fn extend_protobuf(frame: &[u8]) -> Result<Vec<u8>, String> {
    let (body, _) = decode_key(&mut &*frame).map_err(|error| error.to_string())?;
    // Deliver, its envelope, and the content of that.
    let inside: &[u32] = if body == 5 { &[5, 3, 7] } else { &[body] };
    extend(frame, inside).map_err(|error| error.to_string())
}

fn extend(message: &[u8], inside: &[u32]) -> Result<Vec<u8>, prost::DecodeError> {
    let (mut rest, mut out) = (message, Vec::new());
    while !rest.is_empty() {
        let field = rest;
        let (tag, wire) = decode_key(&mut rest)?;
        match inside.split_first() {
            Some((next, deeper)) if *next == tag && wire == WireType::LengthDelimited => {
                let length = decode_varint(&mut rest)? as usize;
                let inner;
                (inner, rest) = rest.split_at(length.min(rest.len()));
                put_bytes(tag, &extend(inner, deeper)?, &mut out);
            }
            _ => {
                skip_field(wire, tag, &mut rest, DecodeContext::default())?;
                out.extend_from_slice(&field[..field.len() - rest.len()]);
            }
        }
    }
    put_bytes(FIELD_TAG, b"later", &mut out);
    encode_key(FIELD_TAG + 100, WireType::Varint, &mut out);
    encode_varint(7, &mut out);
    Ok(out)
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::build;
    use prost::Message as _;

    #[test]
    fn what_this_release_does_not_know_is_there_and_changes_nothing() {
        let deliver = json!({"deliver": {"position": {"seq": "4"}, "envelope": {"id": "x", "content": {"text": {"body": "hi"}}}}});
        let (plain, later) = (build(&deliver, false).expect("made"), build(&deliver, true).expect("made"));
        assert_eq!(ServerFrame::decode(&*later.protobuf).expect("decodes"), plain.frame);
        assert!(later.protobuf.len() > plain.protobuf.len() + 4 * 10, "in the frame and three messages");
        assert_eq!(later.json.matches(FIELD).count(), 6, "{}", later.json);
    }

    #[test]
    fn an_unknown_value_is_a_name_in_json_and_a_number_in_protobuf() {
        let given =
            json!({"presences": {"presences": [{"user": "a"}, {"user": "b", "show": "SHOW_OF_A_LATER_RELEASE"}]}});
        let made = build(&given, false).expect("made");
        assert_eq!(serde_json::from_str::<Value>(&made.json).expect("JSON"), given);
        match ServerFrame::decode(&*made.protobuf).expect("decodes").body {
            Some(Body::Presences(told)) => assert_eq!(told.presences[1].show, VALUE_NUMBER),
            other => panic!("{other:?}"),
        }
        build(&json!({"signedIn": {"user": "U_OF_A_LATER_RELEASE"}}), false).expect_err("it is no enum");
    }

    #[test]
    fn an_unknown_kind_is_a_frame_without_a_body() {
        let made = build(&json!({"kindOfALaterRelease": {"a": 1}}), false).expect("made");
        assert_eq!(ServerFrame::decode(&*made.protobuf).expect("decodes").body, None);
        assert!(!made.protobuf.is_empty());
    }
}
