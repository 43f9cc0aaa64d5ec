//! Somebody with an account of their own tries to read and to change what is others', with every kind of frame and over each way to
//! connect. Each answer is that for something which does not exist, and nothing has changed afterwards.

mod support;

use carillon_client::Credential;
use carillon_proto::pb::client::{
    Ack, ChangeMembers, Code, ContactRequest, Content, CreateGroup, DeleteGroup, Direction, Fetch, GroupRequest,
    GroupSettings, MembersChange, MoveMarks, Ping, Position, Positions, ReadContacts, ReadConversations, ReadGroup,
    ReadGroups, ReadMark, ReadMarks, ReadMembers, Recipient, RemoveContact, Renew, Report, ReportReason,
    RequestMediaSlot, RequestMediaUrl, Role, ScramFinal, Send, SetConversation, SetPresence, SignOut, Text, Timeline,
    TimelinePosition, client_frame::Body, content, group_request::Change, members_change::Kind, recipient,
    server_frame::Body as Told, timeline,
};
use support::{
    people::{Device, enter},
    service::{Carrier, Service},
};

fn inbox(user: &str) -> Option<Timeline> {
    Some(Timeline { owner: Some(timeline::Owner::Inbox(user.to_owned())) })
}

fn log(group: &str) -> Option<Timeline> {
    Some(Timeline { owner: Some(timeline::Owner::Group(group.to_owned())) })
}

fn to_group(group: &str) -> Option<Recipient> {
    Some(Recipient { to: Some(recipient::To::Group(group.to_owned())) })
}

fn to_user(user: &str) -> Option<Recipient> {
    Some(Recipient { to: Some(recipient::To::User(user.to_owned())) })
}

fn text(body: &str) -> Option<Content> {
    Some(Content { body: Some(content::Body::Text(Text { body: body.to_owned() })), ..Default::default() })
}

/// Of the message at the first position.
fn report(conversation: Option<Recipient>) -> Report {
    let (client_id, reason) = ("report".to_owned(), ReportReason::Spam.into());
    Report { request: 1, client_id, conversation, seqs: vec![1], reason, text: String::new() }
}

/// Every change that a group knows.
fn changes(victim: &str, intruder: &str) -> Vec<Change> {
    let members = |kind: Kind, users: &[&str]| {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        let role = if kind == Kind::Role { Role::Owner } else { Role::Unspecified };
        Change::Members(ChangeMembers { kind: kind.into(), users, role: role.into(), ..ChangeMembers::default() })
    };
    vec![
        Change::Set(GroupSettings { name: Some("mine".into()), open: Some(true), ..GroupSettings::default() }),
        members(Kind::Joined, &[]),
        members(Kind::Left, &[]),
        members(Kind::Added, &[intruder]),
        members(Kind::Invited, &[intruder]),
        members(Kind::Removed, &[victim]),
        members(Kind::Banned, &[victim]),
        members(Kind::Pardoned, &[intruder]),
        members(Kind::Role, &[intruder]),
        members(Kind::Muted, &[victim]),
        Change::Members(ChangeMembers {
            kind: MembersChange::default().kind,
            link: b"a guess".to_vec().into(),
            ..ChangeMembers::default()
        }),
        Change::Delete(DeleteGroup {}),
    ]
}

/// All that can be asked about a group.
fn asked_of_group(group: &str, victim: &str, intruder: &str) -> Vec<Body> {
    let position = Some(Position { epoch: 1, seq: 1 });
    let group_name = group.to_owned();
    let mut asked = vec![
        Body::Send(Send {
            client_id: "sent".into(),
            to: to_group(group),
            content: text("let me in"),
            ..Send::default()
        }),
        Body::Fetch(Fetch {
            request: 1,
            timeline: log(group),
            direction: Direction::Forward.into(),
            ..Fetch::default()
        }),
        Body::ReadGroup(ReadGroup { request: 1, group: group_name.clone() }),
        Body::ReadMembers(ReadMembers { request: 1, group: group_name.clone(), ..ReadMembers::default() }),
        Body::ReadMembers(ReadMembers {
            request: 1,
            group: group_name.clone(),
            others: true,
            ..ReadMembers::default()
        }),
        Body::ReadMembers(ReadMembers {
            request: 1,
            group: group_name.clone(),
            only: vec![victim.to_owned()],
            ..ReadMembers::default()
        }),
        Body::ReadMarks(ReadMarks { request: 1, group: group_name.clone(), users: vec![victim.to_owned()] }),
        Body::Report(report(to_group(group))),
        Body::MoveMarks(MoveMarks { request: 1, marks: vec![ReadMark { with: to_group(group), read: position }] }),
    ];
    asked.extend(changes(victim, intruder).into_iter().map(|change| {
        let change = Some(change);
        Body::Group(GroupRequest { client_id: "changed".into(), group: group_name.clone(), change })
    }));
    asked
}

/// Frames that came until the answer to a ping, which is sent behind `body`: then all is handled.
async fn answers(device: &mut Device, body: Body) -> Vec<Told> {
    assert!(device.say(body).await && device.say(Body::Ping(Ping { nonce: 77 })).await, "the connection is over");
    let mut answers = Vec::new();
    loop {
        match device.frame().await {
            Some(Told::Pong(pong)) if pong.nonce == 77 => return answers,
            Some(Told::Bye(bye)) => {
                answers.push(Told::Bye(bye));
                return answers;
            }
            Some(told) => answers.push(told),
            None => return answers,
        }
    }
}

/// The answer to something that is answered once.
async fn answer(device: &mut Device, body: Body) -> Told {
    let said = format!("{body:?}");
    assert!(device.say(body).await, "the connection is over");
    loop {
        match device.frame().await {
            // Nobody has asked for these.
            Some(Told::Deliver(_) | Told::Timelines(_) | Told::Presences(_) | Told::ContactNews(_)) => {}
            Some(Told::Conversations(news)) if news.changes && news.request == 0 => {}
            other => return other.unwrap_or_else(|| panic!("{said} has no answer")),
        }
    }
}

fn refused(told: Told) -> (Code, String) {
    match told {
        Told::Refused(refused) => (refused.code(), refused.reason),
        other => panic!("not refused: {other:?}"),
    }
}

async fn person(service: &Service, carrier: Carrier, user: &str) -> Device {
    let token = Credential::Token(service.token(user));
    enter(&service.address(carrier), user, "d", &token).await.expect("signs in")
}

/// The group as its owner sees it.
async fn group_of(owner: &mut Device, group: &str) -> Vec<Told> {
    let read = |group: &str| {
        let group = group.to_owned();
        vec![
            Body::ReadGroup(ReadGroup { request: 5, group: group.clone() }),
            Body::ReadMembers(ReadMembers { request: 5, group: group.clone(), ..ReadMembers::default() }),
            Body::Fetch(Fetch { request: 5, timeline: log(&group), ..Fetch::default() }),
        ]
    };
    let mut seen = Vec::new();
    for body in read(group) {
        seen.push(answer(owner, body).await);
    }
    seen
}

#[test]
fn a_group_is_as_if_it_were_not_there_for_who_is_not_in_it() {
    let service = Service::shared();
    service.block_on(async {
        for carrier in Carrier::ALL {
            let name = carrier.name();
            let (owner, intruder) = (format!("owner-{name}"), format!("intruder-{name}"));
            let (group, nothing) = (format!("board-{name}"), format!("other-{name}"));
            let mut owners = person(service, carrier, &owner).await;
            let create = Change::Create(CreateGroup::default());
            let create = GroupRequest { client_id: "make".into(), group: group.clone(), change: Some(create) };
            let Told::Accepted(_) = answer(&mut owners, Body::Group(create)).await else { panic!("not made") };
            let before = group_of(&mut owners, &group).await;

            let mut intruders = person(service, carrier, &intruder).await;
            let of_group = asked_of_group(&group, &owner, &intruder);
            let of_nothing = asked_of_group(&nothing, &owner, &intruder);
            for (body, same_of_nothing) in of_group.into_iter().zip(of_nothing) {
                let said = format!("{carrier:?}: {body:?}");
                let (code, reason) = refused(answer(&mut intruders, body).await);
                let of_nothing = refused(answer(&mut intruders, same_of_nothing).await);
                assert_eq!((code, reason.replace(&group, &nothing)), of_nothing, "{said}");
            }
            let read = ReadGroups { request: 1, ..ReadGroups::default() };
            let Told::Groups(groups) = answer(&mut intruders, Body::ReadGroups(read)).await else { panic!("groups") };
            assert_eq!(groups.groups, [], "{carrier:?}");
            assert_eq!(group_of(&mut owners, &group).await, before, "{carrier:?}");
        }
    });
}

#[test]
fn what_two_say_to_each_other_is_for_nobody_else() {
    let service = Service::shared();
    service.block_on(async {
        for carrier in Carrier::ALL {
            let name = carrier.name();
            let (ann, ben, eve) = (format!("ann-{name}"), format!("ben-{name}"), format!("eve-{name}"));
            person(service, carrier, &ben).await;
            let mut anns = person(service, carrier, &ann).await;
            anns.send(&ben, "1", "between us").await.expect("accepted");
            let before = anns.history().await;
            let mut eves = person(service, carrier, &eve).await;

            let fetch = Fetch { request: 1, timeline: inbox(&ann), ..Fetch::default() };
            let (code, _) = refused(answer(&mut eves, Body::Fetch(fetch)).await);
            assert_eq!(code, Code::Forbidden, "{carrier:?}");

            // A place of a file is told to who can read a message with it, whatever else one knows.
            for (timeline, seq) in [(inbox(&ann), 1), (inbox(&eve), 1), (None, 0)] {
                let guess = RequestMediaUrl { request: 1, id: vec![0; 24].into(), timeline, seq };
                let (code, _) = refused(answer(&mut eves, Body::RequestMediaUrl(guess)).await);
                assert!([Code::NotFound, Code::Forbidden].contains(&code), "{carrier:?}: {code:?} {seq}");
            }

            // In the own inbox there is no such message, and no frame names another inbox.
            for of in [&ann, &ben] {
                let (code, _) = refused(answer(&mut eves, Body::Report(report(to_user(of)))).await);
                assert_eq!(code, Code::NotFound, "{carrier:?}");
            }

            // The token of somebody else does not go on with this session.
            let renew = Renew { request: 1, token: service.token(&ann) };
            let told = answers(&mut eves, Body::Renew(renew)).await;
            assert!(!told.iter().any(|told| matches!(told, Told::Renewed(_))), "{carrier:?}: {told:?}");

            let mut eves = person(service, carrier, &eve).await;
            // Neither a position in another's inbox nor what somebody has made up hurts anybody.
            let ack = Ack { timeline: inbox(&ann), position: Some(Position { epoch: 1, seq: u64::MAX }) };
            answers(&mut eves, Body::Ack(ack)).await;

            assert_eq!(anns.history().await, before, "{carrier:?}");
        }
    });
}

#[test]
fn before_the_sign_in_nothing_is_answered() {
    let service = Service::shared();
    let timeline_position = TimelinePosition { timeline: inbox("ann"), position: None };
    let frames = vec![
        Body::SignOut(SignOut {}),
        Body::ScramFinal(ScramFinal { message: b"c=biws,r=x,p=x".to_vec().into() }),
        Body::Send(Send { client_id: "1".into(), to: to_user("ann"), content: text("hi"), ..Send::default() }),
        Body::Ack(Ack { timeline: inbox("ann"), position: None }),
        Body::Fetch(Fetch { request: 1, timeline: inbox("ann"), ..Fetch::default() }),
        Body::Ping(Ping { nonce: 1 }),
        Body::Renew(Renew { request: 1, token: service.token("ann") }),
        Body::Positions(Positions { positions: vec![timeline_position], more: false }),
        Body::ReadGroup(ReadGroup { request: 1, group: "club".into() }),
        Body::ReadMembers(ReadMembers { request: 1, group: "club".into(), ..ReadMembers::default() }),
        Body::ReadGroups(ReadGroups::default()),
        Body::Group(GroupRequest { client_id: "1".into(), group: "club".into(), change: None }),
        Body::ReadConversations(ReadConversations::default()),
        Body::MoveMarks(MoveMarks::default()),
        Body::SetConversation(SetConversation { request: 1, with: to_user("ann"), ..SetConversation::default() }),
        Body::ReadMarks(ReadMarks { request: 1, group: "club".into(), users: Vec::new() }),
        Body::Contact(ContactRequest {
            request: 1,
            contact: "ann".into(),
            change: Some(carillon_proto::pb::client::contact_request::Change::Remove(RemoveContact {})),
        }),
        Body::ReadContacts(ReadContacts::default()),
        Body::SetPresence(SetPresence::default()),
        Body::RequestMediaSlot(RequestMediaSlot { request: 1, size_bytes: 1, ..RequestMediaSlot::default() }),
        Body::RequestMediaUrl(RequestMediaUrl { request: 1, id: vec![1; 24].into(), ..RequestMediaUrl::default() }),
        Body::Report(report(to_user("ann"))),
    ];
    service.block_on(async {
        for carrier in Carrier::ALL {
            for body in &frames {
                let said = format!("{carrier:?}: {body:?}");
                let address = service.address(carrier);
                let connected = carillon_client::Connection::connect(&address, &Default::default()).await;
                let mut connection = connected.expect("connects");
                connection.send_frame(body.clone()).await.expect("sent");
                let told = connection.next_frame().await.expect("a frame").expect("open").body;
                assert!(matches!(&told, Some(Told::Bye(bye)) if !bye.reason.is_empty()), "{said}: {told:?}");
            }
        }
    });
}
