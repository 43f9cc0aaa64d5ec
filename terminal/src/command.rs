//! What lines that begin with a slash mean.

use carillon_proto::{
    GroupId, UserId,
    pb::client::{ConversationSettings, Show},
};

use crate::thread::With;

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Open(With),
    Set(ConversationSettings),
    Show(Show, String),
    /// Who has read the last message of the group.
    Who,
    Help,
    Quit,
}

pub(crate) const HELP: &str = "\
/with USER      talk with a user            /group GROUP    talk in a group
/mute [HOURS]   no bell, /unmute            /pin /unpin     first in the list
/archive        last in the list, /unarchive
/unread         as if it were not read      /who            who has read the last message of a group
/online /away /busy [TEXT]                  what contacts see of you
Tab, Shift+Tab  next conversation           PageUp, PageDown, and with an empty line Up, Down: history
Alt+Enter       a line more                 Ctrl+C          the end
A line that begins with // is a message that begins with one.";

const HOUR_MS: u64 = 3_600_000;

/// What the user has typed: a command, or the text of a message.
pub(crate) fn parse(line: &str, now_ms: u64) -> Result<Result<Command, String>, String> {
    let Some(command) = line.strip_prefix('/') else { return Ok(Err(line.to_owned())) };
    if command.starts_with('/') {
        return Ok(Err(command.to_owned()));
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let set = |settings| Ok(Ok(Command::Set(settings)));
    let settings = ConversationSettings::default();
    match (name, rest) {
        ("with", user) => {
            UserId::normalised(user).map(|user| Ok(Command::Open(With::User(user)))).map_err(|error| error.to_string())
        }
        ("group", group) => {
            GroupId::new(group).map(|group| Ok(Command::Open(With::Group(group)))).map_err(|error| error.to_string())
        }
        ("mute", "") => set(ConversationSettings { muted_until_ms: Some(u64::MAX), ..settings }),
        ("mute", hours) => match hours.parse::<u32>() {
            Ok(hours) => {
                let until = now_ms.saturating_add(u64::from(hours) * HOUR_MS);
                set(ConversationSettings { muted_until_ms: Some(until), ..settings })
            }
            Err(_) => Err(format!("{hours:?} is no number of hours")),
        },
        ("unmute", "") => set(ConversationSettings { muted_until_ms: Some(0), ..settings }),
        ("pin" | "unpin", "") => set(ConversationSettings { pinned: Some(name == "pin"), ..settings }),
        ("archive" | "unarchive", "") => set(ConversationSettings { archived: Some(name == "archive"), ..settings }),
        ("unread", "") => set(ConversationSettings { unread: Some(true), ..settings }),
        ("online", text) => Ok(Ok(Command::Show(Show::Online, text.to_owned()))),
        ("away", text) => Ok(Ok(Command::Show(Show::Away, text.to_owned()))),
        ("busy", text) => Ok(Ok(Command::Show(Show::DoNotDisturb, text.to_owned()))),
        ("who", "") => Ok(Ok(Command::Who)),
        ("help", "") => Ok(Ok(Command::Help)),
        ("quit", "") => Ok(Ok(Command::Quit)),
        _ => Err(format!("/{command} is no command; /help has those that there are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_a_message_or_wrong() {
        let parse = |line| parse(line, 1_000);
        assert_eq!(parse("hello /there"), Ok(Err("hello /there".to_owned())));
        assert_eq!(parse("//etc"), Ok(Err("/etc".to_owned())));
        let bob = With::User(UserId::new("bob").expect("valid"));
        assert_eq!(parse("/with  bob "), Ok(Ok(Command::Open(bob))));
        assert_eq!(parse("/away at lunch"), Ok(Ok(Command::Show(Show::Away, "at lunch".to_owned()))));
        let muted = ConversationSettings { muted_until_ms: Some(7_201_000), ..ConversationSettings::default() };
        assert_eq!(parse("/mute 2"), Ok(Ok(Command::Set(muted))));
        for wrong in ["/", "/with", "/with a b", "/mute long", "/pin x", "/dance"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
