//! From session to session.

use carillon_proto::limits;

use super::play::*;

#[test]
fn a_signal_goes_to_all_sessions_or_to_one_device() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1), session("bob", "b", 10, 2), session("bob", "c", 20, 3)]);
    let body = Bytes::from_static(b"writing");
    let mut signal = |user: &str, device: &str, body: &Bytes| {
        let (user, device, body) = (user.to_owned(), device.to_owned(), body.clone());
        play.owner.signal(link::Signal { from: None, user, device, body });
        play.effects()
    };
    assert_eq!(
        signal("bob", "", &body),
        [Did::Signal(10, vec![1, 2], body.clone()), Did::Signal(20, vec![3], body.clone())]
    );
    assert_eq!(signal("bob", "b", &body), [Did::Signal(10, vec![2], body.clone())]);
    assert_eq!(signal("carol", "", &body), []);
    assert_eq!(signal("bob", "", &vec![0; limits::MAX_SIGNAL_BYTES + 1].into()), []);
}

#[test]
fn a_directed_request_goes_to_its_session_or_is_refused_and_nobody_is_said_to_be_away_too_early() {
    let mut play = Play::new();
    play.knows("bob", &[session("bob", "a", 10, 1)]);
    let direct = |device: &str, body: &[u8]| {
        let (user, device, body) = ("bob".to_owned(), device.to_owned(), Bytes::copy_from_slice(body));
        Op::Direct(link::Direct { from: None, user, device, body })
    };
    assert_eq!(play.request(direct("a", b"who")), [Did::Direct(10, 1, Bytes::from_static(b"who"))]);
    let refused = |play: &mut Play, op| {
        let effects = play.request(op);
        let refusal = refusal(&effects[0]);
        (refusal.code(), refusal.retry)
    };
    assert_eq!(
        refused(&mut play, direct("b", b"who")),
        (client::Code::Unavailable, true),
        "it may not be announced yet"
    );
    GATEWAYS.into_iter().for_each(|gateway| play.owner.announced_all(LeaseId(gateway), 1, 1));
    assert_eq!(refused(&mut play, direct("b", b"who")), (client::Code::NotFound, false));
    let large = vec![0; limits::MAX_SIGNAL_BYTES + 1];
    assert_eq!(refused(&mut play, direct("a", &large)), (client::Code::TooLarge, false));
}
