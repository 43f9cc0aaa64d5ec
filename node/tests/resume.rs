//! Sign-ins by a resume ticket, from outside.

mod support;

use std::time::Duration;

use carillon_client::{
    Client, ClientConfig, ConnectOptions, Connection, Credential, SignInError, State, Ticket, resume, sign_in,
};
use carillon_proto::{
    pb::client::{Code, SignIn, SignedIn},
    tasks::Tasks,
};
use support::{
    cluster::Cluster,
    people::{PATIENCE, done, enter, shared},
    service::{Carrier, Service, TOKEN_SECRET},
};

fn request(user: &str, device: &str) -> SignIn {
    SignIn { user: user.to_owned(), device: device.to_owned(), ..SignIn::default() }
}

async fn connect(service: &Service, carrier: Carrier) -> Connection {
    Connection::connect(&service.address(carrier), &ConnectOptions::default()).await.expect("connects")
}

/// Gets a ticket by this credential, and leaves.
async fn ticket(service: &Service, carrier: Carrier, user: &str, credential: &Credential) -> Ticket {
    let device = enter(&service.address(carrier), user, "phone", credential).await.expect("signs in");
    Ticket::new(device.signed_in.ticket.clone()).expect("a ticket")
}

async fn resumes(service: &Service, carrier: Carrier, user: &str, ticket: &Ticket) -> Result<SignedIn, SignInError> {
    resume(&mut connect(service, carrier).await, request(user, "phone"), ticket).await
}

/// The directory does not take what the ticket stands for.
fn is_over(result: Result<SignedIn, SignInError>) {
    match result {
        Err(SignInError::Bye(bye)) => assert_eq!((bye.code(), bye.reconnect), (Code::Unauthenticated, false)),
        other => panic!("no Bye: {other:?}"),
    }
}

fn is_refused(result: Result<SignedIn, SignInError>) {
    match result {
        Err(SignInError::Refused(refusal)) => assert_eq!((refusal.code, refusal.retry), (Code::Unauthenticated, false)),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_ticket_signs_in_on_every_carrier_and_if_it_is_refused_the_credential_may_follow() {
    let service = shared();
    for carrier in Carrier::ALL {
        let user = format!("resume-{}", carrier.name());
        service.block_on(async {
            let credential = Credential::Token(service.token(&user));
            let ticket = ticket(service, carrier, &user, &credential).await;
            let signed_in = resumes(service, carrier, &user, &ticket).await.expect("taken");
            assert_eq!((&*signed_in.user, &*signed_in.device), (&*user, "phone"));
            let mut connection = connect(service, carrier).await;
            is_refused(resume(&mut connection, request(&user, "laptop"), &ticket).await);
            sign_in(&mut connection, request(&user, "laptop"), &credential).await.expect("on the same connection");
        });
    }
}

#[test]
fn a_new_password_ends_the_tickets_of_the_old_one() {
    let service = shared();
    done(service, &["user", "add", "resume-frank", "--password-stdin"], "the first one\n");
    service.block_on(async {
        let old = Credential::Password("the first one".into());
        let ticket = ticket(service, Carrier::Tcp, "resume-frank", &old).await;
        resumes(service, Carrier::Tcp, "resume-frank", &ticket).await.expect("taken");
        done(service, &["user", "add", "resume-frank", "--replace", "--password-stdin"], "the second one\n");
        is_over(resumes(service, Carrier::Tcp, "resume-frank", &ticket).await);
    });
}

#[test]
fn a_revoked_token_ends_its_tickets_and_a_deleted_account_ends_all() {
    let service = shared();
    let token = |id: &str| {
        let now = carillon_proto::now_ms() / 1000;
        let claims = serde_json::json!({"sub": "resume-heidi", "jti": id, "iat": now, "exp": now + 3600});
        let key = jsonwebtoken::EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
        let header = jsonwebtoken::Header::default();
        Credential::Token(jsonwebtoken::encode(&header, &claims, &key).expect("signs"))
    };
    service.block_on(async {
        let stolen = ticket(service, Carrier::Tcp, "resume-heidi", &token("stolen")).await;
        let other = ticket(service, Carrier::Tcp, "resume-heidi", &token("other")).await;
        done(service, &["token", "revoke", "resume-heidi", "--id", "stolen"], "");
        is_over(resumes(service, Carrier::Tcp, "resume-heidi", &stolen).await);
        resumes(service, Carrier::Tcp, "resume-heidi", &other).await.expect("not revoked");
        done(service, &["user", "delete", "resume-heidi"], "");
        is_over(resumes(service, Carrier::Tcp, "resume-heidi", &other).await);
    });
}

#[test]
fn the_clients_of_a_killed_gateway_go_on_at_another_one_by_their_tickets() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let tasks = Tasks::new();
    let credential = Credential::Token(cluster.token("alice"));
    let config = ClientConfig::new(cluster.addresses.clone(), "alice", "phone", credential);
    let (client, mut events) = runtime.block_on(async { Client::open(config, &tasks) }).expect("valid");
    runtime.spawn(async move { while events.next().await.is_some() {} });
    // Waits for a gateway other than this one, and returns its number.
    let connected = |other_than: Option<usize>, addresses: &[carillon_client::Address]| {
        let mut state = client.state();
        let number = |state: &State| match state {
            State::Connected { address, .. } => {
                addresses.iter().position(|known| known.to_string() == *address).filter(|at| Some(*at) != other_than)
            }
            _ => None,
        };
        runtime.block_on(async {
            let there = tokio::time::timeout(PATIENCE, state.wait_for(|state| number(state).is_some())).await;
            number(&there.expect("in time").expect("not ended")).expect("a gateway")
        })
    };
    let by_ticket = |cluster: &Cluster, gateway: usize| {
        let metrics = cluster.gateways[gateway].metrics();
        let line = metrics.lines().find(|line| {
            line.starts_with("carillon_gateway_sign_ins_total{")
                && line.contains("way=\"ticket\"")
                && line.contains("result=\"ok\"")
        });
        line.and_then(|line| line.rsplit(' ').next()).expect("the metric").parse::<f64>().expect("a number")
    };
    let first = connected(None, &cluster.addresses);
    assert_eq!(by_ticket(&cluster, first), 0.0);
    cluster.gateways[first].kill();
    let second = connected(Some(first), &cluster.addresses);
    assert_eq!(by_ticket(&cluster, second), 1.0);
    let sent = client.send(Client::user("alice"), Client::text("still here"));
    let sent = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), sent).await });
    sent.expect("in time").expect("accepted");
}
