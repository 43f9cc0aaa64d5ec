//! Events as lines.

use carillon_proto::pb::admin::{WatchEvent, watch_event::Kind};
use serde_json::{Value, json};

use crate::cli::date;

pub(super) struct Line {
    pub(super) text: String,
    pub(super) json: Value,
}

pub(super) fn event(router: &str, event: &WatchEvent) -> Line {
    let dropped = match event.dropped {
        0 => String::new(),
        dropped => format!("  ({dropped} events near this one were dropped: this command did not read them in time)"),
    };
    let (name, what) = told(event);
    let time = time(event.time_ms);
    Line { text: format!("{time}  {name:<12}  {what}  [{router}]{dropped}"), json: json(router, event, name) }
}

/// This router tells nothing.
pub(super) fn gap(router: &str, why: &str) -> Line {
    let text = format!("{:<12}  {:<12}  what passes through router {router} is not seen: {why}", "", "gap");
    Line { text, json: json!({"event": "gap", "router": router, "why": why}) }
}

/// The name of the kind, and the event in words.
fn told(event: &WatchEvent) -> (&'static str, String) {
    let WatchEvent { user, device, to, to_device, client_id, seq, bytes, reason, protocol, .. } = event;
    let of = if device.is_empty() { user.clone() } else { format!("{user}/{device}") };
    let connection = handle(event).map(|handle| format!(" on connection {handle}")).unwrap_or_default();
    let message = || format!("{of} to {to}, client id {client_id}");
    let gateway = event.gateway;
    let owner = if event.owns { "which owns the user" } else { "which does not own the user" };
    match event.kind() {
        Kind::Started => ("watching", format!("at this router, {owner}")),
        Kind::There => ("signed in", format!("{of}{connection}")),
        Kind::Owner => ("owner", format!("{user} is owned by {} router", if event.owns { "this" } else { "another" })),
        Kind::SignedIn => ("signs in", format!("{of}{connection} ({protocol})")),
        Kind::Announced => {
            ("goes on", format!("{of}{connection} ({protocol}): its gateway has told this router of it"))
        }
        Kind::SignInRefused => ("not let in", format!("{of}: {} ({reason})", event.code().as_str_name())),
        Kind::SignedOut if reason.is_empty() => ("signs out", format!("{of}{connection}")),
        Kind::SignedOut => ("put out", format!("{of}{connection}: {reason}")),
        Kind::Sent => ("sends", format!("{}, {bytes} bytes", message())),
        Kind::Stored => ("stored", format!("{}, at position {seq} in the inbox of {to}", message())),
        Kind::Accepted => ("accepted", format!("{}, at position {seq} in the inbox of {user}", message())),
        Kind::Refused => ("refused", format!("{}: {} ({reason})", message(), event.code().as_str_name())),
        Kind::Pushed => ("pushed", format!("position {seq}, {bytes} bytes, to gateway {gateway}: {}", message())),
        Kind::PushDropped => {
            ("not pushed", format!("position {seq} to gateway {gateway}, which reads it from the store: {}", message()))
        }
        Kind::Head => ("told", format!("gateway {gateway} that the inbox of {user} reaches to position {seq}")),
        Kind::Acknowledged => ("acknowledges", format!("{of} position {seq}")),
        Kind::Read => ("reads", format!("a page of the inbox of {user} from position {seq}")),
        Kind::Signal => ("signal", format!("{of} to {to}{}, {bytes} bytes", slash(to_device))),
        Kind::Directed => ("request", format!("{of} to {to}{}, {bytes} bytes", slash(to_device))),
        Kind::Unspecified => ("?", format!("an event of a kind that this release does not know, of {of}")),
    }
}

fn slash(device: &str) -> String {
    if device.is_empty() { String::new() } else { format!("/{device}") }
}

/// Of an event of one connection.
fn handle(event: &WatchEvent) -> Option<String> {
    match event.connections[..] {
        [connection] => Some(format!("{}-{connection}", event.gateway)),
        _ => None,
    }
}

fn json(router: &str, event: &WatchEvent, name: &str) -> Value {
    let mut json = json!({"event": name, "time_ms": event.time_ms, "router": router});
    let mut put = |name: &str, value: Value, is_there: bool| {
        if is_there {
            json[name] = value;
        }
    };
    for (name, value) in [
        ("user", &event.user),
        ("device", &event.device),
        ("to", &event.to),
        ("to_device", &event.to_device),
        ("client_id", &event.client_id),
        ("message_id", &event.message_id),
        ("reason", &event.reason),
        ("protocol", &event.protocol),
    ] {
        put(name, value.as_str().into(), !value.is_empty());
    }
    put("position", event.seq.into(), event.seq != 0);
    put("bytes", event.bytes.into(), event.bytes != 0);
    put("gateway", event.gateway.into(), event.gateway != 0);
    put("dropped", event.dropped.into(), event.dropped != 0);
    put("code", event.code().as_str_name().into(), event.code != 0);
    put("owns", event.owns.into(), matches!(event.kind(), Kind::Started | Kind::Owner));
    let handle = handle(event);
    put("handle", handle.clone().into(), handle.is_some());
    json
}

/// The time of the day, in UTC.
fn time(ms: u64) -> String {
    let date = date::format(ms);
    let clock = date.split_once('T').map_or("", |(_, clock)| clock).trim_end_matches('Z');
    format!("{clock}.{:03}", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own_and_is_told_in_words() {
        let mut names = std::collections::BTreeSet::new();
        for kind in (0..).map_while(|number| Kind::try_from(number).ok()) {
            let event = WatchEvent {
                kind: kind.into(),
                user: "alice".into(),
                to: "bob".into(),
                time_ms: 1_700_000_000_123,
                ..WatchEvent::default()
            };
            let line = super::event("r:1", &event);
            assert!(line.text.starts_with("22:13:20.123  "), "{}", line.text);
            assert!(names.insert(line.json["event"].to_string()), "{kind:?}");
        }
        assert_eq!(names.len(), 19);
    }

    #[test]
    fn what_was_dropped_is_told_with_its_number() {
        let pushed = WatchEvent {
            kind: Kind::Pushed.into(),
            dropped: 7,
            gateway: 64,
            connections: vec![3],
            ..WatchEvent::default()
        };
        let line = event("r:1", &pushed);
        assert!(line.text.contains("(7 events near this one were dropped"), "{}", line.text);
        assert_eq!((&line.json["dropped"], &line.json["handle"]), (&json!(7), &json!("64-3")));
    }
}
