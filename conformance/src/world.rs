//! The service of a scene: values of frames that a scene leaves out.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use carillon_proto::pb::client::{ClientFrame, Timeline, client_frame::Body, sign_in::Credential, timeline::Owner};
use serde_json::{Map, Value, json};

/// The epoch of the inbox, if the scene gives no other one.
const EPOCH: u64 = 7;
/// Time of acceptance of the first message, in milliseconds since 1970.
const BEGAN_MS: u64 = 1_795_000_000_000;
/// The service's part of the nonce.
const SCRAM_NONCE: &str = "c2NlbmU";
/// Base64, as SCRAM has it.
const SCRAM_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

/// The inbox of the user, as the frames of a scene have shown it, and what the client has said.
#[derive(Debug)]
pub struct World {
    user: String,
    device: String,
    epoch: u64,
    /// The last position of the inbox.
    last: u64,
    /// Positions that the device has acknowledged.
    cursor: u64,
    /// The position in the last SignIn.
    position: Option<(u64, u64)>,
    sign_ins: u64,
    fetch: u32,
    renewal: u32,
    nonce: u64,
    /// The nonce of SCRAM that the client has chosen.
    scram_nonce: String,
}

impl World {
    pub fn new(user: &str, device: &str) -> Self {
        let (user, device) = (user.to_owned(), device.to_owned());
        let (epoch, last, cursor) = (EPOCH, 0, 0);
        Self {
            user,
            device,
            epoch,
            last,
            cursor,
            position: None,
            sign_ins: 0,
            fetch: 0,
            renewal: 0,
            nonce: 0,
            scram_nonce: String::new(),
        }
    }

    /// Notes what answers depend on.
    pub fn heard(&mut self, frame: &ClientFrame) {
        match &frame.body {
            Some(Body::SignIn(sign_in)) => {
                let inbox = Some(Owner::Inbox(self.user.clone()));
                let of_inbox =
                    |timeline: &Option<Timeline>| timeline.as_ref().is_some_and(|timeline| timeline.owner == inbox);
                let given = sign_in.positions.iter().find(|given| of_inbox(&given.timeline));
                if let Some(Credential::ScramFirst(first)) = &sign_in.credential {
                    let first = String::from_utf8_lossy(first);
                    self.scram_nonce =
                        first.split(',').find_map(|part| part.strip_prefix("r=")).unwrap_or_default().to_owned();
                }
                self.position = given.and_then(|given| given.position).map(|position| (position.epoch, position.seq));
            }
            Some(Body::Ack(ack)) => {
                let position = ack.position.filter(|position| position.epoch == self.epoch);
                self.cursor = self.cursor.max(position.map_or(0, |position| position.seq));
            }
            Some(Body::Fetch(fetch)) => self.fetch = fetch.request,
            Some(Body::Renew(renew)) => self.renewal = renew.request,
            Some(Body::Ping(ping)) => self.nonce = ping.nonce,
            _ => {}
        }
    }

    /// Adds what a frame of the scene leaves out, as the service would say it. `now_ms`: milliseconds since 1970.
    pub fn complete(&mut self, frame: &mut Value, now_ms: u64) {
        let Some((kind, body)) = frame.as_object_mut().and_then(|frame| frame.iter_mut().next()) else { return };
        let Some(body) = body.as_object_mut() else { return };
        match kind.as_str() {
            "challenge" => {
                let first = format!("r={}{SCRAM_NONCE},s={SCRAM_SALT},i=4096", self.scram_nonce);
                put(body, "scramServerFirst", BASE64.encode(first).into());
            }
            "signedIn" => self.signed_in(body, now_ms),
            "deliver" => {
                let seq = self.position_in(body, "position");
                put(body, "timeline", self.inbox());
                self.envelope(body, seq);
            }
            "accepted" => {
                let seq = self.position_in(body, "position");
                put(body, "timeline", self.inbox());
                put(body, "messageId", message_id(seq).into());
                put(body, "timeMs", time_ms(seq));
            }
            "trimmed" => {
                let first = self.position_in(body, "first");
                self.last = self.last.max(first.saturating_sub(1));
                put(body, "timeline", self.inbox());
            }
            "page" => self.page(body),
            "pong" => {
                put(body, "nonce", self.nonce.to_string().into());
                let head = json!({"epoch": self.shown_epoch(), "seq": self.last.to_string()});
                put(body, "heads", json!([{"timeline": self.inbox(), "position": head}]));
            }
            "renewed" => {
                put(body, "request", self.renewal.into());
                put(body, "expiresMs", (now_ms + 3_600_000).to_string().into());
            }
            _ => {}
        }
    }

    fn signed_in(&mut self, body: &mut Map<String, Value>, now_ms: u64) {
        self.sign_ins += 1;
        let given = body.get("timelines").and_then(|timelines| timelines.get(0));
        let of_inbox = |state: &&Value| state.get("timeline").is_none_or(|timeline| *timeline == self.inbox());
        if let Some(state) = given.filter(of_inbox) {
            if let Some(epoch) = number(state, "epoch").filter(|epoch| *epoch != 0) {
                (self.epoch, self.last, self.cursor) =
                    if epoch == self.epoch { (epoch, self.last, self.cursor) } else { (epoch, 0, 0) };
            }
            self.last = number(state, "last").unwrap_or(self.last);
        }
        let from = match self.position {
            Some((epoch, seq)) if epoch == self.epoch => seq.min(self.last),
            _ => self.cursor,
        };
        if let Some(state) = body.entry("timelines").or_insert(json!([{}])).get_mut(0).and_then(Value::as_object_mut) {
            put(state, "timeline", self.inbox());
            put(state, "epoch", self.shown_epoch().into());
            put(state, "first", "1".into());
            put(state, "last", self.last.to_string().into());
            put(state, "deliveredFrom", from.to_string().into());
        }
        put(body, "handle", format!("1-{}", self.sign_ins).into());
        put(body, "user", self.user.clone().into());
        put(body, "device", self.device.clone().into());
        put(body, "heartbeatMs", 45_000.into());
        put(body, "expiresMs", (now_ms + 3_600_000).to_string().into());
        let limits = body.entry("limits").or_insert(json!({}));
        if let Some(limits) = limits.as_object_mut() {
            for (name, value) in [
                ("maxFrameBytes", 262_144),
                ("maxContentBytes", 65_536),
                ("sendsPerSecond", 50),
                ("sendBurst", 200),
                ("maxPendingSends", 256),
                ("maxPage", 100),
                ("fetchesPerSecond", 20),
                ("fetchBurst", 100),
            ] {
                put(limits, name, value.into());
            }
        }
    }

    fn page(&mut self, body: &mut Map<String, Value>) {
        put(body, "request", self.fetch.into());
        put(body, "timeline", self.inbox());
        for entry in body.get_mut("entries").and_then(Value::as_array_mut).into_iter().flatten() {
            let seq = number(entry, "seq").unwrap_or_default();
            self.last = self.last.max(seq);
            if let Some(entry) = entry.as_object_mut() {
                self.envelope(entry, seq);
            }
        }
        put(body, "epoch", self.shown_epoch().into());
        put(body, "first", "1".into());
        put(body, "last", self.last.to_string().into());
    }

    /// Completes the position under this name, and returns its number.
    fn position_in(&mut self, body: &mut Map<String, Value>, name: &str) -> u64 {
        let epoch = self.epoch.to_string();
        let Some(position) = body.get_mut(name) else { return 0 };
        let seq = number(position, "seq").unwrap_or_default();
        if let Some(position) = position.as_object_mut() {
            put(position, "epoch", epoch.into());
        }
        let of_inbox = body.get("timeline").is_none_or(|timeline| *timeline == self.inbox());
        if of_inbox && name == "position" {
            self.last = self.last.max(seq);
        }
        seq
    }

    fn envelope(&self, within: &mut Map<String, Value>, seq: u64) {
        let Some(envelope) = within.get_mut("envelope").and_then(Value::as_object_mut) else { return };
        put(envelope, "id", message_id(seq).into());
        put(envelope, "sender", "bob".into());
        put(envelope, "to", json!({"user": self.user}));
        put(envelope, "timeMs", time_ms(seq));
        if envelope.get("erased") != Some(&Value::Bool(true)) {
            put(envelope, "senderDevice", "desk".into());
            put(envelope, "clientId", format!("b{seq}").into());
        } else {
            put(envelope, "content", json!({"text": {}}));
        }
    }

    fn inbox(&self) -> Value {
        json!({"inbox": self.user})
    }

    /// An inbox that has always been empty has epoch 0.
    fn shown_epoch(&self) -> String {
        if self.last == 0 { "0".to_owned() } else { self.epoch.to_string() }
    }
}

/// The id of the message at this position.
fn message_id(seq: u64) -> String {
    format!("01KB000000000000000{seq:07}")
}

fn time_ms(seq: u64) -> Value {
    (BEGAN_MS + 1000 * seq).to_string().into()
}

fn number(within: &Value, name: &str) -> Option<u64> {
    within.get(name)?.as_str()?.parse().ok()
}

fn put(fields: &mut Map<String, Value>, name: &str, value: Value) {
    fields.entry(name).or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::build;

    fn completed(world: &mut World, mut frame: Value) -> Value {
        world.complete(&mut frame, 0);
        build(&frame, false).expect("a frame of the protocol");
        frame
    }

    #[test]
    fn a_device_goes_on_where_it_says_and_otherwise_at_its_cursor() {
        let mut world = World::new("alice", "phone");
        let from = |world: &mut World| {
            let signed_in = completed(world, json!({"signedIn": {}}));
            let state = &signed_in["signedIn"]["timelines"][0];
            (state["epoch"].clone(), state["last"].clone(), state["deliveredFrom"].clone())
        };
        let told = |epoch: &str, last: &str, from: &str| (json!(epoch), json!(last), json!(from));
        assert_eq!(from(&mut world), told("0", "0", "0"));
        completed(&mut world, json!({"deliver": {"position": {"seq": "2"}, "envelope": {}}}));
        assert_eq!(from(&mut world), told("7", "2", "0"));
        let heard = |frame: Value| serde_json::from_value::<ClientFrame>(frame).expect("a frame");
        world.heard(&heard(json!({"ack": {"timeline": {"inbox": "alice"}, "position": {"epoch": "7", "seq": "1"}}})));
        assert_eq!(from(&mut world), told("7", "2", "1"));
        let position = json!([{"timeline": {"inbox": "alice"}, "position": {"epoch": "7", "seq": "2"}}]);
        world.heard(&heard(json!({"signIn": {"positions": position}})));
        assert_eq!(from(&mut world), told("7", "2", "2"));
        completed(&mut world, json!({"signedIn": {"timelines": [{"epoch": "8", "last": "1"}]}}));
        assert_eq!(from(&mut world), told("8", "1", "0"), "positions of another epoch do not count");
    }

    #[test]
    fn what_a_scene_gives_stays() {
        let mut world = World::new("alice", "phone");
        let given = json!({"deliver": {"position": {"epoch": "9", "seq": "3"}, "envelope": {"sender": "carol"}}});
        let deliver = completed(&mut world, given);
        assert_eq!(deliver["deliver"]["position"]["epoch"], "9");
        assert_eq!(deliver["deliver"]["envelope"]["sender"], "carol");
        assert_eq!(deliver["deliver"]["envelope"]["id"].as_str().map(str::len), Some(26));
    }
}
