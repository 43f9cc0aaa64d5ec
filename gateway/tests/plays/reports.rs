//! Reports to the moderators, over real sockets.

use carillon_proto::pb::{
    client::{Code, Ping, Recipient, Report, ReportReason, client_frame::Body, recipient::To, server_frame},
    store::{self, TimelineKey, timeline_key::Kind},
};

use crate::{client::StreamClient, plays::world, router::reports::OPEN};

fn report(request: u32, to: To) -> Report {
    Report {
        request,
        client_id: format!("r{request}"),
        conversation: Some(Recipient { to: Some(to) }),
        seqs: vec![7, 3],
        reason: ReportReason::Abuse.into(),
        text: "look\nhere".to_owned(),
    }
}

fn of_bob(request: u32) -> Report {
    report(request, To::User("bob".to_owned()))
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Done(done) => format!("done {}", done.request),
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Pong(pong) => format!("pong {}", pong.nonce),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_report_reaches_the_router_as_the_session_has_made_it_and_the_reported_one_hears_nothing() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(Body::Report(of_bob(1))).await;
    assert_eq!(hears(&mut alice).await, "done 1");
    alice.says(Body::Report(report(2, To::Group("club".to_owned())))).await;
    assert_eq!(hears(&mut alice).await, "done 2");
    bob.says(Body::Ping(Ping { nonce: 9 })).await;
    assert_eq!(hears(&mut bob).await, "pong 9", "nothing before it");
    let reports = world.store().lock().reports.clone();
    let [of_bob, in_club] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((&*of_bob.user, &*of_bob.device, &*of_bob.client_id), ("alice", "phone", "r1"));
    assert_eq!(
        (&of_bob.seqs[..], of_bob.reason(), &*of_bob.text),
        (&[7, 3][..], store::ReportReason::Abuse, "look\nhere")
    );
    let key = |kind: Kind, owner: &str| Some(TimelineKey { kind: kind.into(), owner: owner.to_owned().into() });
    assert_eq!(of_bob.conversation, key(Kind::Inbox, "bob"));
    assert_eq!(in_club.conversation, key(Kind::Group, "club"));
    world.end().await;
}

#[tokio::test]
async fn what_is_no_report_is_refused_here() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let good = of_bob(1);
    for wrong in [
        Report { client_id: String::new(), ..good.clone() },
        Report { conversation: None, ..good.clone() },
        Report { conversation: Some(Recipient { to: None }), ..good.clone() },
        report(1, To::User("alice".to_owned())),
        report(1, To::User("\u{7}".to_owned())),
        Report { seqs: vec![], ..good.clone() },
        Report { seqs: vec![0, 1], ..good.clone() },
        Report { seqs: vec![3, 4, 3], ..good.clone() },
        Report { seqs: (1..12).collect(), ..good.clone() },
        Report { reason: 0, ..good.clone() },
        Report { reason: 77, ..good.clone() },
    ] {
        alice.says(Body::Report(wrong.clone())).await;
        assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Invalid), "{wrong:?}");
    }
    alice.says(Body::Report(Report { text: "x".repeat(1001), ..good })).await;
    assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::TooLarge));
    assert!(world.store().lock().reports.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_flood_of_reports_is_refused_and_the_session_goes_on() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    for request in 1..=OPEN as u32 {
        alice.says(Body::Report(of_bob(request))).await;
        assert_eq!(hears(&mut alice).await, format!("done {request}"));
    }
    alice.says(Body::Report(of_bob(99))).await;
    assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::RateLimited));
    // A repeat is answered as the first one was.
    alice.says(Body::Report(Report { request: 5, ..of_bob(1) })).await;
    assert_eq!(hears(&mut alice).await, "done 5");
    assert_eq!(world.store().lock().reports.len(), OPEN);
    world.end().await;
}
