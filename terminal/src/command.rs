//! Commands: lines that begin with a slash.

use std::path::PathBuf;

use carillon_proto::{
    GroupId, UserId,
    limits::EXPIRES_AFTER_MS,
    pb::client::{Content, ConversationSettings, Poll, ReportReason, RequestAnswer, Show},
};

use crate::{
    help,
    thread::{Said, With},
};

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Open(With),
    Set(ConversationSettings),
    /// What the other has begun is wanted, or not.
    Answer(RequestAnswer),
    Show(Show, String),
    /// Who has read the last message of the group.
    Who,
    About(About),
    /// Says an own message otherwise.
    Edit(String),
    Reply(String),
    /// Sends a file, with a caption.
    File(PathBuf, String),
    /// Writes the file of the chosen message, or of the last one that has one, here, or under its own name.
    Save(Option<PathBuf>),
    /// Sends what the chosen message, or the last one of another, says on.
    Forward(With),
    /// Is sent so many minutes from now.
    Later(u32, String),
    /// Is shown for so many milliseconds.
    Expire(u64, String),
    Ask(Poll),
    /// Of the chosen message, or the last one of another, to the moderators.
    Report(ReportReason, String),
    /// The other user of the conversation.
    Block,
    Help,
    Quit,
}

/// Something that is said about another message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum About {
    Edit(Box<Content>),
    /// True: also from the service, for good.
    Recall(bool),
    React(Vec<String>),
    /// False: no longer.
    Pin(bool),
    Vote(Vec<u32>),
}

impl About {
    /// Whether it is meant for this message, where none is chosen.
    pub(crate) fn fits(&self, said: &Said, is_own: bool) -> bool {
        match self {
            Self::Edit(_) | Self::Recall(_) => is_own,
            Self::Vote(_) => said.is_poll,
            Self::React(_) | Self::Pin(_) => !is_own,
        }
    }
}

const HOUR_MS: u64 = 3_600_000;

/// Reads a line that was typed: a command, or else the text of a message.
pub(crate) fn parse(line: &str, now_ms: u64) -> Result<Result<Command, String>, String> {
    let Some(command) = line.strip_prefix('/') else { return Ok(Err(line.to_owned())) };
    if command.starts_with('/') {
        return Ok(Err(command.to_owned()));
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let set = |settings| Ok(Ok(Command::Set(settings)));
    let about = |about| Ok(Ok(Command::About(about)));
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
        ("accept", "") => Ok(Ok(Command::Answer(RequestAnswer::Accept))),
        ("decline", "") => Ok(Ok(Command::Answer(RequestAnswer::Decline))),
        ("unread", "") => set(ConversationSettings { unread: Some(true), ..settings }),
        ("online", text) => Ok(Ok(Command::Show(Show::Online, text.to_owned()))),
        ("away", text) => Ok(Ok(Command::Show(Show::Away, text.to_owned()))),
        ("busy", text) => Ok(Ok(Command::Show(Show::DoNotDisturb, text.to_owned()))),
        ("who", "") => Ok(Ok(Command::Who)),
        ("reply", text) if !text.is_empty() => Ok(Ok(Command::Reply(text.to_owned()))),
        ("edit", text) if !text.is_empty() => Ok(Ok(Command::Edit(text.to_owned()))),
        ("recall" | "erase", "") => about(About::Recall(name == "erase")),
        ("react", emojis) => about(About::React(emojis.split_whitespace().map(str::to_owned).collect())),
        ("file", rest) => {
            let (path, caption) = rest.split_once('|').unwrap_or((rest, ""));
            match local(path.trim()) {
                Some(path) => Ok(Ok(Command::File(path, caption.trim().to_owned()))),
                None => Err("/file PATH [| CAPTION]".to_owned()),
            }
        }
        ("save", path) => Ok(Ok(Command::Save(local(path)))),
        ("forward", to) => {
            let to = match to.strip_prefix('#') {
                Some(group) => GroupId::new(group).map(With::Group),
                None => UserId::normalised(to).map(With::User),
            };
            to.map(|to| Ok(Command::Forward(to))).map_err(|error| format!("/forward USER or #GROUP: {error}"))
        }
        ("keep" | "unkeep", "") => about(About::Pin(name == "keep")),
        ("vote", options) => match options.split_whitespace().map(str::parse).collect() {
            Ok(options) => about(About::Vote(options)),
            Err(_) => Err("/vote takes numbers of options".to_owned()),
        },
        ("later", rest) => match rest.split_once(char::is_whitespace).map(|(time, text)| (time.parse(), text.trim())) {
            Some((Ok(minutes), text)) if !text.is_empty() => Ok(Ok(Command::Later(minutes, text.to_owned()))),
            _ => Err("/later MINUTES TEXT".to_owned()),
        },
        ("expire", rest) => {
            match rest.split_once(char::is_whitespace).map(|(time, text)| (milliseconds(time), text.trim())) {
                Some((Some(after_ms), text)) if !text.is_empty() => Ok(Ok(Command::Expire(after_ms, text.to_owned()))),
                _ => Err("/expire TIME TEXT, with a time of 5s to 366d".to_owned()),
            }
        }
        ("poll", poll) => match poll.split('|').map(|part| part.trim().to_owned()).collect::<Vec<_>>() {
            parts if parts.len() > 2 && parts.iter().all(|part| !part.is_empty()) => {
                let (question, options) = (parts[0].clone(), parts[1..].to_vec());
                Ok(Ok(Command::Ask(Poll { question, options, ..Poll::default() })))
            }
            _ => Err("/poll QUESTION | OPTION | OPTION".to_owned()),
        },
        ("report", rest) => {
            let (reason, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let reason = match reason {
                "spam" => ReportReason::Spam,
                "abuse" => ReportReason::Abuse,
                "illegal" => ReportReason::Illegal,
                "other" => ReportReason::Other,
                _ => return Err("/report spam|abuse|illegal|other [TEXT]".to_owned()),
            };
            Ok(Ok(Command::Report(reason, text.trim().to_owned())))
        }
        ("block", "") => Ok(Ok(Command::Block)),
        ("help", "") => Ok(Ok(Command::Help)),
        ("quit", "") => Ok(Ok(Command::Quit)),
        _ => Err(help::wrong(name)),
    }
}

/// A path as a shell takes it: a tilde is the home folder.
fn local(path: &str) -> Option<PathBuf> {
    let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let in_home = path.strip_prefix("~/").and_then(|rest| Some(home()?.join(rest)));
    (!path.is_empty()).then(|| in_home.unwrap_or_else(|| PathBuf::from(path)))
}

/// Of a time like 30s, 15m, 24h or 7d for which a message may be shown.
fn milliseconds(time: &str) -> Option<u64> {
    let (number, unit) = time.split_at_checked(time.find(|char: char| !char.is_ascii_digit())?)?;
    let unit_ms = match unit {
        "s" => 1000,
        "m" => 60_000,
        "h" => HOUR_MS,
        "d" => 24 * HOUR_MS,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).filter(|ms| EXPIRES_AFTER_MS.contains(ms))
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
        assert_eq!(parse("/react x y"), Ok(Ok(Command::About(About::React(vec!["x".to_owned(), "y".to_owned()])))));
        assert_eq!(parse("/vote 0 2"), Ok(Ok(Command::About(About::Vote(vec![0, 2])))));
        assert_eq!(parse("/report spam"), Ok(Ok(Command::Report(ReportReason::Spam, String::new()))));
        let report = Command::Report(ReportReason::Other, "look here".to_owned());
        assert_eq!(parse("/report other  look here"), Ok(Ok(report)));
        assert_eq!(parse("/decline"), Ok(Ok(Command::Answer(RequestAnswer::Decline))));
        let (question, options) = ("tea?".to_owned(), vec!["yes".to_owned(), "no".to_owned()]);
        let poll = Poll { question, options, ..Poll::default() };
        assert_eq!(parse("/poll tea? | yes|no"), Ok(Ok(Command::Ask(poll))));
        assert_eq!(parse("/expire 24h  psst"), Ok(Ok(Command::Expire(86_400_000, "psst".to_owned()))));
        let file = Command::File(PathBuf::from("my cat.png"), "look".to_owned());
        assert_eq!(parse("/file my cat.png | look"), Ok(Ok(file)));
        assert_eq!(parse("/save"), Ok(Ok(Command::Save(None))));
        assert_eq!(parse("/save /tmp/a b"), Ok(Ok(Command::Save(Some(PathBuf::from("/tmp/a b"))))));
        let club = With::Group(GroupId::new("club").expect("valid"));
        assert_eq!(parse("/forward #club"), Ok(Ok(Command::Forward(club))));
        for name in help::names() {
            let what = super::parse(&format!("/{name}"), 1_000);
            assert!(!what.is_err_and(|why| why.contains("no command")), "{name}");
        }
        for wrong in [
            "/file",
            "/file | look",
            "/forward",
            "/forward a b",
            "/forward #",
            "/expire 1s psst",
            "/expire 367d psst",
            "/expire 1é psst",
            "/expire 1h",
            "/poll tea?",
            "/poll |a|b",
            "/vote x",
            "/edit",
            "/",
            "/with",
            "/with a b",
            "/mute long",
            "/pin x",
            "/report",
            "/report that",
            "/block bob",
            "/accept bob",
            "/dance",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
