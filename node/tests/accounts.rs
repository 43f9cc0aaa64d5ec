//! Accounts from outside: what an operator does with `carillon user`, and what clients see.

mod support;

use carillon_client::Credential;
use carillon_proto::pb::client::{
    Code, Content, Recipient, Send, Text, client_frame::Body, content, recipient, server_frame,
};
use support::{
    cluster::Cluster,
    people::{code_of, command, done, enter, failed, shared, with_new_token, with_token},
    service::Carrier,
};

#[test]
fn a_names_next_owner_sees_nothing_of_the_old_one() {
    let service = shared();
    done(service, &["user", "add", "bob", "--no-password"], "");
    done(service, &["user", "add", "alice", "--no-password"], "");
    service.block_on(async {
        let mut alice = with_token(service, "alice").await;
        alice.send("bob", "1", "private").await.expect("accepted");
        let mut bob = with_token(service, "bob").await;
        assert_eq!(bob.history().await.entries.len(), 1);
        let before = bob.history().await.epoch;
        done(service, &["user", "delete", "bob"], "");
        done(service, &["user", "add", "bob", "--no-password"], "");
        let mut bob = with_new_token(service, "bob").await;
        assert_eq!(bob.signed_in.timelines[0].last, 0);
        let page = bob.history().await;
        assert_eq!(page.entries, [], "the old owner's messages");
        // A client id names another message of another owner.
        alice.send("bob", "2", "hello").await.expect("accepted");
        let page = bob.history().await;
        assert_eq!((page.entries.len(), page.entries[0].seq), (1, 1));
        assert_ne!(page.epoch, before, "what a device holds of the old inbox says nothing about the new one");
        // Messages to the former owner stay with their sender.
        assert_eq!(alice.history().await.entries.len(), 2);
    });
}

#[test]
fn a_deleted_user_is_put_out_and_stays_out() {
    let service = shared();
    let password = Credential::Password("a long secret".to_owned());
    done(service, &["user", "add", "carol", "--password-stdin"], "a long secret\n");
    done(service, &["user", "add", "dave", "--no-password"], "");
    service.block_on(async {
        let mut dave = with_token(service, "dave").await;
        let mut by_password =
            enter(&service.address(Carrier::WebSocketJson), "carol", "p", &password).await.expect("signs in");
        let mut by_token = with_token(service, "carol").await;
        dave.send("carol", "1", "hello").await.expect("accepted");
        done(service, &["user", "delete", "carol"], "");
        // At once, not after a minute.
        assert_eq!(dave.send("carol", "2", "are you there?").await, Err(Code::NotFound));
        assert_eq!(by_password.bye().await, (Code::Unauthenticated, false));
        assert_eq!(by_token.bye().await, (Code::Unauthenticated, false));
        let token = Credential::Token(service.token("carol"));
        let address = service.address(Carrier::Tcp);
        assert_eq!(code_of(enter(&address, "carol", "d", &token).await), Code::Unauthenticated);
        assert_eq!(code_of(enter(&address, "carol", "p", &password).await), Code::Unauthenticated);
    });
}

#[test]
fn a_deletion_that_deletes_nobody_says_so() {
    let service = shared();
    assert!(failed(service, &["user", "delete", "nobody"]).contains("there is no user \"nobody\""));
    done(service, &["user", "add", "erin", "--no-password"], "");
    done(service, &["user", "delete", "erin"], "");
    assert!(failed(service, &["user", "delete", "erin"]).contains("erin"));
}

#[test]
fn a_deletion_puts_out_who_is_connected_to_any_gateway() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let admin = |cluster: &Cluster, args: &[&str], stdin: &str| {
        let routers = &cluster.router_addresses()[..];
        // Through each router in turn: a router need not own the user of a request.
        for (number, router) in routers.iter().enumerate() {
            let mut args: Vec<&str> = args.to_vec();
            let name = format!("{}{number}", args[2]);
            args[2] = &name;
            let output = command(&args, &cluster.data("router-0"), router, stdin);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    };
    admin(&cluster, &["user", "add", "judy", "--password-stdin"], "the first one\n");
    runtime.block_on(async {
        let password = Credential::Password("the first one".into());
        let mut connected = Vec::new();
        for user in ["judy0", "judy1"] {
            for address in &cluster.addresses {
                let device = format!("d{}", connected.len());
                connected.push(enter(address, user, &device, &password).await.expect("signs in"));
            }
        }
        admin(&cluster, &["user", "add", "judy", "--replace", "--password-stdin"], "the second one\n");
        for device in &mut connected {
            assert_eq!(device.bye().await, (Code::Unauthenticated, false), "{}", device.user);
        }
        let password = Credential::Password("the second one".into());
        let mut connected = Vec::new();
        for user in ["judy0", "judy1"] {
            for address in &cluster.addresses {
                let device = format!("d{}", connected.len());
                connected.push(enter(address, user, &device, &password).await.expect("signs in"));
            }
        }
        admin(&cluster, &["user", "delete", "judy"], "");
        for device in &mut connected {
            assert_eq!(device.bye().await, (Code::Unauthenticated, false), "{}", device.user);
        }
    });
    for node in cluster.nodes() {
        node.kill();
    }
}

#[test]
fn a_message_that_comes_again_goes_to_nobody_when_the_name_has_another_owner() {
    let service = shared();
    for user in ["olivia", "quentin"] {
        done(service, &["user", "add", user, "--no-password"], "");
    }
    service.block_on(async {
        let mut olivia = with_token(service, "olivia").await;
        olivia.send("quentin", "1", "private").await.expect("accepted");
        done(service, &["user", "delete", "quentin"], "");
        done(service, &["user", "add", "quentin", "--no-password"], "");
        // Repeats the send, as a client does that has not received the answer.
        olivia.send("quentin", "1", "private").await.expect("accepted already");
        assert_eq!(olivia.send("quentin", "1", "something else").await, Err(Code::Invalid));
        olivia.send("quentin", "2", "hello").await.expect("accepted");
        let mut quentin = with_new_token(service, "quentin").await;
        let page = quentin.history().await;
        let ids: Vec<_> = page.entries.into_iter().map(|entry| entry.envelope.expect("set").client_id).collect();
        assert_eq!(ids, ["2"]);
        assert_eq!(olivia.history().await.entries.len(), 2);
    });
}

#[test]
fn nothing_is_accepted_from_a_deleted_users_session_on_a_gateway_that_stood_still() {
    const SENDS: usize = 60;
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let router = cluster.router_addresses()[0].clone();
    let admin = |args: &[&str], stdin: &str| {
        let output = command(args, &cluster.data("router-0"), &router, stdin);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    runtime.block_on(async {
        admin(&["user", "add", "mallory", "--password-stdin"], "the first one\n");
        let password = |text: &str| Credential::Password(text.into());
        let alice = Credential::Token(cluster.token("alice"));
        let mut alice = enter(&cluster.addresses[1], "alice", "d", &alice).await.expect("signs in");
        let mut before =
            enter(&cluster.addresses[0], "mallory", "d", &password("the first one")).await.expect("signs in");
        cluster.gateways[0].signal("STOP");
        for number in 0..SENDS {
            let content =
                Content { body: Some(content::Body::Text(Text { body: "late".to_owned() })), ..Default::default() };
            let to = Some(Recipient { to: Some(recipient::To::User("alice".to_owned())) });
            let send = Send {
                client_id: number.to_string(),
                to,
                content: Some(content),
                after: String::new(),
                expires_after_ms: 0,
            };
            assert!(before.say(Body::Send(send)).await, "what is sent waits for the gateway");
        }
        admin(&["user", "delete", "mallory"], "");
        admin(&["user", "add", "mallory", "--password-stdin"], "the second one\n");
        cluster.gateways[0].signal("CONT");
        loop {
            match before.frame().await.expect("a Bye") {
                server_frame::Body::Accepted(accepted) => panic!("accepted: {accepted:?}"),
                server_frame::Body::Bye(bye) => break assert_eq!(bye.code(), Code::Unauthenticated),
                _ => {}
            }
        }
        // Sent after all that, on the same path to the same inbox.
        let mut after =
            enter(&cluster.addresses[0], "mallory", "d", &password("the second one")).await.expect("signs in");
        after.send("alice", "hello", "hello").await.expect("accepted");
        let page = alice.history().await;
        let ids: Vec<_> = page.entries.into_iter().map(|entry| entry.envelope.expect("set").client_id).collect();
        assert_eq!(ids, ["hello"], "sent by the name's owner before");
    });
    for node in cluster.nodes() {
        node.kill();
    }
}
