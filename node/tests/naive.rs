//! A client that follows the rules of docs/protocol.md, "Sending again", and nothing else. The rules are written here
//! again, one by one, with raw frames; the client library is not used, because it does more.

mod support;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use carillon_client::{Address, Client, ConnectOptions, Connection, ConnectionError};
use carillon_proto::pb::client::{
    Code, Limits, Send, ServerFrame, SignIn, client_frame::Body, refused::What, server_frame, sign_in,
};
use support::{
    cluster::Cluster,
    node::until,
    service::{Carrier, Service},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// Messages that wait during the outage.
const SENDS: usize = 500;
const RECIPIENTS: usize = 3;
const OUTAGE: Duration = Duration::from_secs(10);
/// Time limit of the whole test.
const PATIENCE: Duration = Duration::from_secs(150);

struct Naive {
    address: Address,
    device: String,
    token: String,
    /// Rule 1: messages are kept until they are accepted, in the order in which they were first sent.
    kept: BTreeMap<usize, Send>,
    /// Messages that have not been sent on this connection.
    to_send: VecDeque<usize>,
    /// Rule 2: each message has a time of its own.
    timers: BTreeMap<(Instant, usize), ()>,
    in_flight: usize,
    limits: Limits,
    refusals: BTreeMap<&'static str, usize>,
}

impl Naive {
    fn new(address: Address, token: String, device: &str) -> Self {
        Self {
            address,
            device: device.to_owned(),
            token,
            kept: BTreeMap::new(),
            to_send: VecDeque::new(),
            timers: BTreeMap::new(),
            in_flight: 0,
            limits: Limits::default(),
            refusals: BTreeMap::new(),
        }
    }

    /// `after` is the last message to the same recipient, which has no answer yet.
    fn add(&mut self, number: usize, to: &str) {
        let after = number.checked_sub(RECIPIENTS).filter(|before| self.kept.contains_key(before));
        let send = Send {
            client_id: number.to_string(),
            to: Some(Client::user(to)),
            content: Some(Client::text(&format!("message {number}"))),
            after: after.map(|before| before.to_string()).unwrap_or_default(),
            expires_after_ms: 0,
        };
        self.kept.insert(number, send);
        self.to_send.push_back(number);
    }

    /// Runs until no message is kept. Rule 4: after a reconnect, everything is sent in the first order.
    async fn run(&mut self) {
        while !self.kept.is_empty() {
            let why = match self.connect().await {
                Ok(mut connection) => self.serve(&mut connection).await.err(),
                Err(error) => Some(error),
            };
            if let Some(why) = why {
                println!("{} are left: {why}", self.kept.len());
                sleep(Duration::from_millis(300)).await;
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, String> {
        let said = |error: ConnectionError| error.to_string();
        let mut connection = Connection::connect(&self.address, &ConnectOptions::default()).await.map_err(said)?;
        let credential = Some(sign_in::Credential::Token(self.token.clone()));
        let request = SignIn { device: self.device.clone(), credential, ..Default::default() };
        connection.send_frame(Body::SignIn(request)).await.map_err(said)?;
        match connection.next_frame().await.map_err(said)? {
            Some(ServerFrame { body: Some(server_frame::Body::SignedIn(signed_in)) }) => {
                self.limits = signed_in.limits.expect("limits");
                self.to_send = self.kept.keys().copied().collect();
                self.timers.clear();
                self.in_flight = 0;
                Ok(connection)
            }
            other => Err(format!("not signed in: {other:?}")),
        }
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<(), String> {
        let said = |error: ConnectionError| error.to_string();
        while !self.kept.is_empty() {
            while self.in_flight < self.limits.max_pending_sends as usize {
                let Some(number) = self.next(Instant::now()) else { break };
                self.in_flight += 1;
                connection.send_frame(Body::Send(self.kept[&number].clone())).await.map_err(said)?;
            }
            let next = self.timers.first_key_value().map_or(Duration::from_secs(20), |((at, _), ())| {
                at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
            });
            match timeout(next, connection.next_frame()).await {
                Err(_) => {}
                Ok(frame) => self.hear(frame.map_err(said)?.ok_or("closed")?)?,
            }
        }
        Ok(())
    }

    /// The message that may be sent now: a refused one whose time has come, or the first one that was not sent yet.
    fn next(&mut self, now: Instant) -> Option<usize> {
        match self.timers.first_key_value() {
            Some(((at, _), ())) if *at <= now => self.timers.pop_first().map(|((_, number), ())| number),
            _ => self.to_send.pop_front(),
        }
    }

    fn hear(&mut self, frame: ServerFrame) -> Result<(), String> {
        match frame.body {
            Some(server_frame::Body::Accepted(accepted)) => {
                self.in_flight -= 1;
                self.kept.remove(&accepted.client_id.parse().expect("own id"));
            }
            Some(server_frame::Body::Refused(refused)) => {
                self.in_flight -= 1;
                assert!(refused.retry, "nothing is refused for good: {refused:?}");
                *self.refusals.entry(refused.code().as_str_name()).or_default() += 1;
                let Some(What::ClientId(id)) = refused.what else { panic!("names no send") };
                let at = Instant::now() + Duration::from_millis(refused.retry_after_ms.into());
                self.timers.insert((at, id.parse().expect("own id")), ());
            }
            Some(server_frame::Body::Bye(bye)) => {
                assert!(bye.reconnect, "{bye:?}");
                return Err(format!("{:?}", bye.code()));
            }
            _ => {}
        }
        Ok(())
    }

    fn refused(&self, code: Code) -> usize {
        self.refusals.get(code.as_str_name()).copied().unwrap_or_default()
    }
}

#[test]
fn a_naive_client_gets_through_after_ten_seconds_without_routers() {
    let mut cluster = Cluster::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        for number in 0..RECIPIENTS {
            // The first sign-in makes the account.
            let token = cluster.token(&format!("friend-{number}"));
            Naive::new(cluster.addresses[0].clone(), token, "naive").connect().await.expect("signs in");
        }
        let mut naive = Naive::new(cluster.addresses[0].clone(), cluster.token("naive"), "naive");
        naive.add(0, "friend-0");
        timeout(PATIENCE, naive.run()).await.expect("the first is accepted");
        naive.refusals.clear();

        for router in &cluster.routers {
            router.signal("STOP");
        }
        let stopped = Instant::now();
        for number in 1..=SENDS {
            naive.add(number, &format!("friend-{}", number % RECIPIENTS));
        }
        let back = async {
            tokio::time::sleep_until((stopped + OUTAGE).into()).await;
            for router in &cluster.routers {
                router.signal("CONT");
            }
            let routers = &mut cluster.routers;
            tokio::task::block_in_place(|| {
                until("the routers are back", Duration::from_secs(60), || {
                    routers.iter().all(|router| router.is_ready())
                });
            });
            Instant::now()
        };
        let all = async {
            timeout(PATIENCE, naive.run()).await.unwrap_or_else(|_| panic!("the naive client does not get through"));
            Instant::now()
        };
        let (back, done) = tokio::join!(back, all);
        let took = done.saturating_duration_since(back);
        let Limits { send_burst, sends_per_second, .. } = naive.limits;
        let allowed = Duration::from_secs_f64((SENDS as f64 - f64::from(send_burst)) / f64::from(sends_per_second));
        println!("{took:?} where the rate allows {allowed:?}; refused: {:?}", naive.refusals);
        // In the spiral that these rules prevent, each message had 500 refusals for rate and more.
        let (rate, order) = (naive.refused(Code::RateLimited), naive.refused(Code::OutOfOrder));
        assert!(rate + order < 6 * SENDS, "it spirals: {:?}", naive.refusals);
        if took >= allowed * 2 {
            // A busy machine may not do what the rate allows: then as long as without an outage.
            let mut calm = Naive::new(cluster.addresses[0].clone(), cluster.token("calm"), "naive");
            (0..SENDS).for_each(|number| calm.add(number, &format!("friend-{}", number % RECIPIENTS)));
            let calm = time_of(calm).await;
            assert!(took < calm * 2, "{took:?} where the rate allows {allowed:?}, and {calm:?} without an outage");
        }
    });
}

/// How long it takes until all of its messages are accepted.
async fn time_of(mut naive: Naive) -> Duration {
    let began = Instant::now();
    timeout(PATIENCE, naive.run()).await.expect("it gets through");
    began.elapsed()
}

/// The user's rate is the narrow limit: the limit of each connection alone would not bound the user.
#[test]
fn naive_connections_of_one_user_get_through_at_the_rate_of_the_user() {
    const CONNECTIONS: usize = 4;
    const EACH: usize = 150;
    let (rate, burst) = (50, 100);
    let service = Service::start(&format!("gateway.user_sends_per_second = {rate}\ngateway.user_send_burst = {burst}"));
    service.block_on(async {
        let address = service.address(Carrier::Tcp);
        for number in 0..RECIPIENTS {
            let name = format!("friend-{number}");
            Naive::new(address.clone(), service.token(&name), "d").connect().await.expect("signs in");
        }
        let mut all: Vec<Naive> = (0..CONNECTIONS)
            .map(|device| Naive::new(address.clone(), service.token("naive"), &format!("naive-{device}")))
            .collect();
        for naive in &mut all {
            (0..EACH).for_each(|number| naive.add(number, &format!("friend-{}", number % RECIPIENTS)));
        }
        let began = Instant::now();
        let tasks: JoinSet<usize> = all
            .into_iter()
            .map(|mut naive| async move {
                timeout(PATIENCE, naive.run()).await.expect("a naive connection gets through");
                naive.refused(Code::RateLimited) + naive.refused(Code::OutOfOrder)
            })
            .collect();
        let refused: usize = tasks.join_all().await.into_iter().sum();
        let took = began.elapsed();
        let allowed = Duration::from_secs_f64((CONNECTIONS * EACH - burst) as f64 / f64::from(rate));
        println!("{took:?} where the rate allows {allowed:?}; refused: {refused}");
        assert!(refused < 6 * CONNECTIONS * EACH, "it spirals: {refused}");
        if took >= allowed * 2 {
            // A busy machine may not do what the rate allows: then as long as one connection needs for the same.
            let mut one = Naive::new(address.clone(), service.token("one"), "d");
            (0..CONNECTIONS * EACH).for_each(|number| one.add(number, &format!("friend-{}", number % RECIPIENTS)));
            let one = time_of(one).await;
            assert!(took < one * 2, "{took:?} where the rate allows {allowed:?}, and {one:?} for one connection");
        }
    });
}
