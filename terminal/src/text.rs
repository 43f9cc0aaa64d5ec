//! Messages as text that no terminal takes for a command.

use carillon_client::Client;
use carillon_proto::{
    duration,
    pb::client::{
        Content, Envelope, Media, MessageState, PollTally, UserMark, content::Body, group_change::What,
        members_change::Kind,
    },
};
use chrono::{DateTime, Local, NaiveDateTime};

/// What is shown of a message whose time is over.
pub(crate) const EXPIRED: &str = "[expired]";
/// The same of a message that was recalled.
const TAKEN_BACK: &str = "[taken back]";

/// The text of a message, and a line about it: edits, pin, reactions.
pub(crate) fn of(envelope: &Envelope, state: Option<&MessageState>) -> (String, String) {
    if state.is_some_and(|state| state.recall.is_some()) {
        return (TAKEN_BACK.to_owned(), String::new());
    }
    if envelope.erased {
        let what = if envelope.expires_at_ms == 0 { "[erased]" } else { EXPIRED };
        return (what.to_owned(), String::new());
    }
    if let Some(what) = envelope.change.as_ref().and_then(|change| change.what.as_ref()) {
        return (format!("[{}]", changed(what)), String::new());
    }
    let nothing = MessageState::default();
    let state = state.unwrap_or(&nothing);
    let text =
        Client::content_now(envelope, Some(state)).map_or_else(String::new, |said| content(said, state.poll.as_ref()));
    (printable(&text), printable(&about(state)))
}

fn about(state: &MessageState) -> String {
    let edited = (state.edits > 0).then(|| "edited".to_owned());
    let pinned = state.pinned.then(|| "pinned".to_owned());
    let reactions = state.reactions.iter().map(|reaction| match reaction.users {
        1 => reaction.emoji.clone(),
        users => format!("{} {users}", reaction.emoji),
    });
    edited.into_iter().chain(pinned).chain(reactions).collect::<Vec<_>>().join("  ")
}

fn content(content: &Content, tally: Option<&PollTally>) -> String {
    let quote = content.reply_to.as_ref().map_or_else(String::new, |reply| {
        let sender = reply.message.as_ref().map_or("", |message| &*message.sender);
        format!("> {sender}: {}\n", reply.quote.replace('\n', " "))
    });
    let from = content.forwarded_from.as_ref().map_or_else(String::new, |from| format!("[from {}] ", from.sender));
    let body = match &content.body {
        Some(Body::Text(text)) => text.body.clone(),
        Some(Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media)) => file(media),
        Some(Body::Location(place)) => format!("[place {} {}] {}", place.latitude, place.longitude, place.label),
        Some(Body::Custom(custom)) => format!("[{}, {} bytes]", custom.r#type, custom.data.len()),
        Some(Body::Poll(poll)) => {
            let votes = |at: usize| tally.and_then(|tally| tally.votes.get(at)).copied().unwrap_or(0);
            let option = |(at, option): (usize, &String)| format!("\n  {at}: {option} ({})", votes(at));
            format!("[poll] {}{}", poll.question, poll.options.iter().enumerate().map(option).collect::<String>())
        }
        // Messages about messages are shown at those.
        Some(Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Vote(_)) => String::new(),
        None => "[something that this version does not know]".to_owned(),
    };
    format!("{quote}{from}{body}")
}

fn file(media: &Media) -> String {
    let Media { media_type, url, name, size_bytes, duration_ms, waveform, caption, .. } = media;
    let what = if name.is_empty() { url } else { name };
    let time = match duration_ms / 1000 {
        0 => String::new(),
        seconds => format!(" {}:{:02}", seconds / 60, seconds % 60),
    };
    format!("[{media_type} {what}, {size_bytes} bytes{time}{}] {caption}", bars(waveform))
}

/// A waveform as a row of bars: the loudest of each part.
fn bars(waveform: &[u8]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const MOST: usize = 32;
    if waveform.is_empty() {
        return String::new();
    }
    let parts = waveform.chunks(waveform.len().div_ceil(MOST));
    let bars = parts.map(|part| BARS[usize::from(part.iter().copied().max().unwrap_or(0)) * BARS.len() / 256]);
    std::iter::once(' ').chain(bars).collect()
}

fn changed(what: &What) -> String {
    match what {
        What::Created(_) => "made the group".to_owned(),
        What::Set(set) => set.expire_after_ms.map_or("changed the settings".to_owned(), expiring),
        What::Deleted(_) => "deleted the group".to_owned(),
        What::Members(members) => {
            let kind = match members.kind() {
                Kind::Muted if members.muted_until_ms == 0 => "unmuted".to_owned(),
                Kind::Role => {
                    format!("role {}", members.role().as_str_name().trim_start_matches("ROLE_").to_lowercase())
                }
                kind => kind.as_str_name().trim_start_matches("KIND_").to_lowercase(),
            };
            // The user who has left is the sender.
            if members.account_ended {
                return format!("{kind}, as the account has ended");
            }
            printable(&format!("{kind} {}", members.users.join(", ")))
        }
    }
}

/// The rule of a group, in words.
fn expiring(after_ms: u64) -> String {
    match after_ms {
        0 => "lets messages stay".to_owned(),
        _ => format!("lets messages expire after {}", duration::ms_in_words(after_ms)),
    }
}

/// Who of the others in a group has read the message at this position. `all`: no other is in the group.
pub(crate) fn readers(others: &[String], marks: &[UserMark], seq: u64, all: bool) -> String {
    let has_read = |name: &&String| {
        let read = marks.iter().find(|mark| mark.user == **name).and_then(|mark| mark.read);
        read.is_some_and(|read| read.seq >= seq)
    };
    let (read, left): (Vec<_>, Vec<_>) = others.iter().partition(has_read);
    let names = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let more = if all { "" } else { " (of the first 256 members)" };
    match (&read[..], &left[..]) {
        ([], _) => format!("nobody else has read the last message{more}"),
        (_, []) => format!("all others have read the last message{more}: {}", names(&read)),
        _ => {
            let (count, of) = (read.len(), others.len());
            format!(
                "{count} of {of} others have read the last message{more}: {}; not yet: {}",
                names(&read),
                names(&left)
            )
        }
    }
}

/// Without control characters, of which the end of a line is left, and without those that turn the direction of what follows.
pub(crate) fn printable(text: &str) -> String {
    let is_turn = |char: char| matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let char = |char: char| match char {
        '\n' => Some('\n'),
        '\t' => Some(' '),
        char if char.is_control() || is_turn(char) => None,
        char => Some(char),
    };
    text.trim_end().chars().filter_map(char).collect()
}

/// The quote of a message that is answered.
pub(crate) fn beginning(text: &str) -> String {
    const CHARS: usize = 80;
    let line = text.lines().rfind(|line| !line.starts_with("> ")).unwrap_or_default();
    line.chars().take(CHARS).collect()
}

/// Local time.
pub(crate) fn local(time_ms: u64) -> NaiveDateTime {
    let time = i64::try_from(time_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    time.with_timezone(&Local).naive_local()
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::{GroupChange, MembersChange, Role};

    use super::*;

    #[test]
    fn whose_account_has_ended_is_told_and_who_is_the_owner_now() {
        let shown = |members: MembersChange| {
            let change = Some(Box::new(GroupChange { what: Some(What::Members(members)) }));
            of(&Envelope { change, ..Envelope::default() }, None).0
        };
        let (kind, users) = (Kind::Left.into(), vec!["alice".to_owned()]);
        let left = MembersChange { kind, users, account_ended: true, ..MembersChange::default() };
        assert_eq!(shown(left), "[left, as the account has ended]");
        let (kind, users, role) = (Kind::Role.into(), vec!["bob".to_owned()], Role::Owner.into());
        assert_eq!(shown(MembersChange { kind, users, role, ..MembersChange::default() }), "[role owner bob]");
    }

    #[test]
    fn sound_is_drawn() {
        assert_eq!(bars(&[0, 31, 32, 255]), " ▁▁▂█");
        assert_eq!(bars(&[[0, 255]; 128].concat()).chars().count(), 1 + 32);
        let media = Media { media_type: "audio/ogg".into(), name: "a.ogg".into(), ..Media::default() };
        let media = Media { duration_ms: 65_000, waveform: vec![255].into(), size_bytes: 9, ..media };
        assert_eq!(file(&media), "[audio/ogg a.ogg, 9 bytes 1:05 █] ");
    }

    #[test]
    fn readers_are_counted_without_the_user_and_the_author() {
        let mark = |user: &str, seq| UserMark {
            user: user.to_owned(),
            read: Some(carillon_proto::pb::client::Position { epoch: 1, seq }),
            ..UserMark::default()
        };
        let others = ["bela", "cleo"].map(ToOwned::to_owned);
        let marks = [mark("bela", 9), mark("cleo", 8)];
        let told = |seq| readers(&others, &marks, seq, true);
        assert_eq!(told(9), "1 of 2 others have read the last message: bela; not yet: cleo");
        assert_eq!(told(8), "all others have read the last message: bela, cleo");
        assert_eq!(told(10), "nobody else has read the last message");
    }

    #[test]
    fn nothing_that_is_said_commands_the_terminal() {
        assert_eq!(printable("hi\u{1b}[2J\u{7}\r\n\tthere\u{202e}x\n\n"), "hi[2J\n therex");
    }
}
