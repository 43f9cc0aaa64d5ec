//! Encodings of the same thing mean the same: typed and raw forms, protobuf and JSON.

use carillon_proto::{
    EnvelopeParts, EnvelopeTo,
    pb::{client, link},
};
use proptest::prelude::*;
use prost::Message;

fn text() -> impl Strategy<Value = String> {
    "[a-zäß\u{1F600}]{0,12}"
}

fn recipient() -> impl Strategy<Value = client::Recipient> {
    prop_oneof![text().prop_map(client::recipient::To::User), text().prop_map(client::recipient::To::Group),]
        .prop_map(|to| client::Recipient { to: Some(to) })
}

fn content() -> impl Strategy<Value = client::Content> {
    let media = || {
        (text(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40), any::<u32>()).prop_map(
            |(name, size_bytes, sha256, width)| client::Media {
                name,
                size_bytes,
                sha256: sha256.into(),
                width,
                ..Default::default()
            },
        )
    };
    use client::content::Body;
    prop_oneof![
        text().prop_map(|body| Body::Text(client::Text { body })),
        media().prop_map(Body::Image),
        media().prop_map(Body::File),
        (-90.0..90.0f64, -180.0..180.0f64, text())
            .prop_map(|(latitude, longitude, label)| Body::Location(client::Location { latitude, longitude, label })),
        (text(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(r#type, data)| Body::Custom(client::Custom { r#type, data: data.into() })),
    ]
    .prop_map(|body| client::Content { body: Some(body), ..Default::default() })
}

prop_compose! {
    fn envelope()(
        id in text(), sender in text(), sender_device in text(), to in recipient(), client_id in text(),
        time_ms in any::<u64>(), content in content(), users in proptest::option::of(proptest::collection::vec(text(), 0..3)),
        expires_at_ms in prop_oneof![Just(0), any::<u64>()],
    ) -> client::Envelope {
        let change = users.map(|users| {
            let members = client::MembersChange { users, ..client::MembersChange::default() };
            Box::new(client::GroupChange { what: Some(client::group_change::What::Members(members)) })
        });
        client::Envelope {
            id, sender, sender_device, to: Some(to), client_id, time_ms, content: Some(content), erased: false, change,
            expires_at_ms,
        }
    }
}

prop_compose! {
    fn deliver()(envelope in envelope(), epoch in any::<u64>(), seq in any::<u64>(), owner in text()) -> client::Deliver {
        client::Deliver {
            timeline: Some(client::Timeline { owner: Some(client::timeline::Owner::Inbox(owner)) }),
            position: Some(client::Position { epoch, seq }),
            envelope: Some(envelope),
        }
    }
}

proptest! {
    #[test]
    fn a_raw_envelope_has_the_bytes_of_the_typed_one(envelope in envelope()) {
        let raw_envelope = link::RawEnvelope {
            id: envelope.id.clone(),
            sender: envelope.sender.clone(),
            sender_device: envelope.sender_device.clone(),
            to: envelope.to.clone(),
            client_id: envelope.client_id.clone(),
            time_ms: envelope.time_ms,
            content: envelope.content.clone().expect("set above").encode_to_vec().into(),
            erased: false,
            change: envelope.change.as_ref().map(|change| change.encode_to_vec()).unwrap_or_default().into(),
            expires_at_ms: envelope.expires_at_ms,
        };
        // An empty content encodes to nothing in one form and to an empty field in the other: both decode alike.
        prop_assert_eq!(client::Envelope::decode(&*raw_envelope.encode_to_vec()).expect("decodes"), envelope);
    }

    #[test]
    fn an_envelope_of_borrowed_parts_has_the_bytes_of_the_raw_one(
        id in text(), sender in text(), sender_device in text(), to in recipient(), client_id in text(),
        time_ms in prop_oneof![Just(0), any::<u64>()], content in proptest::collection::vec(any::<u8>(), 0..300),
        change in proptest::collection::vec(any::<u8>(), 0..3), expires_at_ms in prop_oneof![Just(0), any::<u64>()],
    ) {
        let (recipient, name) = match to.to.as_ref().expect("set above") {
            client::recipient::To::User(user) => (EnvelopeTo::User(user), user),
            client::recipient::To::Group(group) => (EnvelopeTo::Group(group), group),
        };
        let parts = EnvelopeParts {
            id: &id, sender: &sender, sender_device: &sender_device, recipient, client_id: &client_id,
            time_ms, content: &content, change: &change, expires_at_ms,
        };
        let mut encoded = b"before".to_vec();
        let names = parts.encode(&mut encoded);
        prop_assert_eq!((&encoded[names.sender], &encoded[names.recipient]), (sender.as_bytes(), name.as_bytes()));
        prop_assert_eq!(encoded.len(), 6 + parts.encoded_len());
        let (to, content, change) = (Some(to), content.into(), change.into());
        let raw_envelope = link::RawEnvelope {
            id, sender, sender_device, to, client_id, time_ms, content, change, expires_at_ms, ..Default::default()
        };
        prop_assert_eq!(&encoded[6..], raw_envelope.encode_to_vec());
    }

    #[test]
    fn json_and_back_is_the_same_frame(deliver in deliver()) {
        let frame = client::ServerFrame { body: Some(client::server_frame::Body::Deliver(deliver)) };
        let json = serde_json::to_string(&frame).expect("encodes");
        prop_assert_eq!(serde_json::from_str::<client::ServerFrame>(&json).expect("decodes"), frame);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = client::ClientFrame::decode(&*bytes) {
            prop_assert_eq!(client::ClientFrame::decode(&*frame.encode_to_vec()).expect("decodes"), frame);
        }
    }
}
