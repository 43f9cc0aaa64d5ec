//! The plays in `tests/plays`, each on every carrier, against a whole service on real sockets.

mod support;

use std::{collections::HashMap, time::Duration};

use carillon_client::{Address, ConnectOptions, Connection, ConnectionError};
use carillon_proto::pb::client::{ClientFrame, ServerFrame, SignIn, client_frame::Body, server_frame};
use serde_json::{Value, json};
use support::{
    play::{self, Action, Bindings, Line},
    service::{Carrier, Service},
};

macro_rules! plays {
    ($($test:ident: $file:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            run_everywhere($file, include_str!(concat!("plays/", $file, ".play")));
        }
    )*
        #[test]
        fn every_play_is_run() {
            let known = [$($file),*];
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plays");
            for file in std::fs::read_dir(folder).expect("folder of plays") {
                let name = file.expect("entry").file_name().into_string().expect("name");
                let play = name.trim_end_matches(".play");
                assert!(known.contains(&play), "{name} is not run");
            }
        }
    };
}

plays! {
    a_message_is_delivered_and_accepted: "send-and-deliver",
    every_content_comes_out_as_it_went_in: "contents",
    a_message_waits_for_who_is_away: "away",
    a_device_goes_on_from_its_position: "positions",
    another_epoch_begins_anew: "another-epoch",
    own_devices_see_what_one_sends: "own-devices",
    a_note_to_oneself_is_there_once: "to-oneself",
    a_repeated_send_has_the_first_answer: "duplicate",
    a_device_replaces_its_older_connection: "replaced",
    history_is_read_page_by_page: "history",
    one_bad_message_does_not_end_the_connection: "refusals",
    a_frame_out_of_turn_ends_the_connection: "wrong-state",
    ping_brings_the_heads: "ping",
    a_message_waits_for_the_one_before: "order",
}

fn run_everywhere(name: &str, text: &str) {
    let lines = play::parse(text);
    let service = Service::shared();
    for carrier in Carrier::ALL {
        let run = format!("{name}-{}", carrier.name());
        service.block_on(perform(service, carrier, &run, &lines));
    }
}

async fn perform(service: &Service, carrier: Carrier, run: &str, lines: &[Line]) {
    let mut stage =
        Stage { service, address: service.address(carrier), bindings: Bindings::new(run), on: HashMap::new() };
    for line in lines {
        let act = tokio::time::timeout(Duration::from_secs(20), stage.act(line));
        match act.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => panic!("{run}, line {} ({}): {why}", line.number, line.actor.name),
            Err(_) => panic!("{run}, line {} ({}): nothing came", line.number, line.actor.name),
        }
    }
}

/// A play on one carrier.
struct Stage<'a> {
    service: &'a Service,
    address: Address,
    bindings: Bindings,
    on: HashMap<String, Connection>,
}

impl Stage<'_> {
    async fn act(&mut self, line: &Line) -> Result<(), String> {
        let name = &line.actor.name;
        match &line.action {
            Action::Connect => self.connect(name).await,
            Action::SignIn(more) => {
                self.connect(name).await?;
                let user = self.bindings.user(&line.actor.user);
                let mut request = self.bindings.fill(more);
                request["device"] = json!(line.actor.device);
                request["token"] = json!(self.service.token(&user));
                let request: SignIn = serde_json::from_value(request).map_err(|error| error.to_string())?;
                self.send(name, Body::SignIn(request)).await?;
                self.receive(name, &json!({"signedIn": {"user": user, "device": line.actor.device, "handle": "*"}}))
                    .await
            }
            Action::Send(frame) => {
                let frame = self.bindings.fill(frame);
                let frame: ClientFrame = serde_json::from_value(frame).map_err(|error| error.to_string())?;
                match frame.body {
                    Some(body) => self.send(name, body).await,
                    None => self.connection(name)?.send_empty().await.map_err(|error| error.to_string()),
                }
            }
            Action::Receive(pattern) => self.receive(name, pattern).await,
            Action::HearNothing => {
                self.send(name, Body::Ping(carillon_proto::pb::client::Ping { nonce: 4711 })).await?;
                self.receive(name, &json!({"pong": {"nonce": "4711"}})).await
            }
            Action::IsClosed => match self.connection(name)?.next_frame().await {
                Ok(None) | Err(ConnectionError::Closed | ConnectionError::Io(_) | ConnectionError::Grpc(_)) => Ok(()),
                Ok(Some(frame)) => Err(format!("expected the end, got {}", to_json(&frame))),
                Err(other) => Err(format!("expected the end, got {other}")),
            },
            Action::Disconnect => {
                self.on.remove(name);
                Ok(())
            }
        }
    }

    async fn connect(&mut self, name: &str) -> Result<(), String> {
        let connection = Connection::connect(&self.address, &ConnectOptions::default()).await;
        self.on.insert(name.to_owned(), connection.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn connection(&mut self, name: &str) -> Result<&mut Connection, String> {
        self.on.get_mut(name).ok_or_else(|| format!("{name} is not connected"))
    }

    async fn send(&mut self, name: &str, body: Body) -> Result<(), String> {
        self.connection(name)?.send_frame(body).await.map_err(|error| error.to_string())
    }

    async fn receive(&mut self, name: &str, pattern: &Value) -> Result<(), String> {
        let frame =
            self.connection(name)?.next_frame().await.map_err(|error| format!("expected {pattern}: {error}"))?;
        let frame = frame.ok_or_else(|| format!("expected {pattern}, but the connection was closed"))?;
        let value = to_json(&frame);
        self.bindings.matches(pattern, &value).map_err(|difference| format!("{difference}\n  in {value}"))
    }
}

/// Canonical JSON, with the enums' zero values spelled out where a play may name them.
fn to_json(frame: &ServerFrame) -> Value {
    let mut value = serde_json::to_value(frame).expect("frames are JSON");
    if let Some(server_frame::Body::SignedIn(_)) = &frame.body {
        // Never part of a play, because the value differs from run to run.
        value["signedIn"]["scramServerFinal"].take();
    }
    value
}
