//! Clients that are slow, silent or too loud.

use std::time::{Duration, Instant};

use carillon_xmpp::stream::Event;
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::*;

/// A short time for signing in.
fn hurried(config: &mut GatewayConfig) {
    config.sign_in_timeout_ms = 600;
}

#[tokio::test]
async fn who_does_not_sign_in_in_time_is_let_go_however_slowly_it_goes_on() {
    let stage = Stage::with(XmppTls::Required, hurried).await;
    // A client that says nothing at all.
    let mut silent = stage.plain().await;
    silent.ends_by("connection-timeout").await;
    // A client that opens a stream, and sends a byte now and then.
    let mut slow = stage.plain().await;
    slow.opens().await;
    let began = Instant::now();
    let ends = loop {
        let _ = slow.says_bytes(b" ").await;
        match timeout(Duration::from_millis(50), slow.event()).await {
            Ok(event) => break event,
            Err(_) => assert!(began.elapsed() < Duration::from_secs(20), "it is never let go"),
        }
    };
    match ends {
        Some(Event::Stanza(error)) => assert!(error.text().contains("<connection-timeout "), "{}", error.text()),
        other => panic!("no error: {other:?}"),
    }
    stage.end().await;
}

#[tokio::test]
async fn who_stops_within_the_handshake_of_tls_is_let_go() {
    let stage = Stage::with(XmppTls::Required, hurried).await;
    // The beginning of a ClientHello, to be 512 bytes.
    let half = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut direct = TcpStream::connect(stage.world.gateway.xmpp_tls_address().expect("on")).await.expect("connects");
    direct.write_all(&half).await.expect("writes");
    let mut rest = Vec::new();
    // No word of XMPP is said outside of TLS.
    let _ = timeout(Duration::from_secs(20), direct.read_to_end(&mut rest)).await.expect("in time");
    assert!(!rest.contains(&b'<'), "{rest:?}");
    let mut client = stage.plain().await;
    client.opens().await;
    client.says("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    client.hears().await;
    client.says_bytes(&half).await.expect("writes");
    assert_eq!(client.event().await, None);
    stage.end().await;
}

#[tokio::test]
async fn what_is_too_long_or_too_much_before_the_sign_in_ends_the_stream() {
    let stage = Stage::new(XmppTls::Outside).await;
    let mut client = stage.plain().await;
    client.opens().await;
    client.says(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}", "A".repeat(65_536))).await;
    client.ends_by("policy-violation").await;
    let mut client = stage.plain().await;
    client.opens().await;
    let chosen = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>";
    client.says(&chosen.repeat(13)).await;
    for _ in 0..12 {
        assert_eq!(client.hears().await, "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
    }
    client.ends_by("policy-violation").await;
    stage.end().await;
}

#[tokio::test]
async fn a_flood_is_read_later_and_costs_nobody_else_anything() {
    let stage = Stage::new(XmppTls::Outside).await;
    let mut flood = stage.plain().await;
    flood.opens().await;
    flood.signs_in_by_plain("pencil").await;
    flood.binds("flood").await;
    let ping = "<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>";
    let began = Instant::now();
    flood.says(&ping.repeat(600)).await;
    let mut other = stage.plain().await;
    other.opens().await;
    other.signs_in_by_plain("pencil").await;
    other.binds("other").await;
    other.pings().await;
    for _ in 0..600 {
        assert!(flood.hears().await.starts_with("<iq type='result'"));
    }
    // 500 at once, and 100 a second.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    stage.end().await;
}

#[tokio::test]
async fn who_reads_nothing_is_not_read_and_then_let_go() {
    let impatient = |config: &mut GatewayConfig| {
        config.write_timeout_ms = 300;
        config.max_outgoing_bytes = 4096;
    };
    let stage = Stage::with(XmppTls::Outside, impatient).await;
    let mut client = stage.plain().await;
    client.opens().await;
    client.signs_in_by_plain("pencil").await;
    client.binds("deaf").await;
    // Each answer is as long as its request: more than the buffers of both ends hold.
    let long = format!("<iq type='get' id='{}'><ping xmlns='urn:xmpp:ping'/></iq>", "x".repeat(200_000));
    let store = stage.world.store();
    let flood = async {
        for _ in 0..400 {
            if client.says_bytes(long.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    let gone = crate::plays::eventually("the session is closed", || store.lock().sessions.is_empty());
    tokio::select! {
        () = gone => {}
        () = async { flood.await; std::future::pending().await } => {}
    }
    drop(client);
    stage.end().await;
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client_on_both_listeners() {
    let proxied = |config: &mut GatewayConfig| {
        config.xmpp.proxy_protocol = true;
        config.proxies.trusted = vec!["127.0.0.1".to_owned()];
        // The limit holds for each address of a client.
        config.max_connections_per_address = 1;
    };
    let stage = Stage::with(XmppTls::Required, proxied).await;
    let header = |client: &str| format!("PROXY TCP4 {client} 192.0.2.9 5000 5222\r\n");
    let mut first = stage.plain().await;
    first.says(&header("203.0.113.1")).await;
    first.opens().await;
    let other = XmppClient::connect(stage.world.gateway.xmpp_tls_address().expect("on")).await;
    let mut other = other.behind(&header("203.0.113.2")).await.shakes(&stage.connector(&[], true)).await;
    other.opens().await;
    let mut second = stage.plain().await;
    second.says(&header("203.0.113.1")).await;
    second.ends_by("resource-constraint").await;
    // A client without the header of a proxy is not served.
    let mut direct = TcpStream::connect(stage.world.gateway.xmpp_address().expect("on")).await.expect("connects");
    direct.write_all(HEADER.as_bytes()).await.expect("writes");
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(20), direct.read_to_end(&mut rest)).await.expect("in time");
    assert_eq!(rest, b"");
    stage.end().await;
}
