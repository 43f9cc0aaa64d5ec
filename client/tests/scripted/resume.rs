//! Resume tickets: when the client uses one, and when it falls back to its credential.

use crate::gateway::{Gateway, Peer, config, ended, open, within};
use carillon_client::{Client, State};
use carillon_proto::pb::client::{
    Bye, Code, Limits, Refused, Renewed, SignIn, SignedIn, client_frame, server_frame, sign_in::Credential as Sent,
};

fn token() -> Option<Sent> {
    Some(Sent::Token("token".to_owned()))
}

fn ticket(text: &'static str) -> Option<Sent> {
    Some(Sent::Ticket(text.into()))
}

/// Accepts a connection that begins with a sign-in by this credential.
async fn accept(gateway: &Gateway, credential: Option<Sent>) -> (Peer, SignIn) {
    let mut peer = gateway.accept().await;
    let sign_in = hear_sign_in(&mut peer, credential).await;
    (peer, sign_in)
}

async fn hear_sign_in(peer: &mut Peer, credential: Option<Sent>) -> SignIn {
    let client_frame::Body::SignIn(sign_in) = peer.receive().await else { panic!("no SignIn") };
    assert_eq!(sign_in.credential, credential);
    sign_in
}

async fn welcome(peer: &mut Peer, ticket: &'static str) {
    let limits = Some(Limits { max_pending_sends: 100, ..Limits::default() });
    let signed_in = SignedIn { limits, ticket: ticket.into(), heartbeat_ms: 60_000, ..SignedIn::default() };
    peer.send(server_frame::Body::SignedIn(signed_in)).await;
}

/// The client is signed in: what it was told before this is done.
async fn connected(client: &Client) -> String {
    let mut state = client.state();
    let connected = state.wait_for(State::is_connected);
    let shown = within("the sign-in", connected).await.expect("not ended").clone();
    format!("{shown:?}")
}

async fn says_bye(mut peer: Peer, code: Code, reconnect: bool) {
    let reason = "sign_in has no credential".to_owned();
    peer.send(server_frame::Body::Bye(Bye { code: code.into(), reason, reconnect, reconnect_after_ms: 1, ended: 0 }))
        .await;
}

#[tokio::test]
async fn each_connection_begins_with_the_ticket_of_the_one_before_and_no_state_shows_it() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = accept(&gateway, token()).await;
    welcome(&mut peer, "first-ticket").await;
    let shown = connected(&client).await;
    assert!(shown.contains("60000") && !shown.contains("first-ticket"), "{shown}");
    drop(peer);
    let (mut peer, _) = accept(&gateway, ticket("first-ticket")).await;
    welcome(&mut peer, "second-ticket").await;
    connected(&client).await;
    drop(peer);
    let (mut peer, _) = accept(&gateway, ticket("second-ticket")).await;
    // A service that does not give any.
    welcome(&mut peer, "").await;
    connected(&client).await;
    drop(peer);
    accept(&gateway, token()).await;
}

#[tokio::test]
async fn a_refused_ticket_is_followed_by_the_credential_on_the_same_connection() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = accept(&gateway, token()).await;
    welcome(&mut peer, "ticket").await;
    connected(&client).await;
    drop(peer);
    let (mut peer, _) = accept(&gateway, ticket("ticket")).await;
    let code = Code::Unauthenticated.into();
    peer.send(server_frame::Body::Refused(Refused { code, reason: "expired".to_owned(), ..Refused::default() })).await;
    hear_sign_in(&mut peer, token()).await;
    // Lost before the answer: the ticket does not come again.
    drop(peer);
    let (mut peer, _) = accept(&gateway, token()).await;
    welcome(&mut peer, "next-ticket").await;
    connected(&client).await;
    drop(peer);
    accept(&gateway, ticket("next-ticket")).await;
}

#[tokio::test]
async fn after_a_gateway_that_finds_no_credential_the_client_comes_back_with_its_own() {
    let gateway = Gateway::start().await;
    let (client, mut events) = open(config(&[&gateway]));
    let (mut peer, _) = accept(&gateway, token()).await;
    welcome(&mut peer, "ticket").await;
    connected(&client).await;
    drop(peer);
    let (peer, resumes) = accept(&gateway, ticket("ticket")).await;
    says_bye(peer, Code::Unauthenticated, false).await;
    let (peer, again) = accept(&gateway, token()).await;
    assert_eq!(again.attempt, resumes.attempt + 1);
    // The credential's own refusal is the last word.
    says_bye(peer, Code::Unauthenticated, false).await;
    assert!(ended(&mut events).await.1.contains("no credential"));
}

#[tokio::test]
async fn a_ticket_outlives_refusals_that_are_not_about_it() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = accept(&gateway, token()).await;
    welcome(&mut peer, "ticket").await;
    connected(&client).await;
    drop(peer);
    let (peer, _) = accept(&gateway, ticket("ticket")).await;
    says_bye(peer, Code::Overloaded, true).await;
    let (peer, _) = accept(&gateway, ticket("ticket")).await;
    drop(peer);
    let (peer, _) = accept(&gateway, ticket("ticket")).await;
    says_bye(peer, Code::RateLimited, true).await;
    accept(&gateway, token()).await;
}

#[tokio::test]
async fn a_new_token_replaces_the_ticket_of_the_one_before() {
    let gateway = Gateway::start().await;
    let (client, _events) = open(config(&[&gateway]));
    let (mut peer, _) = accept(&gateway, token()).await;
    welcome(&mut peer, "old-ticket").await;
    connected(&client).await;
    let renewing = async {
        let client_frame::Body::Renew(renew) = peer.receive().await else { panic!("no Renew") };
        let renewed = Renewed { request: renew.request, expires_ms: 1, ticket: "new-ticket".into() };
        peer.send(server_frame::Body::Renewed(renewed)).await;
    };
    let (renewed, ()) = tokio::join!(client.renew("new token"), renewing);
    renewed.expect("taken");
    drop(peer);
    let (mut peer, _) = accept(&gateway, ticket("new-ticket")).await;
    // Nobody can be asked about this one now. A ticket for the one before would end with that, so it does not come again.
    let renewing = client.renew("newest token");
    let breaking = async {
        says_bye(peer, Code::Unavailable, true).await;
        let newest = Some(Sent::Token("newest token".to_owned()));
        for _ in 0..3 {
            peer = gateway.accept().await;
            let client_frame::Body::SignIn(sign_in) = peer.receive().await else { panic!("no SignIn") };
            if sign_in.credential == newest {
                return;
            }
            // Begun before the client took the new token.
            assert_eq!(sign_in.credential, ticket("new-ticket"));
        }
        panic!("the ticket came again and again");
    };
    let (renewed, ()) = tokio::join!(renewing, breaking);
    renewed.expect("kept for the next sign-in");
}
