//! Sign-ins by a resume ticket.

use super::*;
use crate::{
    conversation::{TicketKeys, TokenDomains},
    herd::Herd,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn by_ticket(ticket: &[u8]) -> Body {
    sign_in("", Credential::Ticket(ticket.to_vec().into()))
}

/// The ticket that a session's beginning brings.
fn ticket_of(play: &mut Play) -> Vec<u8> {
    play.hears_answer(Ok(opened(3, Some(3))));
    match play.wrote() {
        server_frame::Body::SignedIn(signed_in) => signed_in.ticket.to_vec(),
        other => panic!("not SignedIn: {other:?}"),
    }
}

fn ticket_for_token(seconds: u64) -> Vec<u8> {
    let mut play = Play::new();
    play.says(token_sign_in("alice", seconds));
    ticket_of(&mut play)
}

fn ticket_for_password() -> Vec<u8> {
    let mut play = Play::new();
    prove_as(&mut play, Some((new_credentials("secret").expect("valid"), 7)), "secret");
    ticket_of(&mut play)
}

/// The session that the routers are asked to open.
fn opens(play: &Play) -> StoredSession {
    match play.op() {
        Op::OpenSession(open) => open.session.clone().expect("a session"),
        other => panic!("no OpenSession: {other:?}"),
    }
}

/// The reason for which the ticket was refused; the connection goes on.
fn refused(play: &mut Play) -> String {
    let server_frame::Body::Refused(refused) = play.wrote() else { panic!("not refused") };
    assert_eq!((&refused.what, refused.code(), refused.retry), (&None, Code::Unauthenticated, false));
    assert!(!play.closed && play.session.reads());
    play.quiet();
    refused.reason
}

#[test]
fn a_ticket_opens_the_session_that_its_password_would_at_another_gateway() {
    let mut play = Play::new();
    play.says(by_ticket(&ticket_for_password()));
    let session = opens(&play);
    assert_eq!((&*session.user, &*session.device), ("alice", "phone"));
    assert_eq!((session.by_token, session.generation), (false, 7));
    play.hears_answer(Ok(opened(3, Some(3))));
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not SignedIn") };
    assert_eq!((&*signed_in.user, signed_in.expires_ms), ("alice", 0));
    assert!(!signed_in.ticket.is_empty(), "the next one");
}

#[test]
fn a_ticket_opens_the_session_that_its_token_would_and_that_ends_with_the_token() {
    let claims = serde_json::json!({"sub": "alice", "exp": START_MS / 1000 + 60, "iat": 1_700_000_000, "jti": "t1"});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs");
    let mut play = Play::new();
    play.says(sign_in("", Credential::Token(token)));
    let ticket = ticket_of(&mut play);
    let mut play = Play::new();
    play.says(by_ticket(&ticket));
    let session = opens(&play);
    assert_eq!((session.by_token, &*session.token_id), (true, "t1"));
    assert_eq!(session.token_issued_ms, 1_700_000_000_000);
    play.hears_answer(Ok(opened(3, Some(3))));
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not SignedIn") };
    assert_eq!(signed_in.expires_ms, START_MS + 60_000);
    play.wait(Duration::from_secs(61));
    assert_eq!(play.bye().code(), Code::Expired);
}

#[test]
fn after_a_refused_ticket_the_credential_may_come_on_the_same_connection() {
    let later = |after: Duration| {
        let mut play = Play::new();
        play.now.unix_ms += after.as_millis() as u64;
        play
    };
    let with = |change: fn(Rules) -> Rules| Play::with(Arc::new(change(rules())));
    let other_device = |ticket: &[u8]| {
        let Body::SignIn(frame) = by_ticket(ticket) else { panic!("no sign-in") };
        Body::SignIn(client::SignIn { device: "laptop".to_owned(), ..frame })
    };
    let (token, password) = (ticket_for_token(3600), ticket_for_password());
    let mut forged = password.clone();
    *forged.last_mut().expect("a byte") ^= 1;
    for (mut play, says, reason) in [
        (Play::new(), by_ticket(&forged), "ticket is not valid"),
        (Play::new(), by_ticket(b"no ticket"), "not sealed with a key that is in use"),
        (Play::new(), other_device(&password), "for another device"),
        (Play::new(), sign_in("bob", Credential::Ticket(password.clone().into())), "for another user"),
        (later(Duration::from_secs(3600)), by_ticket(&token), "ticket has expired"),
        (later(DAY), by_ticket(&password), "ticket has expired"),
        (with(|rules| Rules { password_sign_in: false, ..rules }), by_ticket(&password), "not taken any more"),
        (with(|rules| Rules { tokens: no_keys(), ..rules }), by_ticket(&token), "not taken any more"),
        (with(|rules| Rules { ticket_lifetime: Duration::ZERO, ..rules }), by_ticket(&password), "is off"),
        (with(|rules| Rules { tickets: Default::default(), ..rules }), by_ticket(&password), "is off"),
    ] {
        play.says(says);
        let told = refused(&mut play);
        assert!(told.contains(reason), "{told:?} instead of {reason:?}");
        let has_password = play.session.rules.password_sign_in;
        if has_password {
            prove(&mut play, Some(new_credentials("secret").expect("valid")), "secret");
        } else {
            play.says(token_sign_in("alice", 7200));
        }
        assert_eq!(opens(&play).by_token, !has_password, "{reason}");
    }
}

fn no_keys() -> arc_swap::ArcSwap<TokenDomains> {
    arc_swap::ArcSwap::from_pointee(TokenDomains::load(&GatewayConfig::default()).expect("no keys"))
}

#[test]
fn a_connection_has_one_try_with_a_ticket() {
    let ticket = ticket_for_password();
    let mut play = Play::new();
    play.says(by_ticket(b"no ticket"));
    refused(&mut play);
    play.says(by_ticket(&ticket));
    assert_eq!(play.bye().code(), Code::Unauthenticated);
}

#[test]
fn a_ticket_whose_credential_the_directory_does_not_take_any_more_ends_the_connection_and_makes_no_account() {
    for (code, ticket) in [
        (Code::Unauthenticated, ticket_for_password()),
        (Code::Unauthenticated, ticket_for_token(3600)),
        (Code::NotFound, ticket_for_token(3600)),
    ] {
        let mut play = Play::new();
        play.says(by_ticket(&ticket));
        play.hears_answer(Err(refusal(code, "no longer", 0)));
        let bye = play.bye();
        assert_eq!((bye.code(), bye.reconnect), (Code::Unauthenticated, false));
        play.quiet();
    }
}

#[test]
fn a_ticket_that_was_got_by_a_ticket_lasts_no_longer() {
    let mut ticket = ticket_for_password();
    for hours in [8, 16, 23] {
        let mut play = Play::new();
        play.now.unix_ms += hours * 3_600_000;
        play.says(by_ticket(&ticket));
        ticket = ticket_of(&mut play);
    }
    let mut play = Play::new();
    play.now.unix_ms += DAY.as_millis() as u64;
    play.says(by_ticket(&ticket));
    assert_eq!(refused(&mut play), "ticket has expired");
}

#[test]
fn guessed_tickets_are_throttled_by_address_old_ones_are_not_and_right_ones_pass() {
    let ticket = ticket_for_password();
    let mut forged = ticket.clone();
    *forged.last_mut().expect("a byte") ^= 1;
    let rules = Arc::new(rules());
    let says = |ticket: &[u8]| {
        let mut play = Play::with(Arc::clone(&rules));
        play.says(by_ticket(ticket));
        play
    };
    for _ in 0..20 {
        refused(&mut says(b"sealed with another key"));
    }
    for _ in 0..4 {
        refused(&mut says(&forged));
    }
    let bye = says(&forged).bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::RateLimited, true));
    opens(&says(&ticket));
}

#[test]
fn a_renewed_token_brings_a_ticket_that_stands_for_it() {
    let mut play = Play::live(3);
    let Body::SignIn(client::SignIn { credential: Some(Credential::Token(token)), .. }) = token_sign_in("alice", 7200)
    else {
        panic!("no token")
    };
    play.says(Body::Renew(client::Renew { request: 1, token }));
    play.quiet_but_for_requests();
    play.hears_answer(Ok(opened(3, Some(3))));
    let server_frame::Body::Renewed(renewed) = play.wrote() else { panic!("not renewed") };
    let mut play = Play::new();
    play.now.unix_ms += 7_000_000;
    play.says(by_ticket(&renewed.ticket));
    play.hears_answer(Ok(opened(3, Some(3))));
    let server_frame::Body::SignedIn(signed_in) = play.wrote() else { panic!("not SignedIn") };
    assert_eq!(signed_in.expires_ms, START_MS + 7_200_000);
}

#[test]
fn of_a_herd_one_with_a_ticket_counts_for_one() {
    let ticket = ticket_for_password();
    let rules = Arc::new(Rules { herd: Herd::new(1, 3), ..rules() });
    let now = Play::new().now;
    let comes = |says: Body| {
        let mut play = Play::with(Arc::clone(&rules));
        play.now = now;
        play.says(says);
        play
    };
    opens(&comes(token_sign_in("bob", 3600)));
    opens(&comes(by_ticket(&ticket)));
    assert_eq!(comes(token_sign_in("carol", 3600)).bye().code(), Code::Overloaded);
}

#[test]
fn gateways_take_each_others_tickets_while_their_secret_is_replaced() {
    let gateway = |secrets: &[u8]| {
        let rules = rules();
        rules.tickets.store(Arc::new(TicketKeys::new(secrets.iter().map(|secret| [*secret; 32]))));
        Arc::new(rules)
    };
    let (old, new) = (gateway(&[1, 2]), gateway(&[2, 1]));
    for (one, other) in [(&old, &new), (&new, &old)] {
        let mut play = Play::with(Arc::clone(one));
        play.says(token_sign_in("alice", 3600));
        let ticket = ticket_of(&mut play);
        let mut play = Play::with(Arc::clone(other));
        play.says(by_ticket(&ticket));
        opens(&play);
    }
}
