//! What a message says, in one line.

use carillon_proto::pb::client::{Content, MessageRef, content::Body};

use super::chat::{file, printable};

pub(super) fn said(content: Option<&Content>) -> String {
    let Some(content) = content else { return "[empty]".to_owned() };
    let answers = content.reply_to.as_ref().map(|reply| format!("[answers {}] ", id(reply.message.as_ref())));
    let forwarded = content.forwarded_from.as_ref().map(|from| format!("[from {}] ", printable(&from.sender)));
    let before = [answers, forwarded].into_iter().flatten().collect::<String>();
    before + &body(content.body.as_ref())
}

fn body(body: Option<&Body>) -> String {
    match body {
        Some(Body::Text(text)) => printable(&text.body),
        Some(Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media)) => {
            printable(&file(media))
        }
        Some(Body::Location(place)) => {
            printable(&format!("[location] {} {} {}", place.latitude, place.longitude, place.label))
        }
        Some(Body::Custom(custom)) => printable(&format!("[{}] {} bytes", custom.r#type, custom.data.len())),
        Some(Body::Edit(edit)) => {
            let new = edit.content.as_ref().and_then(|content| content.body.as_ref());
            format!("[edits {}] {}", id(edit.target.as_ref()), self::body(new))
        }
        Some(Body::Recall(recall)) => format!("[recalls {}]", id(recall.target.as_ref())),
        Some(Body::Reaction(reaction)) => {
            format!("[reacts to {}] {}", id(reaction.target.as_ref()), printable(&reaction.emojis.join(" ")))
        }
        Some(Body::Pin(pin)) if pin.unpin => format!("[unpins {}]", id(pin.target.as_ref())),
        Some(Body::Pin(pin)) => format!("[pins {}]", id(pin.target.as_ref())),
        Some(Body::Poll(poll)) => {
            let options = poll.options.iter().enumerate().map(|(at, option)| format!(" {at}: {}", printable(option)));
            format!("[poll] {}{}", printable(&poll.question), options.collect::<String>())
        }
        Some(Body::Vote(vote)) => {
            let options: Vec<_> = vote.options.iter().map(u32::to_string).collect();
            format!("[votes in {}] {}", id(vote.target.as_ref()), options.join(", "))
        }
        None => "[empty]".to_owned(),
    }
}

fn id(message: Option<&MessageRef>) -> String {
    message.map_or_else(|| "?".to_owned(), |message| printable(&message.id))
}
