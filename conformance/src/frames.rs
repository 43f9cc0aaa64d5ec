//! Server frames as scenes write them, and what can't be read in the frames of clients.

use carillon_proto::pb::client::ServerFrame;
use prost::Message as _;
use serde_json::Value;

use crate::later;

/// A frame of the gateway in both encodings. Both are of the same message.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// As this release reads it.
    pub frame: ServerFrame,
    /// Without its length.
    pub protobuf: Vec<u8>,
    pub json: String,
}

/// Makes a frame of a scene's JSON. `with_later_fields`: each of its messages has fields that this release does not know.
pub fn build(given: &Value, with_later_fields: bool) -> Result<Outgoing, String> {
    if let Some(kind) = later::kind(given) {
        return Ok(Outgoing { frame: ServerFrame::default(), protobuf: kind, json: given.to_string() });
    }
    let mut known = given.clone();
    let values = later::take_values(&mut known);
    let mut frame: ServerFrame = serde_json::from_value(known.clone()).map_err(|error| error.to_string())?;
    let mut canonical = serde_json::to_value(&frame).map_err(|error| error.to_string())?;
    unknown_name(&known, &canonical)?;
    if frame.body.is_none() {
        return Err(format!("{given} is no frame"));
    }
    later::put_values(&values, &mut canonical, &mut frame)?;
    let mut protobuf = frame.encode_to_vec();
    if with_later_fields {
        later::extend_json(&mut canonical);
        protobuf = later::extend_protobuf(&protobuf)?;
    }
    Ok(Outgoing { frame, protobuf, json: canonical.to_string() })
}

/// Fails with the first name that is none of the protocol. `canonical` is the same message written anew.
pub(crate) fn unknown_name(given: &Value, canonical: &Value) -> Result<(), String> {
    match (given, canonical) {
        (Value::Object(given), Value::Object(known)) => {
            given.iter().try_for_each(|(name, value)| match known.get(name).or_else(|| known.get(&lower_camel(name))) {
                Some(known) => unknown_name(value, known).map_err(|error| format!("{name}: {error}")),
                None if is_default(value) => Ok(()),
                None => Err(format!("the protocol has no field {name:?} here")),
            })
        }
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).try_for_each(|(given, known)| unknown_name(given, known))
        }
        _ => Ok(()),
    }
}

/// True for what canonical JSON leaves out.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            text.is_empty()
                || text == "0"
                || text.ends_with("_UNSPECIFIED")
                || matches!(text.as_str(), "DIRECTION_FORWARD" | "START_CURSOR")
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// `client_id` as `clientId`.
fn lower_camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let mut characters = part.chars();
        let initial = characters.next().map(|first| first.to_ascii_uppercase());
        name + &initial.into_iter().chain(characters).collect::<String>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_encodings_are_of_one_frame() {
        let bye = json!({"bye": {"code": "CODE_OVERLOADED", "reconnect": true, "reconnectAfterMs": 20}});
        let made = build(&bye, false).expect("a frame");
        assert_eq!(ServerFrame::decode(&*made.protobuf).expect("decodes"), made.frame);
        assert_eq!(serde_json::from_str::<Value>(&made.json).expect("JSON"), bye);
        assert_eq!(serde_json::from_str::<ServerFrame>(&made.json).expect("decodes"), made.frame);
    }

    #[test]
    fn a_name_that_the_protocol_does_not_have_is_found() {
        for (wrong, name) in [
            (json!({"byte": {"code": "CODE_INVALID"}}), "byte"),
            (json!({"bye": {"code": "CODE_INVALID", "reconect": true}}), "reconect"),
            (json!({"page": {"entries": [{"seq": "1"}, {"sequence": "2"}]}}), "sequence"),
        ] {
            let why = build(&wrong, false).expect_err("no frame");
            assert!(why.contains(name), "{why}");
        }
        build(&json!({"refused": {"client_id": "1", "retry": false, "code": "CODE_INVALID"}}), false).expect("a frame");
        build(&json!({"bye": {"code": "CODE_UNSPECIFIED"}}), false).expect("a frame");
    }
}
