//! Finds the send or request that a frame is about, even if the rest of it can't be read.

use std::{borrow::Cow, fmt};

use carillon_proto::pb::client::refused::What;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// `None` if the frame is no JSON, or has no such id. Everything else in it is skipped without validation: numbers that
/// are too large, half surrogate pairs, deep nesting.
pub(super) fn what(frame: &str) -> Option<What> {
    serde_json::from_str::<Named>(frame).ok()?.0
}

/// The name of a member. A name that is no Unicode (half a surrogate pair) matches nothing.
pub(super) struct Name<'de>(Cow<'de, [u8]>);

impl Name<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(name: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        name.deserialize_bytes(Bytes)
    }
}

struct Named(Option<What>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(frame: D) -> Result<Self, D::Error> {
        frame.deserialize_map(Root).map(Self)
    }
}

struct Root;

impl<'de> Visitor<'de> for Root {
    type Value = Option<What>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut send, mut request) = (None, None);
        while let Some(name) = members.next_key::<Name<'_>>()? {
            match name.text() {
                Some("send" | "group") => send = members.next_value_seed(Member(&["clientId", "client_id"]))?,
                Some(
                    "fetch" | "renew" | "readGroup" | "read_group" | "readMembers" | "read_members" | "readGroups"
                    | "read_groups" | "readConversations" | "read_conversations" | "moveMarks" | "move_marks"
                    | "setConversation" | "set_conversation" | "readMarks" | "read_marks" | "contact" | "readContacts"
                    | "read_contacts" | "setPresence" | "set_presence" | "requestMediaSlot" | "request_media_slot"
                    | "requestMediaUrl" | "request_media_url" | "privacy" | "readPrivacy" | "read_privacy"
                    | "setChatState" | "set_chat_state" | "schedule" | "changeScheduled" | "change_scheduled"
                    | "readScheduled" | "read_scheduled" | "report",
                ) => request = members.next_value_seed(Member(&["request"]))?,
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(match (send, request) {
            (Some(Value::String(client_id)), _) => Some(What::ClientId(client_id)),
            (_, Some(Value::Number(number))) => {
                number.as_u64().and_then(|number| u32::try_from(number).ok()).map(What::Request)
            }
            (_, Some(Value::String(text))) => text.parse().ok().map(What::Request),
            _ => None,
        })
    }
}

/// Finds a member with one of these names; `None` for values that are no objects.
struct Member(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Member {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, object: D) -> Result<Self::Value, D::Error> {
        object.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Member {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Name<'_>>()? {
            if name.text().is_some_and(|name| self.0.contains(&name)) {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
}
