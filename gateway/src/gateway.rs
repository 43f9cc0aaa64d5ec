//! The gateway role: opened, run, drained.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use carillon_media::Media;
use carillon_proto::{
    LeaseId, Ready,
    lease::{HeldLease, LeaseHolder, give_up},
    pb::store::NodeKind,
    peer::{PeerError, PeerSecurity, Tier},
    registry::RegistryClient,
    tasks::Tasks,
};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    census::Census,
    config::{GatewayConfig, InvalidConfig},
    connection::Shared,
    connections::Connections,
    conversation::{InvalidTokenKey, MediaRules, Rules, TicketKeys, TokenDomains},
    cut_off,
    feeding::Feeding,
    links::{Hearing, LinksConfig, LinksTask, RouterLinks},
    listener::{Addresses, BindError, Listeners, Tls, TlsError},
    media::{MediaService, PassKeys},
    metrics,
    presences::Presences,
    rebalance::{self, Bounds},
    status::Status,
    throttle::TELL_REST,
};

/// The gateway can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error(transparent)]
    TokenKey(#[from] InvalidTokenKey),
    #[error(transparent)]
    Listen(#[from] BindError),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// Serves client connections, and speaks to the routers for them. Stores nothing.
pub struct Gateway {
    addresses: Addresses,
    shared: Arc<Shared>,
    security: PeerSecurity,
    status: Arc<Status>,
    registry: RegistryClient,
    lease: watch::Receiver<Option<u64>>,
    drain_delay: Duration,
    drain_spread: Duration,
    drain_per_second: u32,
    send_deadline: Duration,
    rebalance: Bounds,
    census: Arc<Census>,
    tls: Option<Arc<Tls>>,
    /// Taken by `run`.
    parts: Mutex<Option<NotStarted>>,
    groups: OnceLock<Groups>,
}

/// The parts that `run` starts.
struct NotStarted {
    listeners: Listeners,
    links: LinksTask,
    presences: Arc<Presences>,
    lease: LeaseHolder,
    publish: watch::Sender<Option<u64>>,
}

/// Stopped before the rest.
struct Groups {
    accepting: Tasks,
    lease: Tasks,
}

/// Deadline for the last requests to the routers, and for giving the lease back.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The shortest timeout of one router for a registry call.
const SHORTEST_TRY: Duration = Duration::from_millis(200);
/// Pause between groups of clients that are sent away.
const STEP: Duration = Duration::from_millis(20);
/// Longest delay before a client reconnects elsewhere; longer where the other gateways can't take that many clients in
/// this time.
const RECONNECT_MS: u64 = 1_000;
const RECONNECTS_PER_S: u64 = 10_000;

impl Gateway {
    /// Reads keys and binds listeners; accepts nothing yet.
    pub async fn open(config: GatewayConfig, security: PeerSecurity) -> Result<Self, OpenError> {
        Self::open_with_media(config, security, None).await
    }

    /// `media`: where files are kept; without it the gateway takes none.
    pub async fn open_with_media(
        config: GatewayConfig,
        security: PeerSecurity,
        media: Option<Media>,
    ) -> Result<Self, OpenError> {
        config.validate()?;
        let security = security.of_tier(Tier::Gateway)?;
        metrics::limits(config.max_connections, config.max_pending_requests);
        let decoy_key = security.derive_key("gateway: credentials of users who have none");
        let pass_keys = Arc::new(ArcSwap::from_pointee(PassKeys::of(&security)));
        let of_sessions = |media: &Media| MediaRules { config: media.config.clone(), keys: Arc::clone(&pass_keys) };
        let mut rules = Rules::new(&config, decoy_key)?;
        rules.media = media.as_ref().map(of_sessions);
        let rules = Arc::new(rules);
        rules.tickets.store(Arc::new(TicketKeys::of(&security)));
        let (listeners, addresses) = Listeners::bind(&config, &rules).await?;
        let status = Arc::new(Status::new());
        let connections = Arc::new(Connections::new());
        let (publish, lease) = watch::channel(None);
        let links_config = LinksConfig {
            seeds: config.routers.clone(),
            max_pending: config.max_pending_requests,
            deadline: config.send_deadline(),
            level: rules.level.clone(),
            domains: rules.domains.clone(),
        };
        let feeding = Arc::new(Feeding::new(rules.gap_grace, Arc::clone(&connections)));
        let census = Arc::<Census>::default();
        let interval = Duration::from_millis(config.presence_interval_ms);
        let presences = Arc::new(Presences::new(interval, Arc::clone(&connections), Instant::now().into_std()));
        let hearing = Hearing {
            connections: Arc::clone(&connections),
            feeding: Arc::clone(&feeding),
            presences: Arc::clone(&presences),
            census: Arc::clone(&census),
        };
        let (links, links_task, routers) =
            RouterLinks::new(links_config, security.clone(), publish.clone(), hearing, Arc::clone(&status));
        let length = Duration::from_millis(config.lease_ms);
        let each = (length / 6).max(SHORTEST_TRY);
        let registry = RegistryClient::new(security.clone(), each, move || routers.borrow().clone());
        let holder = LeaseHolder {
            registry: registry.clone(),
            kind: NodeKind::Gateway,
            address: String::new(),
            name: name_for_operators(&addresses),
            length,
            waits_for: "a router that registers this gateway",
        };
        let media = media.map(|media| Arc::new(MediaService::new(media, pass_keys, links.clone())));
        let shared = Arc::new(Shared {
            rules,
            links,
            connections,
            feeding,
            write_timeout: Duration::from_millis(config.write_timeout_ms),
            max_outgoing_bytes: config.max_outgoing_bytes,
            media,
        });
        Ok(Self {
            addresses,
            shared,
            security,
            status,
            registry,
            lease,
            drain_delay: Duration::from_millis(config.drain_delay_ms),
            drain_spread: Duration::from_millis(config.drain_spread_ms),
            drain_per_second: config.drain_per_second,
            send_deadline: config.send_deadline(),
            rebalance: config.rebalance(),
            census,
            tls: listeners.tls(),
            parts: Mutex::new(Some(NotStarted { listeners, links: links_task, presences, lease: holder, publish })),
            groups: OnceLock::new(),
        })
    }

    /// Starts everything. A second call does nothing.
    pub fn run(&self, tasks: &Tasks) {
        let Some(NotStarted { listeners, links, presences, lease, publish }) = self.parts.lock().take() else { return };
        let groups = Groups { accepting: tasks.child(), lease: tasks.child() };
        tasks.spawn("failed-sign-ins", tell_the_rest(Arc::clone(&self.shared.rules)));
        tasks.spawn("cut-off", cut_off::watch(links.cut_off(), Arc::clone(&self.shared.connections)));
        let (census, connections) = (Arc::clone(&self.census), Arc::clone(&self.shared.connections));
        tasks.spawn("rebalance", rebalance::run(self.rebalance, census, connections, self.ready()));
        tasks.spawn_critical("router-links", links.run(tasks.clone()));
        let Shared { feeding, links: to_routers, rules, .. } = &*self.shared;
        let missing = Arc::clone(feeding).read_missing(to_routers.clone(), Arc::clone(rules));
        tasks.spawn_critical("feeds", missing);
        tasks.spawn_critical("presences", presences.run());
        groups.lease.spawn("gateway-lease", lease.run(follow_lease(publish)));
        listeners.run(&self.shared, &self.ready(), tasks, &groups.accepting);
        let Addresses { tcp, ws, grpc, xmpp, xmpp_tls } = self.addresses;
        let shown = |address: Option<SocketAddr>| address.map_or("off".to_owned(), |address| address.to_string());
        tracing::info!(tcp = shown(tcp), ws = shown(ws), grpc = shown(grpc), "gateway listens");
        if xmpp.is_some() || xmpp_tls.is_some() {
            tracing::info!(xmpp = shown(xmpp), xmpp_tls = shown(xmpp_tls), "gateway listens for XMPP");
        }
        // Set once: `parts` is taken once.
        let _ = self.groups.set(groups);
    }

    /// Replaces the token keys and the certificates for new connections, and follows the cluster's secrets, which were replaced before.
    /// Open connections stay. After an error the keys and certificates have not changed.
    pub fn reload(&self, config: &GatewayConfig) -> Result<(), OpenError> {
        self.shared.rules.tickets.store(Arc::new(TicketKeys::of(&self.security)));
        let tokens = TokenDomains::load(config)?;
        if let Some(media) = &self.shared.rules.media {
            media.keys.store(Arc::new(PassKeys::of(&self.security)));
        }
        match (&self.tls, &config.tls) {
            (None, None) => {}
            (Some(tls), Some(config)) => tls.reload(config).map_err(BindError::Tls)?,
            (None, Some(_)) | (Some(_), None) => return Err(BindError::Tls(TlsError::Switched).into()),
        }
        self.shared.rules.tokens.store(Arc::new(tokens));
        Ok(())
    }

    /// Ready while it holds a lease and a link to a router of the ring.
    pub fn ready(&self) -> Ready {
        self.status.subscribe()
    }

    /// The address for clients over TCP; `None` if that is off.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses.tcp
    }

    /// The address for clients over WebSocket; `None` if that is off.
    pub fn ws_address(&self) -> Option<SocketAddr> {
        self.addresses.ws
    }

    /// The address for clients over gRPC; `None` if that is off.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.addresses.grpc
    }

    /// The address for XMPP streams that begin without TLS; `None` if that is off.
    pub fn xmpp_address(&self) -> Option<SocketAddr> {
        self.addresses.xmpp
    }

    /// The address for XMPP streams inside TLS; `None` if that is off.
    pub fn xmpp_tls_address(&self) -> Option<SocketAddr> {
        self.addresses.xmpp_tls
    }

    /// An orderly stop: reports that it is not ready, stops accepting after `drain_delay_ms`, sends clients away spread
    /// over time once their sends are answered, ends their sessions, and gives the lease back. Takes at most
    /// `drain_delay_ms`, the time in which all clients are told to go, `send_deadline_ms` and some seconds, and only
    /// some seconds when no router is left. All clients are told in time for the deadline, at a higher rate if need be.
    pub async fn drain(&self, deadline: Instant) {
        self.status.draining();
        let Some(groups) = self.groups.get() else { return };
        // New clients are served until the load balancers have seen that it is not ready.
        sleep(self.drain_delay).await;
        groups.accepting.stop();
        self.send_clients_away(deadline).await;
        let gone = async {
            while self.shared.connections.len() > 0 {
                sleep(STEP).await;
            }
        };
        let answered = async {
            if timeout(self.send_deadline + LAST_WORDS, gone).await.is_err() {
                let left = self.shared.connections.len();
                tracing::warn!(left, "clients are still connected at the end of the drain");
            }
            if timeout(LAST_WORDS, self.shared.links.idle()).await.is_err() {
                tracing::warn!("routers have not answered all at the end of the drain; sessions end with the lease");
            }
        };
        tokio::select! {
            () = answered => {}
            // Everything is being stopped. Clients repeat their unanswered sends.
            () = self.shared.links.without_routers(LAST_WORDS) => {
                match self.shared.connections.len() {
                    // The whole cluster stops.
                    0 => tracing::info!("no router is left to wait for"),
                    left => tracing::warn!(left, "no router is left to wait for"),
                }
            }
        }
        groups.lease.stop();
        let lease = *self.lease.borrow();
        if let Some(lease) = lease {
            give_up(&self.registry, LeaseId(lease), LAST_WORDS).await;
        }
        tracing::info!("gateway drained");
    }

    async fn send_clients_away(&self, deadline: Instant) {
        let clients = self.shared.connections.all();
        let most_ms = RECONNECT_MS.max(clients.len() as u64 * 1_000 / RECONNECTS_PER_S);
        let left = deadline.saturating_duration_since(Instant::now());
        let spread = drain_spread(clients.len(), self.drain_spread, self.drain_per_second, left);
        tracing::info!(clients = clients.len(), seconds = spread.as_secs_f64(), "clients are told to go");
        let (began, mut told) = (Instant::now(), 0);
        while told < clients.len() {
            let due = due_to_go(clients.len(), spread, began.elapsed());
            for client in clients.get(told..due).unwrap_or_default() {
                client.drain(Duration::from_millis(rand::rng().random_range(0..most_ms)));
            }
            told = due;
            sleep(STEP).await;
        }
        // Connections that were accepted at the last moment.
        for client in self.shared.connections.all() {
            client.drain(Duration::from_millis(rand::rng().random_range(0..most_ms)));
        }
    }
}

/// Over how long clients are told to go: at least `least`, no more than `per_second` of them each second, but within three
/// quarters of the time that is left, so that the last ones have time to go.
fn drain_spread(clients: usize, least: Duration, per_second: u32, left: Duration) -> Duration {
    let at_rate = Duration::from_secs_f64(clients as f64 / f64::from(per_second.max(1)));
    least.max(at_rate).min(left.mul_f64(0.75))
}

/// The host, and a listener: there may be several gateways on one host.
fn name_for_operators(addresses: &Addresses) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let Addresses { tcp, ws, grpc, xmpp, xmpp_tls } = addresses;
    let all = [("tcp", tcp), ("ws", ws), ("grpc", grpc), ("xmpp", xmpp), ("xmpp_tls", xmpp_tls)];
    let listener = all.into_iter().find_map(|(kind, at)| Some((kind, (*at)?)));
    listener.map_or(host.clone(), |(kind, at)| format!("{host} ({kind} {at})"))
}

/// How many of the clients have been told to go after this time: evenly over `spread`, the first one at once.
fn due_to_go(clients: usize, spread: Duration, elapsed: Duration) -> usize {
    if elapsed >= spread {
        return clients;
    }
    ((clients as f64 * elapsed.div_duration_f64(spread)) as usize + 1).min(clients)
}

fn follow_lease(publish: watch::Sender<Option<u64>>) -> impl FnMut(Option<HeldLease>) {
    let mut last = None;
    move |held| {
        let lease = held.map(|held| held.lease.0);
        if lease.is_some() && lease != last {
            last = lease;
            ::metrics::counter!(metrics::LEASES).increment(1);
        }
        publish.send_if_modified(|published| std::mem::replace(published, lease) != lease);
    }
}

/// Logs the number of failed sign-ins that were left out, even when no further one follows.
async fn tell_the_rest(rules: Arc<Rules>) {
    loop {
        sleep(TELL_REST).await;
        if let Some(left_out) = rules.throttle.not_told() {
            tracing::warn!(left_out, "more sign-ins failed");
        }
    }
}

/// Reads the key and certificate files in the configuration, and returns what is wrong with them.
pub fn check_files(config: &GatewayConfig) -> Vec<OpenError> {
    let keys = TokenDomains::invalid(config).into_iter().map(OpenError::from);
    let tls = config.tls.as_ref().and_then(|tls| Tls::load(tls).err());
    keys.chain(tls.map(|error| BindError::from(error).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_to_go_evenly_however_few_they_are() {
        let due = |clients, elapsed_ms| due_to_go(clients, Duration::from_secs(2), Duration::from_millis(elapsed_ms));
        assert_eq!([0, 49, 50, 1_949, 1_950, 2_000, 9_000].map(|ms| due(40, ms)), [1, 1, 2, 39, 40, 40, 40]);
        assert_eq!([0, 1_000, 2_000].map(|ms| due(100_000, ms)), [1, 50_001, 100_000]);
        assert_eq!((due(0, 0), due(1, 0)), (0, 1));
        assert_eq!(due_to_go(40, Duration::ZERO, Duration::ZERO), 40, "no time is left");
    }

    #[test]
    fn clients_are_told_to_go_at_the_rate_but_all_of_them_in_time() {
        let seconds = Duration::from_secs;
        let spread = |clients, left| drain_spread(clients, seconds(2), 1_000, seconds(left));
        assert_eq!(spread(0, 60), seconds(2));
        assert_eq!(spread(1_500, 60), seconds(2));
        assert_eq!(spread(30_000, 60), seconds(30));
        assert_eq!(spread(100_000, 60), seconds(45), "three quarters of what is left");
        assert_eq!(spread(100_000, 0), Duration::ZERO);
    }
}
