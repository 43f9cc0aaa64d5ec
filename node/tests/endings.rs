//! The rows of "What ends in what" in docs/protocol.md that no play shows, on every carrier and in every form; and
//! frames that are sent ahead, together, or before the end. `plays/wrong-state.play` and `plays/refusals.play` have the
//! other rows.

mod support;

use std::time::Duration;

use carillon_client::{Client, ConnectOptions, Connection, ConnectionError};
use carillon_proto::pb::client::{
    Ack, Code, Fetch, Ping, Position, Refused, Renew, Send, ServerFrame, SignIn, SignOut, Timeline, client_frame::Body,
    refused::What, server_frame, sign_in, timeline::Owner,
};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use support::service::{Carrier, Service};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` on each carrier, each with a user of its own.
fn on_each(what: &str, service: &Service, test: impl AsyncFn(Carrier, String)) {
    for carrier in Carrier::ALL {
        service.block_on(test(carrier, format!("{what}-{}", carrier.name())));
    }
}

fn sign_in(service: &Service, user: &str) -> Body {
    let credential = Some(sign_in::Credential::Token(service.token(user)));
    Body::SignIn(SignIn { device: "d".to_owned(), credential, ..Default::default() })
}

/// A message of a user to the same user.
fn note(client_id: &str, user: &str, after: &str) -> Body {
    Body::Send(Send {
        client_id: client_id.to_owned(),
        to: Some(Client::user(user)),
        content: Some(Client::text(client_id)),
        after: after.to_owned(),
        expires_after_ms: 0,
    })
}

async fn connect(service: &Service, carrier: Carrier) -> Connection {
    Connection::connect(&service.address(carrier), &ConnectOptions::default()).await.expect("connects")
}

async fn signed_in(service: &Service, carrier: Carrier, user: &str) -> Connection {
    let mut connection = connect(service, carrier).await;
    connection.send_frame(sign_in(service, user)).await.expect("sent");
    let first = next(&mut connection).await;
    assert!(matches!(first, server_frame::Body::SignedIn(_)), "{first:?}");
    connection
}

async fn next_or_end(connection: &mut Connection) -> Option<server_frame::Body> {
    let frame = timeout(PATIENCE, connection.next_frame()).await.expect("something in time");
    match frame {
        Ok(Some(ServerFrame { body })) => Some(body.expect("a body")),
        Ok(None) | Err(ConnectionError::Closed | ConnectionError::Io(_) | ConnectionError::WebSocket(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn next(connection: &mut Connection) -> server_frame::Body {
    next_or_end(connection).await.expect("a frame before the end")
}

async fn bye(connection: &mut Connection) -> Code {
    let code = match next(connection).await {
        server_frame::Body::Bye(bye) => bye.code(),
        other => panic!("no Bye: {other:?}"),
    };
    assert_eq!(next_or_end(connection).await, None, "Bye is the last frame");
    code
}

async fn refused(connection: &mut Connection) -> Refused {
    match next(connection).await {
        server_frame::Body::Refused(refused) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

async fn accepted(connection: &mut Connection) -> String {
    match next(connection).await {
        server_frame::Body::Accepted(accepted) => accepted.client_id,
        other => panic!("not accepted: {other:?}"),
    }
}

#[test]
fn everything_may_come_in_one_segment_and_is_answered_in_turn() {
    let service = Service::shared();
    on_each("together", service, async |carrier, user| {
        let mut connection = connect(service, carrier).await;
        let fetch = Fetch { request: 3, timeline: inbox(&user), ..Default::default() };
        let frames = vec![
            sign_in(service, &user),
            note("1", &user, ""),
            note("2", &user, "1"),
            Body::Fetch(fetch),
            Body::SignOut(SignOut {}),
            // Sent after the last frame that the gateway accepts.
            note("3", &user, ""),
            Body::Ping(Ping { nonce: 1 }),
        ];
        connection.send_frames(frames).await.expect("sent");
        assert!(matches!(next(&mut connection).await, server_frame::Body::SignedIn(_)));
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(match next(&mut connection).await {
                server_frame::Body::Accepted(accepted) => accepted.client_id,
                server_frame::Body::Page(page) => format!("page {}", page.request),
                other => panic!("{carrier:?}: {other:?}"),
            });
        }
        heard.sort();
        assert_eq!(heard, ["1", "2", "page 3"], "{carrier:?}");
        assert_eq!(bye(&mut connection).await, Code::SignedOut, "{carrier:?}");
    });
}

#[test]
fn what_is_sent_ahead_is_not_read_if_the_sign_in_fails() {
    let service = Service::shared();
    on_each("ahead", service, async |carrier, user| {
        let mut connection = connect(service, carrier).await;
        let credential = Some(sign_in::Credential::Token("x.y.z".to_owned()));
        let wrong = Body::SignIn(SignIn { device: "d".to_owned(), credential, ..Default::default() });
        connection.send_frames(vec![wrong, note("1", &user, "")]).await.expect("sent");
        assert_eq!(bye(&mut connection).await, Code::Unauthenticated, "{carrier:?}");
    });
}

#[test]
fn a_second_sign_in_in_the_same_segment_ends_the_connection_after_the_first_one() {
    let service = Service::shared();
    on_each("twice", service, async |carrier, user| {
        let mut connection = connect(service, carrier).await;
        connection.send_frames(vec![sign_in(service, &user), sign_in(service, &user)]).await.expect("sent");
        assert!(matches!(next(&mut connection).await, server_frame::Body::SignedIn(_)));
        assert_eq!(bye(&mut connection).await, Code::Invalid, "{carrier:?}");
    });
}

#[test]
fn who_closes_its_half_gets_its_answers_first() {
    let service = Service::shared();
    on_each("half", service, async |carrier, user| {
        let mut connection = signed_in(service, carrier, &user).await;
        connection.send_frames(vec![note("1", &user, ""), note("2", &user, "")]).await.expect("sent");
        connection.close_half().await.expect("closes");
        match carrier {
            Carrier::Tcp | Carrier::Grpc => {
                let mut heard = [accepted(&mut connection).await, accepted(&mut connection).await];
                heard.sort();
                assert_eq!(heard, ["1", "2"], "{carrier:?}");
                assert_eq!(bye(&mut connection).await, Code::SignedOut, "{carrier:?}");
            }
            // A Close frame closes both halves.
            Carrier::WebSocketProto | Carrier::WebSocketJson => {
                while let Some(frame) = next_or_end(&mut connection).await {
                    assert!(matches!(frame, server_frame::Body::Accepted(_)), "{frame:?}");
                }
            }
        }
        let mut stranger = connect(service, carrier).await;
        stranger.close_half().await.expect("closes");
        assert_eq!(next_or_end(&mut stranger).await, None, "{carrier:?}: nobody has signed in");
    });
}

#[test]
fn a_frame_over_the_limit_ends_the_connection_before_and_after_the_sign_in() {
    let service = Service::shared();
    on_each("large", service, async |carrier, user| {
        let mut connection = connect(service, carrier).await;
        let large = SignIn { device: "d".to_owned(), client: "x".repeat(9_000), ..Default::default() };
        connection.send_frame(Body::SignIn(large)).await.expect("sent");
        assert_eq!(bye(&mut connection).await, Code::TooLarge, "{carrier:?}");
        let mut connection = signed_in(service, carrier, &user).await;
        let large = Send { client_id: "x".repeat(300_000), ..Default::default() };
        // The gateway may end the connection while this is being written.
        let _ = connection.send_frame(Body::Send(large)).await;
        assert_eq!(bye(&mut connection).await, Code::TooLarge, "{carrier:?}");
    });
}

#[test]
fn too_many_sends_and_what_follows_them_are_told_times_one_behind_the_other() {
    let service = Service::start("gateway.sends_per_second = 2\ngateway.send_burst = 2");
    on_each("rate", &service, async |carrier, user| {
        let mut connection = signed_in(&service, carrier, &user).await;
        let mut frames: Vec<Body> = (0..4).map(|n| note(&n.to_string(), &user, "")).collect();
        frames.push(note("4", &user, "3"));
        connection.send_frames(frames).await.expect("sent");
        let (mut times, mut passed) = (Vec::new(), 0);
        while passed + times.len() < 5 {
            match next(&mut connection).await {
                server_frame::Body::Accepted(_) => passed += 1,
                server_frame::Body::Refused(refused) => {
                    let code = if refused.what == Some(What::ClientId("4".to_owned())) {
                        Code::OutOfOrder
                    } else {
                        Code::RateLimited
                    };
                    assert!(refused.code() == code && refused.retry, "{carrier:?}: {refused:?}");
                    times.push(refused.retry_after_ms);
                }
                other => panic!("{carrier:?}: {other:?}"),
            }
        }
        assert!(passed >= 2, "{carrier:?}: the burst passes");
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{carrier:?}: {times:?}");
    });
}

#[test]
fn acknowledging_what_is_not_ones_own_is_ignored() {
    let service = Service::shared();
    on_each("ack", service, async |carrier, user| {
        let mut connection = signed_in(service, carrier, &user).await;
        for (owner, seq) in [("somebody", 1), (&*user, 99)] {
            let position = Some(Position { epoch: 1, seq });
            connection.send_frame(Body::Ack(Ack { timeline: inbox(owner), position })).await.expect("sent");
        }
        connection.send_frame(Body::Ping(Ping { nonce: 7 })).await.expect("sent");
        match next(&mut connection).await {
            server_frame::Body::Pong(pong) => assert_eq!(pong.nonce, 7),
            other => panic!("{carrier:?}: {other:?}"),
        }
    });
}

#[test]
fn one_id_is_one_message() {
    let service = Service::shared();
    on_each("one-id", service, async |carrier, user| {
        let mut connection = signed_in(service, carrier, &user).await;
        connection.send_frame(note("1", &user, "")).await.expect("sent");
        assert_eq!(accepted(&mut connection).await, "1");
        connection.send_frame(note("1", &user, "")).await.expect("sent");
        assert_eq!(accepted(&mut connection).await, "1", "the same again");
        let Body::Send(send) = note("1", &user, "") else { unreachable!("a send") };
        let other = Send { content: Some(Client::text("other content")), ..send };
        connection.send_frame(Body::Send(other)).await.expect("sent");
        let refused = refused(&mut connection).await;
        assert_eq!((refused.code(), refused.retry), (Code::Invalid, false), "{refused:?}");
    });
}

#[test]
fn a_new_token_is_taken_from_the_same_user_only() {
    let service = Service::shared();
    on_each("renew", service, async |carrier, user| {
        let mut connection = signed_in(service, carrier, &user).await;
        let renew = |request: u32, token: String| Body::Renew(Renew { request, token });
        let frames = vec![
            renew(1, service.token("somebody-else")),
            renew(2, "x.y.z".to_owned()),
            renew(3, service.token(&user)),
            Body::Ping(Ping { nonce: 7 }),
        ];
        connection.send_frames(frames).await.expect("sent");
        for request in [1, 2] {
            let refused = refused(&mut connection).await;
            assert_eq!((refused.what.clone(), refused.code()), (Some(What::Request(request)), Code::Unauthenticated));
        }
        // The directory is asked whether the token was revoked, so the answer to the ping may come first.
        let (mut renewed, mut pong) = (false, false);
        while !(renewed && pong) {
            match next(&mut connection).await {
                server_frame::Body::Renewed(told) if told.request == 3 && told.expires_ms > 0 => renewed = true,
                server_frame::Body::Pong(_) => pong = true,
                other => panic!("{carrier:?}: {other:?}"),
            }
        }
    });
}

/// Over gRPC, a message of another type; over the other carriers, bytes and text.
#[test]
fn what_is_no_frame_ends_the_connection() {
    let service = Service::shared();
    service.block_on(async {
        let grpc = Endpoint::from_shared(format!("http://{}", service.grpc())).expect("address");
        let mut grpc = Grpc::new(grpc.connect().await.expect("connects"));
        grpc.ready().await.expect("ready");
        // A message with a string in it is not a SignIn.
        let said = tokio_stream::iter(["what is this?".to_owned()]);
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/carillon.client.v1.ClientService/Connect");
        let codec = ProstCodec::<String, ServerFrame>::default();
        let mut heard = grpc.streaming(tonic::Request::new(said), path, codec).await.expect("answers").into_inner();
        match heard.message().await.expect("a frame").expect("a frame").body {
            Some(server_frame::Body::Bye(bye)) => assert_eq!(bye.code(), Code::Invalid),
            other => panic!("{other:?}"),
        }
        for (subprotocol, said) in [
            ("carillon.v1.proto", Message::binary(&b"\x0a\xff"[..])),
            ("carillon.v1.proto", Message::text("{}")),
            ("carillon.v1.json", Message::text("no JSON")),
            ("carillon.v1.json", Message::text("null")),
            ("carillon.v1.json", Message::text(r#"{"send": {"clientId": "1", "to": 1}}"#)),
            ("carillon.v1.json", Message::binary(&b"{}"[..])),
        ] {
            let mut ws = websocket(service, subprotocol).await;
            ws.send(said.clone()).await.expect("sent");
            let answer = timeout(PATIENCE, ws.next()).await.expect("in time").expect("open").expect("a frame");
            let text = match &answer {
                Message::Text(text) => text.to_string(),
                other => format!("{:?}", ServerFrame::decode(&other.clone().into_data()[..]).expect("a frame")),
            };
            assert!(text.contains("CODE_INVALID") || text.contains("code: Invalid"), "{said:?}: {text}");
        }
    });
}

#[test]
fn a_bad_json_frame_is_refused_by_name_and_the_connection_goes_on() {
    let service = Service::shared();
    service.block_on(async {
        let mut ws = websocket(service, "carillon.v1.json").await;
        let mut ask = async |said: String| {
            ws.send(Message::text(said)).await.expect("sent");
            loop {
                let answer = timeout(PATIENCE, ws.next()).await.expect("in time").expect("open").expect("a frame");
                if let Message::Text(text) = answer {
                    return serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
                }
            }
        };
        let token = service.token("json-user");
        let hello = format!(r#"{{"signIn": {{"device": "web", "token": {token:?}, "user": null, "new": [1]}}}}"#);
        assert_eq!(ask(hello).await["signedIn"]["user"], "json-user");
        let bad = ask(r#"{"send": {"clientId": "7", "to": "json-user"}}"#.to_owned()).await;
        assert_eq!((&bad["refused"]["clientId"], &bad["refused"]["code"]), (&"7".into(), &"CODE_INVALID".into()));
        for body in [r#""\ud83d""#, "1e999", "[[[[1]]]]"] {
            let bad = format!(r#"{{"send": {{"clientId": "6", "content": {{"text": {{"body": {body}}}}}}}}}"#);
            let bad = ask(bad).await;
            assert_eq!((&bad["refused"]["clientId"], &bad["refused"]["code"]), (&"6".into(), &"CODE_INVALID".into()));
        }
        let bad = ask(r#"{"fetch": {"request": 9, "limit": "many"}}"#.to_owned()).await;
        assert_eq!((&bad["refused"]["request"], &bad["refused"]["code"]), (&9.into(), &"CODE_INVALID".into()));
        let good = r#"{"send": {"clientId": "8", "to": {"user": "json-user", "group": null}, "after": null,
            "content": {"text": {"body": "hi", "lang": "en"}}}}"#;
        assert_eq!(ask(good.to_owned()).await["accepted"]["clientId"], "8");
        let page = r#"{"fetch": {"request": 1e1, "timeline": {"inbox": "json-user"}, "limit": 1.0}}"#;
        assert_eq!(ask(page.to_owned()).await["page"]["request"], 10);
        let end = ask(r#"{"send": {"to": 1}}"#.to_owned()).await;
        assert_eq!(end["bye"]["code"], "CODE_INVALID", "it does not say which send it is");
    });
}

async fn websocket(
    service: &Service,
    subprotocol: &'static str,
) -> tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>> {
    let mut request = format!("ws://{}/ws", service.ws()).into_client_request().expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocol.parse().expect("a header"));
    tokio_tungstenite::connect_async(request).await.expect("connects").0
}

fn inbox(user: &str) -> Option<Timeline> {
    Some(Timeline { owner: Some(Owner::Inbox(user.to_owned())) })
}
