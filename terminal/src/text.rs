//! Messages as text that no terminal takes for a command.

use carillon_proto::pb::client::{Content, Envelope, Media, content::Body, group_change::What};
use chrono::{DateTime, Local, NaiveDateTime};

/// What a message says.
pub(crate) fn of(envelope: &Envelope) -> String {
    if envelope.erased {
        return "[erased]".to_owned();
    }
    if let Some(what) = envelope.change.as_ref().and_then(|change| change.what.as_ref()) {
        return format!("[{}]", changed(what));
    }
    printable(&envelope.content.as_ref().map_or_else(String::new, content))
}

fn content(content: &Content) -> String {
    match &content.body {
        Some(Body::Text(text)) => text.body.clone(),
        Some(Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media)) => file(media),
        Some(Body::Location(place)) => format!("[place {} {}] {}", place.latitude, place.longitude, place.label),
        Some(Body::Custom(custom)) => format!("[{}, {} bytes]", custom.r#type, custom.data.len()),
        Some(Body::Edit(edit)) => {
            let now = edit.content.as_deref().map_or_else(String::new, self::content);
            format!("[says an earlier message otherwise] {now}")
        }
        Some(Body::Recall(_)) => "[takes a message back]".to_owned(),
        Some(Body::Reaction(reaction)) if reaction.emojis.is_empty() => "[takes a reaction back]".to_owned(),
        Some(Body::Reaction(reaction)) => format!("[reacts] {}", reaction.emojis.join(" ")),
        Some(Body::Pin(pin)) => format!("[{} a message]", if pin.unpin { "unpins" } else { "pins" }),
        Some(Body::Poll(poll)) => format!("[asks] {} {}", poll.question, poll.options.join(" / ")),
        Some(Body::Vote(_)) => "[votes]".to_owned(),
        None => "[something that this version does not know]".to_owned(),
    }
}

fn file(media: &Media) -> String {
    let Media { media_type, url, name, size_bytes, caption, .. } = media;
    let what = if name.is_empty() { url } else { name };
    format!("[{media_type} {what}, {size_bytes} bytes] {caption}")
}

fn changed(what: &What) -> String {
    match what {
        What::Created(_) => "made the group".to_owned(),
        What::Set(_) => "changed the settings".to_owned(),
        What::Deleted(_) => "deleted the group".to_owned(),
        What::Members(members) => {
            let kind = members.kind().as_str_name().trim_start_matches("KIND_").to_lowercase();
            printable(&format!("{kind} {}", members.users.join(", ")))
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

/// What the clock on the wall shows.
pub(crate) fn local(time_ms: u64) -> NaiveDateTime {
    let time = i64::try_from(time_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    time.with_timezone(&Local).naive_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_commands_the_terminal() {
        assert_eq!(printable("hi\u{1b}[2J\u{7}\r\n\tthere\u{202e}x\n\n"), "hi[2J\n therex");
    }
}
