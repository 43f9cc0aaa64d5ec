//! The ways to name a message.

use std::{fmt, str::FromStr};

use anyhow::bail;
use carillon_proto::{
    ClientId, DeviceId, MessageId, UserId,
    pb::admin::{KeptMessage, SentMessage, TraceMessageRequest, kept_message::Which, trace_message_request::Message},
};

/// A message as an operator or a user can name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// Devices and client ids may contain a slash: the rest is split in all ways that are possible.
    Sent {
        sender: UserId,
        rest: Vec<(DeviceId, ClientId)>,
    },
    At {
        user: UserId,
        seq: u64,
    },
    Id {
        user: UserId,
        id: MessageId,
    },
}

const FORMS: &str = "a message is named SENDER/DEVICE/CLIENT_ID, USER/POSITION or USER/MESSAGE_ID";

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((user, rest)) = text.split_once('/') else {
            return Err(match text.parse::<MessageId>() {
                Ok(id) => format!(
                    "a message id does not say in whose inbox the message is: give USER/{id}, its sender or recipient"
                ),
                Err(_) => FORMS.to_owned(),
            });
        };
        let user = UserId::new(user).map_err(|error| error.to_string())?;
        let Some(_) = rest.find('/') else {
            return match (rest.parse::<u64>(), rest.parse::<MessageId>()) {
                (Ok(0), _) => Err("positions begin at 1".to_owned()),
                (Ok(seq), _) => Ok(Self::At { user, seq }),
                (_, Ok(id)) => Ok(Self::Id { user, id }),
                (Err(_), Err(_)) => Err(format!("{rest:?} is neither a position nor a message id; {FORMS}")),
            };
        };
        let both = |(at, _)| Some((DeviceId::new(&rest[..at]).ok()?, ClientId::new(&rest[at + 1..]).ok()?));
        let rest: Vec<_> = rest.match_indices('/').filter_map(both).collect();
        if rest.is_empty() { Err(FORMS.to_owned()) } else { Ok(Self::Sent { sender: user, rest }) }
    }
}

impl Named {
    /// What is asked, one after the other, until something is found.
    pub(super) fn requests(&self, to: Option<&UserId>) -> anyhow::Result<Vec<TraceMessageRequest>> {
        let kept = |user: &UserId, which| {
            if to.is_some() {
                bail!("--to belongs to SENDER/DEVICE/CLIENT_ID");
            }
            Ok(vec![Message::Kept(KeptMessage { user: user.as_str().to_owned(), which: Some(which) })])
        };
        let messages = match self {
            Self::At { user, seq } => kept(user, Which::Seq(*seq))?,
            Self::Id { user, id } => kept(user, Which::MessageId(id.to_string()))?,
            Self::Sent { sender, rest } => {
                let sent = |(device, client_id): &(DeviceId, ClientId)| {
                    Message::Sent(SentMessage {
                        sender: sender.as_str().to_owned(),
                        device: device.as_str().to_owned(),
                        client_id: client_id.as_str().to_owned(),
                        to: to.map(|to| to.as_str().to_owned()).unwrap_or_default(),
                    })
                };
                rest.iter().map(sent).collect()
            }
        };
        Ok(messages.into_iter().map(|message| TraceMessageRequest { message: Some(message) }).collect())
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { user, seq } => write!(f, "{user}/{seq}"),
            Self::Id { user, id } => write!(f, "{user}/{id}"),
            Self::Sent { sender, rest } => {
                let (device, client_id) = rest.first().ok_or(fmt::Error)?;
                write!(f, "{sender}/{device}/{client_id}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_in_three_ways() {
        let read = |text: &str| text.parse::<Named>().expect(text);
        for text in ["bob/17", "bob/01HXYZ0000000000000000000A", "alice/phone/1"] {
            assert_eq!(read(text).to_string(), text);
        }
        assert!(matches!(read("bob/17"), Named::At { seq: 17, .. }));
        let Named::Sent { rest, .. } = read("alice/my/phone/1") else { panic!("sent") };
        let split: Vec<_> = rest.iter().map(|(device, id)| (device.as_str(), id.as_str())).collect();
        assert_eq!(split, [("my", "phone/1"), ("my/phone", "1")]);
        assert_eq!(read("alice/my/phone/1").requests(None).expect("two").len(), 2);
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_is_one() {
        for (text, told) in [
            ("01HXYZ0000000000000000000A", "USER/01HXYZ0000000000000000000A"),
            ("17", "SENDER/DEVICE/CLIENT_ID"),
            ("bob/0", "begin at 1"),
            ("bob/x", "neither a position nor a message id"),
            ("Bob/17", "normal form"),
            ("bob//", "SENDER/DEVICE/CLIENT_ID"),
        ] {
            let error = text.parse::<Named>().expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
        let to = UserId::new("carol").expect("valid");
        "bob/17".parse::<Named>().expect("read").requests(Some(&to)).expect_err("--to says nothing there");
    }
}
