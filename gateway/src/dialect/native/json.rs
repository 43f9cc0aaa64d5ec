//! Client frames in protobuf's canonical JSON (https://protobuf.dev/programming-guides/json/).
//!
//! The generated code reads what most clients write. It refuses other forms that the mapping allows (`null` for a
//! default, `1.0` and `1e3` for whole numbers, also in quotes); a refused frame is parsed once more by the schema, and
//! converted to the form that the generated code accepts.
//!
//! The tests follow the rules of the mapping and the kinds of inputs in protobuf's own conformance tests. No client
//! frame contains maps, `Any`, `Timestamp`, `Duration`, `FieldMask`, `Struct`, `Value`, wrappers, extensions, signed
//! numbers or `float`: the rules for those do not apply.

mod name;
mod schema;
mod whole;

use carillon_proto::pb::client::{ClientFrame, client_frame::Body, content, refused::What};

use schema::CLIENT_FRAME;

/// A text frame can't be read.
#[derive(Debug, thiserror::Error)]
#[error("frame is not protobuf's canonical JSON: {why}")]
pub(crate) struct JsonError {
    why: String,
    /// The id of the send or request, if the frame has one.
    pub(crate) what: Option<What>,
}

pub(crate) fn decode(frame: &str) -> Result<ClientFrame, JsonError> {
    match serde_json::from_str(frame) {
        Ok(read) if !may_be_too_lenient(&read, frame) => Ok(read),
        // The schema's error is more helpful than that of the generated code.
        Ok(_) | Err(_) => decode_by_schema(frame),
    }
}

/// Accepts everything that the mapping allows; slower.
pub(crate) fn decode_by_schema(frame: &str) -> Result<ClientFrame, JsonError> {
    read_by_schema(frame).map_err(|error| JsonError { why: explain(&error), what: name::what(frame) })
}

fn read_by_schema(frame: &str) -> serde_json::Result<ClientFrame> {
    serde_json::from_value(CLIENT_FRAME.canonical(frame)?)
}

/// The generated code parses quoted numbers as Rust does ("+1", "007", "inf", "1."), which JSON does not allow. Most
/// messages contain no numbers.
fn may_be_too_lenient(read: &ClientFrame, frame: &str) -> bool {
    let content = match &read.body {
        Some(Body::Send(send)) => send.content.as_ref().and_then(|content| content.body.as_ref()),
        None | Some(Body::SignOut(_) | Body::ScramFinal(_)) => return false,
        Some(_) => return has_odd_number(frame),
    };
    match content {
        None | Some(content::Body::Text(_) | content::Body::Custom(_)) => false,
        // Fractions have too many odd forms to check for.
        Some(content::Body::Location(_)) => true,
        Some(_) => has_odd_number(frame),
    }
}

/// True if a string starts like a number that JSON does not allow, or with an escape.
fn has_odd_number(frame: &str) -> bool {
    frame.as_bytes().windows(3).any(|bytes| match bytes {
        [b'"', b'+' | b'\\', _] => true,
        [b'"', b'0', next] => next.is_ascii_digit(),
        _ => false,
    })
}

/// The library's error about half a surrogate pair does not say what is wrong.
fn explain(error: &serde_json::Error) -> String {
    let why = error.to_string();
    if why.starts_with("unexpected end of hex escape") || why.starts_with("lone leading surrogate") {
        let (line, column) = (error.line(), error.column());
        return format!("half a pair of surrogates is no character (line {line}, column {column})");
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::pb::client::sign_in::Credential;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn body(frame: &Value) -> Body {
        let text = frame.to_string();
        decode(&text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .body
            .unwrap_or_else(|| panic!("{text}: no body"))
    }

    fn refused(text: &str) -> JsonError {
        match decode(text) {
            Err(error) => error,
            Ok(frame) => panic!("{text} was read as {frame:?}"),
        }
    }

    fn fetch(limit: &str) -> Result<u32, JsonError> {
        let frame = decode(&format!(r#"{{"fetch": {{"request": 1, "limit": {limit}}}}}"#))?;
        match frame.body {
            Some(Body::Fetch(fetch)) => Ok(fetch.limit),
            other => panic!("{other:?}"),
        }
    }

    fn nonce(text: &str) -> Result<u64, JsonError> {
        match decode(&format!(r#"{{"ping": {{"nonce": {text}}}}}"#))?.body {
            Some(Body::Ping(ping)) => Ok(ping.nonce),
            other => panic!("{other:?}"),
        }
    }

    /// "Either numbers or strings are accepted. Exponent notation (such as 1e2) is accepted in both quoted and unquoted
    /// forms."
    #[test]
    fn whole_numbers_come_in_all_their_forms() {
        for text in ["100", "\"100\"", "100.0", "1e2", "1E+2", "1.0e2", "\"100.0\"", "\"1e2\"", "1000e-1"] {
            assert_eq!(fetch(text).unwrap_or_else(|error| panic!("{text}: {error}")), 100, "{text}");
        }
        assert_eq!(fetch("4294967295").expect("the largest"), u32::MAX);
        assert_eq!(fetch("4294967295.0").expect("the largest"), u32::MAX);
        assert_eq!(nonce("\"18446744073709551615\"").expect("the largest"), u64::MAX);
        assert_eq!(nonce("18446744073709551615").expect("the largest"), u64::MAX);
        assert_eq!(nonce("-0").expect("zero"), 0);
        assert_eq!(nonce("-0.0").expect("zero"), 0);
        assert_eq!(nonce("null").expect("absent"), 0);
        for bad in [
            "1.5",
            "\"1.5\"",
            "-1",
            "4294967296",
            "4294967296.0",
            "1e10",
            "\"\"",
            "\" 1\"",
            "\"1 \"",
            "\"3x3\"",
            "\"0x1\"",
            "true",
            "[]",
            "{}",
            "01",
            "1e999",
            "\"NaN\"",
            "\"Infinity\"",
            "\"+100\"",
            "\"0100\"",
            "\"\\u002b100\"",
        ] {
            fetch(bad).expect_err(bad);
        }
        for bad in ["18446744073709551616", "\"18446744073709551616\"", "18446744073709551616.0", "-1"] {
            nonce(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_large_number_is_exact_or_refused() {
        for (text, is) in [
            ("9007199254740991.0", 9_007_199_254_740_991),
            ("9007199254740993", 9_007_199_254_740_993),
            ("\"9007199254740993.0\"", 9_007_199_254_740_993),
            ("\"1e18\"", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(nonce(text).unwrap_or_else(|error| panic!("{text}: {error}")), is, "{text}");
        }
        for inexact in ["9007199254740993.0", "1e18"] {
            let error = nonce(inexact).expect_err(inexact).to_string();
            assert!(error.contains("nonce is too large for a point or an exponent"), "{error}");
        }
    }

    /// "null is an accepted value for all field types and treated as the default value of the corresponding field type."
    #[test]
    fn null_is_absence() {
        let frame = json!({"sendd": null, "signIn": {
            "user": null, "device": "d", "positions": null, "start": null, "client": null, "scramFirst": null,
            "token": "t",
        }, "ping": null});
        match body(&frame) {
            Body::SignIn(sign_in) => {
                assert_eq!((sign_in.user.as_str(), sign_in.device.as_str(), sign_in.start), ("", "d", 0));
                assert!(sign_in.positions.is_empty());
                assert_eq!(sign_in.credential, Some(Credential::Token("t".to_owned())));
            }
            other => panic!("{other:?}"),
        }
        // "The JSON value null is not allowed as an element of a repeated field."
        refused(r#"{"signIn": {"device": "d", "positions": [null]}}"#);
        refused("null");
        assert_eq!(decode(r#"{"ping": null}"#).expect("a frame").body, None);
    }

    #[test]
    fn names_are_taken_in_both_spellings_and_once() {
        let id = |frame: Value| match body(&frame) {
            Body::Send(send) => send.client_id,
            other => panic!("{other:?}"),
        };
        assert_eq!(id(json!({"send": {"clientId": "1", "after": null}})), "1");
        assert_eq!(id(json!({"send": {"client_id": "1", "after": null}})), "1");
        for twice in [
            r#"{"send": {"clientId": "1", "clientId": "2"}}"#,
            r#"{"send": {"clientId": "1", "client_id": "2"}}"#,
            r#"{"send": {"clientId": "1", "to": {"user": "a", "user": "b"}}}"#,
            r#"{"send": {"clientId": "1", "to": {"user": "a", "group": "b"}}}"#,
            r#"{"ping": {}, "ping": {}}"#,
            r#"{"ping": {}, "signOut": {}}"#,
        ] {
            refused(twice);
        }
        // A member of a oneof that is null does not count.
        let frame = json!({"send": {"clientId": "1", "to": {"user": "a", "group": null}}});
        assert_eq!(id(frame), "1");
        // Names are matched exactly.
        assert_eq!(decode(r#"{"PING": {}}"#).expect("unknown").body, None);
        assert_eq!(id(json!({"send": {"clientId": "1", "clientid": "2", "ClientId": "3"}})), "1");
    }

    #[test]
    fn unknown_fields_are_ignored_wherever_they_are() {
        let frame = json!({
            "v": 2,
            "send": {
                "clientId": "1",
                "replyTo": {"seq": 1, "why": [null, {"deep": true}]},
                "to": {"user": "bob", "hint": "x"},
                "content": {"text": {"body": "hi", "mentions": ["carol"]}, "lang": "en"},
            },
        });
        match body(&frame) {
            Body::Send(send) => match send.content.and_then(|content| content.body) {
                Some(content::Body::Text(text)) => assert_eq!(text.body, "hi"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Unknown fields are skipped unread, as protobuf's own parsers skip them.
    #[test]
    fn what_is_in_unknown_fields_makes_no_difference() {
        for unknown in
            [r#""x": 1, "x": 2"#, r#""x": {"y": 1, "y": 2}"#, r#""x": "\ud83d""#, r#""\ud83d": 1"#, r#""x": 1e999"#]
        {
            // The null makes it read by the schema.
            for ping in ["{}", r#"{"nonce": null}"#] {
                let frame = format!(r#"{{{unknown}, "ping": {ping}}}"#);
                let read = decode(&frame).unwrap_or_else(|error| panic!("{frame}: {error}"));
                assert!(matches!(read.body, Some(Body::Ping(_))), "{frame}: {read:?}");
            }
        }
    }

    #[test]
    fn a_reason_says_what_is_wrong() {
        for (frame, words) in [
            (r#"{"send": {"clientId": "7", "content": {"text": {"body": "\ud83d"}}}}"#, "half a pair of surrogates"),
            (r#"{"send": {"clientId": "7", "content": {"text": {"body": "\ude00x"}}}}"#, "half a pair of surrogates"),
            (r#"{"send": {"clientId": "7", "to": {"user": "a", "group": "b"}}}"#, "user and group are there"),
            (r#"{"send": {"clientId": "7", "to": "bob"}}"#, "an object as to"),
            (r#"{"signIn": {"positions": {}}}"#, "an array as positions"),
            (r#"{"signIn": {"scramFirst": "$$"}}"#, "scramFirst must be base64"),
            (r#"{"fetch": {"direction": 7}}"#, "direction is 7 but must be one of DIRECTION_"),
            (r#"{"ping": {"nonce": "+1"}}"#, "nonce is \"+1\" but must be a whole number"),
            (r#"{"ping": {}, "ping": {}}"#, "\"ping\" is there twice"),
            ("null", "an object as frame"),
        ] {
            let error = refused(frame).to_string();
            assert!(error.contains(words), "{frame}: {error}");
        }
    }

    #[test]
    fn enums_come_by_name_and_by_number() {
        let direction = |text: &str| {
            let frame = decode(&format!(r#"{{"fetch": {{"direction": {text}}}}}"#))?;
            match frame.body {
                Some(Body::Fetch(fetch)) => Ok::<_, JsonError>(fetch.direction),
                other => panic!("{other:?}"),
            }
        };
        for text in ["\"DIRECTION_BACKWARD\"", "1", "1.0"] {
            assert_eq!(direction(text).unwrap_or_else(|error| panic!("{text}: {error}")), 1, "{text}");
        }
        assert_eq!(direction("null").expect("the default"), 0);
        for bad in ["\"DIRECTION_SIDEWAYS\"", "\"direction_backward\"", "\"BACKWARD\"", "7", "1.5", "true", "\"\""] {
            direction(bad).expect_err(bad);
        }
    }

    #[test]
    fn bytes_come_in_both_alphabets_with_or_without_padding() {
        let first = |text: &str| {
            let frame = decode(&format!(r#"{{"signIn": {{"device": "d", "scramFirst": {text}}}}}"#))?;
            match frame.body {
                Some(Body::SignIn(sign_in)) => match sign_in.credential {
                    Some(Credential::ScramFirst(bytes)) => Ok::<_, JsonError>(bytes.to_vec()),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        };
        for text in ["\"+/8=\"", "\"-_8=\"", "\"+/8\"", "\"-_8\""] {
            assert_eq!(first(text).unwrap_or_else(|error| panic!("{text}: {error}")), [0xfb, 0xff], "{text}");
        }
        assert!(first("\"\"").expect("empty").is_empty());
        for bad in ["\"a\"", "\"$$$$\"", "\"YQ ==\"", "1", "[1, 2]"] {
            first(bad).expect_err(bad);
        }
    }

    #[test]
    fn fractions_and_what_is_no_number() {
        let latitude = |text: &str| {
            let place = format!(r#"{{"location": {{"latitude": {text}}}}}"#);
            let frame = decode(&format!(r#"{{"send": {{"clientId": "1", "content": {place}}}}}"#))?;
            let Some(Body::Send(send)) = frame.body else { panic!("no send") };
            match send.content.and_then(|content| content.body) {
                Some(content::Body::Location(location)) => Ok::<_, JsonError>(location.latitude),
                other => panic!("{other:?}"),
            }
        };
        for (text, is) in
            [("1", 1.0), ("1.5", 1.5), ("\"1.5\"", 1.5), ("15e-1", 1.5), ("\"15e-1\"", 1.5), ("null", 0.0)]
        {
            assert_eq!(latitude(text).unwrap_or_else(|error| panic!("{text}: {error}")), is, "{text}");
        }
        // Read, so that the refusal can say what is wrong with it.
        assert!(latitude("\"NaN\"").expect("a name").is_nan());
        assert_eq!(latitude("\"Infinity\"").expect("a name"), f64::INFINITY);
        assert_eq!(latitude("\"-Infinity\"").expect("a name"), f64::NEG_INFINITY);
        for bad in [
            "NaN",
            "Infinity",
            "-Infinity",
            "1e999",
            "\"\"",
            "\"north\"",
            "true",
            "{}",
            "\"inf\"",
            "\"nan\"",
            "\"1.\"",
            "\".5\"",
            "\"+1.5\"",
        ] {
            latitude(bad).expect_err(bad);
        }
    }

    #[test]
    fn types_are_not_guessed() {
        for bad in [
            r#"{"send": {"clientId": 1}}"#,
            r#"{"send": {"clientId": true}}"#,
            r#"{"send": {"clientId": ["1"]}}"#,
            r#"{"send": "1"}"#,
            r#"{"send": [{"clientId": "1"}]}"#,
            r#"{"signIn": {"positions": {}}}"#,
            r#"{"ping": 1}"#,
            r#"{"ping": ""}"#,
            r#"[{"ping": {}}]"#,
            r#""ping""#,
            "1",
        ] {
            refused(bad);
        }
    }

    /// Texts that RFC 8259 does not allow as JSON.
    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [
            "",
            " ",
            "{",
            r#"{"ping": {}} x"#,
            r#"{"ping": {}} {"ping": {}}"#,
            r#"{"ping": {},}"#,
            r#"{ping: {}}"#,
            r#"{'ping': {}}"#,
            r#"{"ping": {} /* hi */}"#,
            r#"{"ping": {"nonce": +1}}"#,
            r#"{"ping": {"nonce": 1.}}"#,
            r#"{"ping": {"nonce": .5}}"#,
            r#"{"send": {"clientId": "\ud800"}}"#,
            r#"{"send": {"clientId": "\x41"}}"#,
            "{\"send\": {\"clientId\": \"a\nb\"}}",
            "\u{feff}{\"ping\": {}}",
        ] {
            assert_eq!(refused(bad).what, None, "{bad}");
        }
        // An unknown field is passed over without a stack, a known one is not gone down into.
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(decode(&format!(r#"{{"x": {deep}}}"#)).expect("unknown").body, None);
        assert_eq!(decode_by_schema(&format!(r#"{{"x": {deep}}}"#)).expect("unknown").body, None);
        decode(&format!(r#"{{"ping": {deep}}}"#)).map(|_| ()).expect_err("too deep");
        let pair = decode(r#"{"send": {"clientId": "\ud83d\ude00"}}"#).expect("a pair of surrogates is one character");
        assert!(matches!(pair.body, Some(Body::Send(send)) if send.client_id == "\u{1f600}"));
    }

    #[test]
    fn what_can_be_named_is_named() {
        let what = |text: &str| refused(text).what;
        assert_eq!(what(r#"{"send": {"clientId": "7", "to": 1}}"#), Some(What::ClientId("7".to_owned())));
        assert_eq!(what(r#"{"send": {"client_id": "7", "x": 1, "to": "bob"}}"#), Some(What::ClientId("7".to_owned())));
        assert_eq!(what(r#"{"fetch": {"request": 9, "direction": 7}}"#), Some(What::Request(9)));
        assert_eq!(what(r#"{"fetch": {"request": "9", "direction": "up"}}"#), Some(What::Request(9)));
        assert_eq!(what(r#"{"renew": {"request": 5, "token": 7}}"#), Some(What::Request(5)));
        // Also if the rest is JSON that no string or number can hold.
        let text =
            |body: &str| format!(r#"{{"send": {{"clientId": "7", "content": {{"text": {{"body": {body}}}}}}}}}"#);
        for body in [r#""\ud83d""#, r#""\ude00\ud83d""#, "1e999", &format!("{}{}", "[".repeat(1000), "]".repeat(1000))]
        {
            assert_eq!(what(&text(body)), Some(What::ClientId("7".to_owned())), "{body}");
        }
        assert_eq!(what(r#"{"send": {"to": 1}}"#), None);
        assert_eq!(what(r#"{"ack": {"position": 1}}"#), None);
        assert_eq!(what(r#"{"fetch": {"request": -1}}"#), None);
    }

    proptest! {
        /// Both ways of reading say the same.
        #[test]
        fn what_the_generated_code_reads_the_schema_reads_likewise(
            id: String, body: String, seq: u64, limit: u32, latitude: f64, bytes: Vec<u8>, backward: bool,
        ) {
            use carillon_proto::pb::client::{
                Ack, Content, Custom, Fetch, Location, Position, Positions, Recipient, Send, SignIn, Text, Timeline,
                TimelinePosition, recipient::To, timeline::Owner,
            };
            let timeline = || Some(Timeline { owner: Some(Owner::Inbox(id.clone())) });
            let position = Some(Position { epoch: seq, seq });
            let send = |content| Body::Send(Send {
                client_id: id.clone(),
                to: Some(Recipient { to: Some(To::User(body.clone())) }),
                content: Some(Content { body: Some(content), ..Default::default() }),
                after: body.clone(),
                expires_after_ms: 0,
            });
            let latitude = if latitude.is_nan() { 0.0 } else { latitude };
            for body in [
                send(content::Body::Text(Text { body: body.clone() })),
                send(content::Body::Location(Location { latitude, longitude: -0.5, label: id.clone() })),
                send(content::Body::Custom(Custom { r#type: id.clone(), data: bytes.clone().into() })),
                Body::Ack(Ack { timeline: timeline(), position }),
                Body::Fetch(Fetch {
                    request: limit, timeline: timeline(), direction: backward.into(), from_seq: seq, limit,
                    ..Default::default()
                }),
                Body::SignIn(SignIn {
                    device: id.clone(),
                    credential: Some(Credential::ScramFirst(bytes.clone().into())),
                    positions: vec![TimelinePosition { timeline: timeline(), position }],
                    more_positions: backward,
                    instance: seq,
                    attempt: limit,
                    ..Default::default()
                }),
                Body::Positions(Positions {
                    positions: vec![TimelinePosition { timeline: timeline(), position }; 2],
                    more: backward,
                }),
            ] {
                let frame = ClientFrame { body: Some(body) };
                let text = serde_json::to_string(&frame).expect("encodes");
                prop_assert_eq!(&decode_by_schema(&text).expect("reads"), &frame);
                prop_assert_eq!(serde_json::from_str::<ClientFrame>(&text).expect("reads"), frame);
            }
        }
    }

    #[test]
    fn requests_of_groups_are_read_by_the_schema_too_and_named_when_they_cannot_be_read() {
        let text = r#"{"group":{"clientId":"c1","group":"club","members":{"kind":"KIND_BANNED","users":["bob"]}}}"#;
        assert_eq!(decode_by_schema(text).expect("by the schema"), decode(text).expect("decodes"));
        let settings = r#"{"group":{"clientId":"c1","group":"club","set":{"slowModeMs":"1e3","open":true}}}"#;
        let Some(Body::Group(request)) = decode(settings).expect("decodes").body else { panic!("no request") };
        assert!(format!("{request:?}").contains("slow_mode_ms: Some(1000)"), "{request:?}");
        let wrong = r#"{"group":{"clientId":"c1","group":5}}"#;
        assert_eq!(refused(wrong).what, Some(What::ClientId("c1".to_owned())));
        assert_eq!(refused(r#"{"readMembers":{"request":7,"limit":-1}}"#).what, Some(What::Request(7)));
    }
}
