//! The router role: opened, run and drained.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use carillon_media::Media;
use carillon_proto::{
    Readiness, Ready, Woken,
    lease::{HeldLease, LeaseHolder, give_up},
    pb::store::NodeKind,
    peer::{PeerError, PeerSecurity, Tier},
    queues,
    tasks::Tasks,
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, LastMade, PutOut, Watching, end_inboxes},
    census::Census,
    companions::Companions,
    config::{InvalidConfig, RouterConfig},
    followers::Followers,
    gateway_links::GatewayLinks,
    link::LinkContext,
    metrics,
    owner::{Owner, OwnerConfig},
    partition::{ANSWERS, INPUTS, Mailbox, PARTITIONS, Partition, Partitions},
    peers::{HINTS, Peers},
    registry::RegistryReader,
    reply::InFlight,
    server::Services,
    store::StoreActor,
    teller::{TELLINGS, Teller, TellingContext},
    topology::Topology,
    workers::{Nudges, Workers},
};

/// A router: its listener is bound from `open` on, and answers from `run` on.
pub struct Router {
    address: SocketAddr,
    here: Arc<str>,
    drain: Duration,
    registry: RegistryReader,
    topology: watch::Receiver<Arc<Topology>>,
    lease: watch::Receiver<Option<HeldLease>>,
    readiness: watch::Sender<Readiness>,
    in_flight: InFlight,
    /// Ends the renewal of the lease.
    keeper: Mutex<Option<Tasks>>,
    closing: CancellationToken,
    /// Taken by `run`.
    parts: Mutex<Option<NotStarted>>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error("router can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Security(#[from] PeerError),
}

/// The parts that `run` starts.
struct NotStarted {
    listener: TcpListener,
    services: Services,
    store: StoreActor,
    partitions: Vec<Partition>,
    peers: Peers,
    workers: Workers,
    teller: Teller,
    holder: LeaseHolder,
    held: watch::Sender<Option<HeldLease>>,
    publish: watch::Sender<Arc<Topology>>,
    security: PeerSecurity,
    census: Census,
}

impl Router {
    /// Binds the listener; sends nothing yet.
    pub async fn open(config: RouterConfig, security: PeerSecurity) -> Result<Self, OpenError> {
        Self::open_with_media(config, security, None).await
    }

    /// `media`: where files are kept, so that those that nobody needs can be removed, and moderators get those that were reported.
    pub async fn open_with_media(
        config: RouterConfig,
        security: PeerSecurity,
        media: Option<Media>,
    ) -> Result<Self, OpenError> {
        config.validate()?;
        let security = security.of_tier(Tier::Router)?;
        let listen = |source| OpenError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let here: Arc<str> =
            if config.advertise.is_empty() { address.to_string().into() } else { config.advertise.as_str().into() };

        let (publish, topology) = watch::channel(Arc::new(Topology::unknown(&here)));
        let (held, lease) = watch::channel(None);
        let registry = RegistryReader::new(&config.storage, security.clone(), topology.clone());
        let holder = LeaseHolder {
            registry: registry.client.clone(),
            kind: NodeKind::Router,
            address: here.to_string(),
            name: String::new(),
            length: config.lease(),
            waits_for: "a storage node that registers this router",
        };

        let (to_answers, answers): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::channel(ANSWERS)).unzip();
        let (to_inputs, inputs): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::channel(INPUTS)).unzip();
        to_answers.iter().for_each(|answers| queues::watch("router_answers", answers));
        to_inputs.iter().for_each(|inputs| queues::watch("router_inputs", inputs));
        let (to_tellings, tellings) = mpsc::channel(TELLINGS);
        queues::watch("router_tellings", &to_tellings);
        let (store, actor) =
            StoreActor::new(topology.clone(), to_answers, security.clone(), config.shard_writes, rand::random());
        let links = GatewayLinks::default();
        let (census, followers, nudges) = (Census::new(), Followers::default(), Nudges::default());
        let peers = Peers::new(HINTS);
        let to_mailbox = |inputs| Mailbox { inputs, missed: Arc::default() };
        let each: Vec<Mailbox> = to_inputs.into_iter().map(to_mailbox).collect();
        let missed: Vec<_> = each.iter().map(|mailbox| Arc::clone(&mailbox.missed)).collect();
        let mailboxes = Partitions::new(each);
        let owner = OwnerConfig {
            accounts: config.directory_entries.div_ceil(PARTITIONS),
            cursor_pause: Duration::from_millis(config.cursor_flush_ms.into()),
            unknown_recipient: config.unknown_recipient,
            max_devices_per_user: config.max_devices_per_user,
            companions: Companions::default(),
            followers: followers.clone(),
            nudges: nudges.clone(),
            head_check: Duration::from_millis(config.head_check_ms.into()),
        };
        let inputs = inputs.into_iter().zip(missed);
        let partitions =
            answers.into_iter().zip(inputs).enumerate().map(|(index, (answers, (inputs, missed)))| Partition {
                index,
                owner: Owner::new(Arc::clone(&topology.borrow()), owner.clone(), Instant::now()),
                inputs: Woken::new(inputs),
                missed: Woken::new(missed),
                answers: Woken::new(answers),
                topology: topology.clone(),
                store: store.clone(),
                links: links.clone(),
                peers: peers.clone(),
                partitions: mailboxes.clone(),
                census: census.clone(),
                tellings: to_tellings.clone(),
            });
        let partitions = partitions.collect();

        let in_flight = InFlight::default();
        let closing = CancellationToken::new();
        let (admins_links, admins_partitions, admins_peers) = (links.clone(), mailboxes.clone(), peers.clone());
        let links_peers = peers.clone();
        let workers = Workers {
            topology: topology.clone(),
            store: store.clone(),
            peers: peers.clone(),
            partitions: mailboxes.clone(),
            nudges: nudges.clone(),
            deadline: config.send_deadline(),
            files: media.as_ref().map(|media| media.files.clone()),
        };
        let telling = TellingContext {
            topology: topology.clone(),
            store: store.clone(),
            peers: peers.clone(),
            partitions: mailboxes.clone(),
            deadline: config.send_deadline(),
        };
        let services = Services {
            context: LinkContext {
                links,
                partitions: mailboxes,
                peers: links_peers,
                topology: topology.clone(),
                lease: lease.clone(),
                load: census.subscribe(),
                followers,
                in_flight: in_flight.clone(),
                longest: config.send_deadline(),
                requests_bound: config.link_requests,
                pushes_bound: config.link_pushes,
            },
            registry: registry.client.clone(),
            topology: topology.clone(),
            admin: Admin {
                store,
                registry: registry.clone(),
                topology: topology.clone(),
                deadline: config.send_deadline(),
                put_out: PutOut { links: admins_links, partitions: admins_partitions, peers: admins_peers },
                made: LastMade::default(),
                nudges,
                security: security.clone(),
                media: media.map(|media| Arc::new(media.config)),
                watching: Watching::new(closing.clone()),
            },
            security: security.clone(),
            here: Arc::clone(&here),
            closing: closing.clone(),
        };
        let parts = NotStarted {
            listener,
            services,
            store: actor,
            partitions,
            peers,
            workers,
            teller: Teller { tellings, telling },
            holder,
            held,
            publish,
            security,
            census,
        };
        Ok(Self {
            address,
            here,
            drain: Duration::from_millis(config.drain_ms.into()),
            registry,
            topology,
            lease,
            readiness: watch::channel(Readiness::NotReady("not started".to_owned())).0,
            in_flight,
            keeper: Mutex::new(None),
            closing,
            parts: Mutex::new(Some(parts)),
        })
    }

    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn ready(&self) -> Ready {
        self.readiness.subscribe()
    }

    /// Starts everything. A second call does nothing.
    pub fn run(&self, tasks: &Tasks) {
        let Some(parts) = self.parts.lock().take() else { return };
        let NotStarted {
            listener,
            services,
            store,
            partitions,
            peers,
            workers,
            teller,
            holder,
            held,
            publish,
            security,
            census,
        } = parts;
        tasks.spawn("router_census", census.tell(services.context.links.clone()));
        tasks.spawn("router_registry_watch", self.registry.clone().watch(publish));
        tasks.spawn_critical("router_store", store.run(tasks.clone()));
        for partition in partitions {
            tasks.spawn_critical("router_partition", partition.run());
        }
        let follow = peers.follow(self.topology.clone(), self.lease.clone(), security, tasks.child());
        tasks.spawn("router_peers", follow);
        tasks.spawn_critical("router_workers", workers.run());
        tasks.spawn_critical("router_teller", teller.run());
        tasks.spawn("router_end_inboxes", end_inboxes(services.admin.clone()));
        let group = tasks.child();
        group.spawn(
            "router_lease",
            holder.run(move |lease| {
                metrics::lease_held(lease.is_some());
                held.send_replace(lease);
            }),
        );
        *self.keeper.lock() = Some(group);
        let readiness = watch_readiness(
            Arc::clone(&self.here),
            self.topology.clone(),
            self.lease.clone(),
            self.readiness.clone(),
            self.closing.clone(),
        );
        tasks.spawn("router_readiness", readiness);
        let (closing, stopping) = (self.closing.clone(), tasks.clone());
        tasks.spawn_graceful("router_listener", async move {
            let serve = services.serve(listener, stopping.clone());
            let stop = async {
                stopping.stopping().await;
                closing.cancel();
                // Connections that do not end by themselves are dropped.
                time::sleep(Duration::from_secs(1)).await;
            };
            tokio::select! {
                () = serve => {}
                () = stop => {}
            }
        });
    }

    /// Leaves the ring, then waits until requests in flight are done and the gateways have moved to other routers, at
    /// most for the configured time. The tasks run until their group is stopped.
    pub async fn drain(&self) {
        let deadline = Instant::now() + self.drain;
        self.readiness.send_replace(Readiness::Draining);
        // Without renewals the lease still covers incoming requests until it runs out.
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.stop();
        }
        let held = *self.lease.borrow();
        if let Some(held) = held {
            let given_back = give_up(&self.registry.client, held.lease, self.drain / 2).await;
            let mut topology = self.topology.clone();
            let left = topology.wait_for(|topology| !topology.view.nodes.iter().any(|node| node.lease == held.lease.0));
            if time::timeout_at(deadline, left).await.is_err() {
                if given_back && self.registry.is_watching() {
                    tracing::warn!("the ring still has this router, which stops nevertheless");
                } else {
                    tracing::info!(
                        "no storage node says that the ring is without this router: they may be stopping, too"
                    );
                }
            }
        }
        while self.in_flight.count() > 0 && Instant::now() < deadline {
            time::sleep(Duration::from_millis(5)).await;
        }
        self.closing.cancel();
    }
}

async fn watch_readiness(
    here: Arc<str>,
    mut topology: watch::Receiver<Arc<Topology>>,
    mut lease: watch::Receiver<Option<HeldLease>>,
    readiness: watch::Sender<Readiness>,
    closing: CancellationToken,
) {
    loop {
        let known = topology.borrow_and_update().is_known();
        let held = *lease.borrow_and_update();
        let listed = topology.borrow().ring.routers().iter().any(|router| *router.address == *here);
        let now = match held {
            _ if !known => Readiness::NotReady("waiting for the registry of the storage nodes".to_owned()),
            None => Readiness::NotReady("waiting for a lease".to_owned()),
            Some(_) if !listed => Readiness::NotReady("waiting to be in the ring".to_owned()),
            Some(_) => Readiness::Ready,
        };
        readiness.send_if_modified(|before| before.change(now));
        tokio::select! {
            () = closing.cancelled() => return,
            changed = topology.changed() => if changed.is_err() { return },
            changed = lease.changed() => if changed.is_err() {
                // The lease is no longer renewed: nothing more will change.
                return;
            },
        }
    }
}
