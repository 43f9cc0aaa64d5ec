//! Makes a cluster, once and on an explicit command, and finds the cluster that a node belongs to. See
//! docs/architecture.md, "The cluster".

mod identities;
mod peers;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    Level, pause,
    pb::raft::{Cluster, Identity, Member},
    peer::{PeerSecurity, cause},
    waiting::Waiting,
};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Code;

use self::identities::{Step, begun, check_own, decide};
use crate::{
    addresses::AddressBook,
    cluster::Serving,
    identity::{DataDir, IdentityError},
    machine::{ClusterRows, FOUNDERS},
};

/// The node that makes the cluster: it assigns the other nodes their places, and initialises the Raft groups.
pub(crate) const FOUNDER: u64 = 1;
const PAUSE: Duration = Duration::from_millis(300);

/// This node's identity, and the operations that change it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bootstrap {
    inner: Arc<Inner>,
}

struct Inner {
    dir: DataDir,
    /// The identity as written in the file.
    identity: Mutex<Identity>,
    /// Held while the file is written, which may take as long as the disk does.
    writing: Mutex<()>,
    assigned: watch::Sender<Option<Identity>>,
    /// Held while a cluster is being made here.
    founding: tokio::sync::Mutex<()>,
    security: PeerSecurity,
    /// host:port of this node.
    own: String,
    /// Addresses from the configuration: the nodes to contact at the start.
    seeds: Vec<String>,
    directory_shards: u16,
    timeline_shards: u16,
    zone: String,
    known: Level,
    book: AddressBook,
    serving: Arc<Serving>,
    /// Nodes that have been told this node's address since the process started.
    met: Mutex<HashSet<u64>>,
}

/// Why a node refuses to start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the identity names no member with its own node number: the file is not this node's")]
    NoOwnMember,
    #[error(
        "the cluster of this data folder is at level {level}, but this program reads levels up to {known}: run the release \
         that wrote it, or a newer one"
    )]
    TooOld { level: Level, known: Level },
}

/// Why no cluster is made.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    #[error("{0}")]
    Members(String),
    #[error("the cluster {0} has been made already: a second one would not know what is in it")]
    Exists(String),
    #[error("{0}; all members have to be there: do it again")]
    NotAll(String),
    #[error(transparent)]
    Disk(Box<dyn std::error::Error + Send + Sync>),
}

pub(crate) struct Settings {
    pub(crate) security: PeerSecurity,
    pub(crate) own: String,
    pub(crate) members: Vec<String>,
    pub(crate) directory_shards: u16,
    pub(crate) timeline_shards: u16,
    pub(crate) zone: String,
    pub(crate) known: Level,
    pub(crate) book: AddressBook,
    pub(crate) serving: Arc<Serving>,
}

impl Bootstrap {
    pub(crate) fn new(dir: DataDir, identity: Identity, settings: Settings) -> Result<Self, BootstrapError> {
        let Settings { security, own, members, directory_shards, timeline_shards, zone, known, book, serving } =
            settings;
        if Level(identity.level) > known {
            return Err(BootstrapError::TooOld { level: Level(identity.level), known });
        }
        if identity.cluster.is_some() {
            check_own(&identity)?;
        }
        let assigned = watch::Sender::new(identity.cluster.is_some().then(|| identity.clone()));
        let inner = Inner {
            dir,
            identity: Mutex::new(identity),
            writing: Mutex::default(),
            assigned,
            founding: tokio::sync::Mutex::default(),
            security,
            own,
            seeds: members,
            directory_shards,
            timeline_shards,
            zone,
            known,
            book,
            serving,
            met: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn dir(&self) -> &DataDir {
        &self.inner.dir
    }

    /// host:port of this node.
    pub(crate) fn own(&self) -> &str {
        &self.inner.own
    }

    /// The highest level that this program reads.
    pub(crate) fn reads(&self) -> Level {
        self.inner.known
    }

    /// The identity, once this node belongs to a cluster.
    pub(crate) fn assigned(&self) -> Option<Identity> {
        self.inner.assigned.borrow().clone()
    }

    /// Waits until this node has its place in a cluster. `tell` is called with the reason for each wait.
    pub(crate) async fn settle(&self, tell: impl Fn(&str)) -> Result<Identity, BootstrapError> {
        let mut assigned = self.inner.assigned.subscribe();
        let mut waiting = Waiting::new("a place in a cluster, as the disk of this storage node is empty");
        loop {
            if let Some(identity) = assigned.borrow_and_update().clone() {
                waiting.over();
                return Ok(identity);
            }
            let (own, disk) = (&self.inner.own, self.identity().disk);
            let (answers, silent) = self.ask_all(&self.inner.seeds).await;
            match decide(own, &disk, answers) {
                Step::Join { cluster, node, level } => {
                    self.assign(cluster, node, level).await?;
                }
                Step::Wait(lack) => {
                    let mut cause = lack.to_string();
                    for (address, why) in silent {
                        cause.push_str(&format!("; no answer from {address}: {why}"));
                    }
                    tell(&format!("the disk is empty and belongs to no cluster: {cause}"));
                    waiting.still(own, cause);
                    // Ends early when the founder has called.
                    let _ = timeout(pause::around(PAUSE), assigned.changed()).await;
                }
            }
        }
    }

    /// Makes a cluster of these nodes, which include this one. If `members` is empty, the nodes in the configuration
    /// are used, or this one alone. An interrupted attempt is continued; a finished one is refused.
    pub(crate) async fn found(&self, members: Vec<String>) -> Result<Cluster, FoundError> {
        let _one = self.inner.founding.lock().await;
        let own = &self.inner.own;
        let mut members = if members.is_empty() { self.inner.seeds.clone() } else { members };
        if members.is_empty() {
            members.push(own.clone());
        }
        let Some(place) = members.iter().position(|member| member == own) else {
            return Err(FoundError::Members(format!(
                "{own}, which is asked to make the cluster, is not one of its members"
            )));
        };
        // This node becomes the founder, which initialises the Raft groups.
        members[..=place].rotate_right(1);
        if members.len() >= FOUNDERS as usize || members.iter().collect::<HashSet<_>>().len() < members.len() {
            return Err(FoundError::Members(format!("a cluster has 1 to {} members, each once", FOUNDERS - 1)));
        }
        let (answers, silent) = self.ask_all(&members).await;
        if let Some((address, why)) = silent.first() {
            return Err(FoundError::NotAll(format!("storage node {address} does not answer: {why}")));
        }
        let answers: Vec<(String, Identity)> =
            answers.into_iter().filter_map(|(address, answer)| Some((address, answer?))).collect();
        let mut disks = HashMap::new();
        for (address, identity) in &answers {
            if let Some(other) = disks.insert(&identity.disk, address) {
                return Err(FoundError::Members(format!("{other} and {address} are the same storage node")));
            }
        }
        let disk = self.identity().disk;
        let cluster = match begun(&disk, &answers) {
            // All or some of the disks know the cluster.
            Some(cluster) if answers.iter().all(|(_, answer)| answer.cluster.is_some()) => {
                return Err(FoundError::Exists(cluster.id));
            }
            Some(cluster) => {
                // Nodes are matched by disk id: their addresses may have changed.
                let at = |(address, answer): &(String, Identity)| {
                    let member = cluster.members.iter().find(|member| member.disk == answer.disk)?;
                    Some(Member { address: address.clone(), ..member.clone() })
                };
                let members: Option<Vec<Member>> = answers.iter().map(at).collect();
                let Some(members) = members else { return Err(FoundError::Exists(cluster.id)) };
                Cluster { members, ..cluster }
            }
            None => match answers.iter().find_map(|(_, answer)| answer.cluster.as_ref()) {
                Some(other) => return Err(FoundError::Exists(other.id.clone())),
                None => self.make(answers),
            },
        };
        // In an order that is the same on all nodes: of several clusters that are made at once, one gets the first
        // member, and no other gets any. This node is the last one; after a crash before that, the others know its
        // disk.
        let mut others: Vec<&Member> = cluster.members.iter().filter(|member| member.address != *own).collect();
        others.sort_by_key(|member| &member.address);
        for member in others {
            if let Err(status) = self.tell(member, &cluster).await {
                let why = cause(&status);
                return Err(FoundError::NotAll(format!(
                    "storage node {} did not take its place: {why}",
                    member.address
                )));
            }
        }
        let node = cluster.members.iter().find(|member| member.disk == disk).map_or(0, |member| member.node);
        let assigned =
            self.assign(cluster.clone(), node, 0).await.map_err(|error| FoundError::Disk(Box::new(error)))?;
        match assigned.cluster {
            // Meanwhile another node has made a cluster with this one as a member.
            Some(other) if other.id != cluster.id => Err(FoundError::Exists(other.id)),
            _ => Ok(cluster),
        }
    }

    /// Assigns all other members their places, until each has accepted or refused.
    pub(crate) async fn tell_others(&self, cluster: Cluster) {
        let mut left: Vec<Member> =
            cluster.members.iter().filter(|member| member.address != self.inner.own).cloned().collect();
        while !left.is_empty() {
            let mut again = Vec::new();
            for member in left {
                if let Err(status) = self.tell(&member, &cluster).await {
                    if status.code() == Code::FailedPrecondition {
                        tracing::error!(address = %member.address, cause = cause(&status), "a storage node refuses its place");
                    } else {
                        again.push(member);
                    }
                }
            }
            left = again;
            sleep(PAUSE).await;
        }
    }

    fn make(&self, answers: Vec<(String, Identity)>) -> Cluster {
        let id: [u8; 16] = rand::rng().random();
        let level = answers.iter().map(|(_, identity)| identity.reads_level).min().unwrap_or_default();
        let members = answers.into_iter().zip(FOUNDER..).map(|((address, identity), node)| Member {
            node,
            address,
            disk: identity.disk,
            registry_replica: 0,
        });
        Cluster {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            directory_shards: self.inner.directory_shards.into(),
            timeline_shards: self.inner.timeline_shards.into(),
            members: members.collect(),
            level,
        }
    }

    /// Assigns this node its place, if it has none. `level`: of the cluster that it is added to; 0: it is being made. Returns the
    /// identity that the node has then.
    async fn assign(&self, cluster: Cluster, node: u64, level: u32) -> Result<Identity, BootstrapError> {
        let known = self.inner.known;
        if Level(level) > known {
            return Err(BootstrapError::TooOld { level: Level(level), known });
        }
        let assigned = self.rewrite(move |identity| {
            let assigned = Identity { cluster: Some(cluster), node, level, ..identity.clone() };
            check_own(&assigned)?;
            Ok::<_, BootstrapError>(if identity.cluster.is_none() { assigned } else { identity })
        });
        let identity = assigned.await?;
        let news = self.inner.assigned.send_if_modified(|assigned| {
            let news = assigned.is_none();
            *assigned = Some(identity.clone());
            news
        });
        if news {
            tracing::info!(node = identity.node, "this node has its place in the cluster");
        }
        Ok(identity)
    }

    /// Writes the members (without addresses) and the level to the identity file. Does nothing below level 1, because a
    /// start of such a cluster still needs the addresses, and for a node that has left the cluster.
    pub(crate) async fn remember(&self, rows: ClusterRows) -> Result<(), IdentityError> {
        if rows.level < Level::CLUSTER || rows.node(self.identity().node).is_none() {
            return Ok(());
        }
        let remembered = self.rewrite(move |mut identity| {
            let members = rows.members().into_iter().map(|member| Member { address: String::new(), ..member });
            identity.cluster = identity.cluster.map(|cluster| Cluster { members: members.collect(), ..cluster });
            identity.level = identity.level.max(rows.level.0);
            Ok::<_, IdentityError>(identity)
        });
        remembered.await.map(drop)
    }

    /// Notes that the timelines have the new epochs that a restored folder needs.
    pub(crate) async fn epochs_are_new(&self) -> Result<(), IdentityError> {
        self.rewrite(|identity| Ok::<_, IdentityError>(Identity { put_back: false, ..identity })).await.map(drop)
    }

    fn identity(&self) -> Identity {
        self.inner.identity.lock().clone()
    }

    /// Writes a changed identity, which is on disk when this returns. One change at a time.
    async fn rewrite<E: From<IdentityError> + Send + 'static>(
        &self,
        change: impl FnOnce(Identity) -> Result<Identity, E> + Send + 'static,
    ) -> Result<Identity, E> {
        let this = self.clone();
        let rewriting = tokio::task::spawn_blocking(move || {
            let _one = this.inner.writing.lock();
            let before = this.identity();
            let wanted = change(before.clone())?;
            if wanted == before {
                return Ok(before);
            }
            let written = this.inner.dir.write(&wanted)?;
            *this.inner.identity.lock() = written.clone();
            Ok(written)
        });
        match rewriting.await {
            Ok(written) => written,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process is ending, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
