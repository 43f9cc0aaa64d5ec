//! For the simulation only: the state machines on their real engines, without Raft around them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{
    Level, MediaId, ShardId, ShardKind, ShardMap,
    pb::store::{
        CheckMedia, DirectoryCommand, ForgetReleasedMedia, Placement, RegistryView, Rejected, StorageNode, StoreError,
        SweepCursors, TimelineCommand, directory_command, storage_node::State, store_error::Why,
        store_reply::Result as Outcome, store_request::Op, timeline_command,
    },
};
use prost::Message as _;
use tokio::time::Instant;

use crate::{
    engine::{Caches, Engines},
    machine::{
        ClusterRows, DirectoryMachine, DirectoryReader, DueMedia, EntryCommands, Machine as _, REMOVED_MEDIA,
        Retention, SWEEP_CURSORS, TimelineMachine, TimelineReader, Unread, admit_directory, admit_timeline,
    },
    planner,
    raft::GroupStatus,
    reconcile, ring_slots, shard,
};

pub use crate::reconcile::Next as Step;

/// All shards of a cluster, once: the content that every replica would hold.
pub struct Machines {
    map: ShardMap,
    directories: Vec<(DirectoryMachine, DirectoryReader)>,
    timelines: Vec<(TimelineMachine, TimelineReader)>,
}

impl Machines {
    /// Opens or creates the engines in this folder. Blocking.
    pub fn open(dir: &Path, map: ShardMap) -> io::Result<Self> {
        let mib = 1024 * 1024;
        let caches =
            Caches { directory_bytes: 8 * mib, timeline_bytes: 8 * mib, timeline_files: 64, memtables_bytes: 8 * mib };
        let engines = Engines::open(dir, map, caches).map_err(io::Error::other)?;
        let shards = |kind| map.all().filter(move |shard| shard.kind == kind);
        Ok(Self {
            map,
            directories: shards(ShardKind::Directory)
                .map(|shard| engines.directory(shard))
                .collect::<Result<_, _>>()?,
            timelines: shards(ShardKind::Timeline).map(|shard| engines.timeline(shard)).collect::<Result<_, _>>()?,
        })
    }

    /// Drops all content.
    pub fn clear(&mut self) -> io::Result<()> {
        let nothing = &mut std::iter::empty();
        self.directories.iter_mut().try_for_each(|(machine, _)| machine.restore(nothing, b""))?;
        self.timelines.iter_mut().try_for_each(|(machine, _)| machine.restore(nothing, b""))
    }

    /// The command for the log, or why it must not enter. `None`: a read.
    pub fn check(&self, shard: ShardId, op: &Op) -> Result<Option<Bytes>, Rejected> {
        let place = usize::from(shard.index);
        Ok(match op {
            Op::Timeline(command) => {
                let level = self.timelines[place].1.level();
                Some(admit_timeline(shard, self.map, level, TimelineCommand::clone(command))?)
            }
            Op::Directory(command) => {
                let level = self.directories[place].1.level();
                Some(admit_directory(shard, self.map, level, DirectoryCommand::clone(command))?)
            }
            Op::ReadTimeline(_)
            | Op::ReadHead(_)
            | Op::ReadHeads(_)
            | Op::ReadUser(_)
            | Op::ReadGroup(_)
            | Op::ReadMembers(_)
            | Op::ReadMemberships(_)
            | Op::ReadOutbox(_)
            | Op::ReadConversations(_)
            | Op::ReadMarks(_)
            | Op::ReadMedia(_)
            | Op::ReadHeldMedia(_)
            | Op::ReadScheduled(_)
            | Op::ReadReports(_)
            | Op::ReadReport(_)
            | Op::ListGroups(_)
            | Op::CountAccounts(_)
            | Op::ListAccounts(_)
            | Op::ReadContacts(_)
            | Op::ReadPrivacy(_)
            | Op::ReadAllowed(_)
            | Op::ReadUntold(_)
            | Op::ListSessions(_) => None,
        })
    }

    /// Applies one committed entry. `index` grows from entry to entry of a shard.
    pub fn apply(&mut self, shard: ShardId, index: u64, commands: Vec<Bytes>) -> io::Result<Vec<Outcome>> {
        let entry = [EntryCommands { index, commands }];
        let applied = index.to_be_bytes();
        let machine = usize::from(shard.index);
        let outcomes = match shard.kind {
            ShardKind::Directory => self.directories[machine].0.apply(&entry, &applied)?,
            ShardKind::Timeline => self.timelines[machine].0.apply(&entry, &applied)?,
        };
        Ok(outcomes.into_iter().flatten().collect())
    }

    pub fn read(&self, shard: ShardId, op: &Op) -> io::Result<Outcome> {
        let place = usize::from(shard.index);
        let found = || {
            Ok(match (shard.kind, op) {
                (ShardKind::Timeline, Op::ReadTimeline(op)) => Outcome::TimelineRead(self.timelines[place].1.read(op)?),
                (ShardKind::Timeline, Op::ReadHead(op)) => Outcome::Head(self.timelines[place].1.head(op)?),
                (ShardKind::Timeline, Op::ReadHeads(op)) => Outcome::HeadsRead(self.timelines[place].1.heads(op)?),
                (ShardKind::Timeline, Op::ReadGroup(op)) => Outcome::GroupRead(self.timelines[place].1.group(op)?),
                (ShardKind::Timeline, Op::ReadMembers(op)) => {
                    Outcome::MembersRead(self.timelines[place].1.members(op)?)
                }
                (ShardKind::Timeline, Op::ReadMemberships(op)) => {
                    Outcome::MembershipsRead(self.timelines[place].1.memberships(op)?)
                }
                (ShardKind::Timeline, Op::ReadMedia(op)) => Outcome::MediaRead(self.timelines[place].1.media(op)?),
                (ShardKind::Timeline, Op::ReadHeldMedia(op)) => {
                    Outcome::HeldMediaRead(self.timelines[place].1.held_media(op)?)
                }
                (ShardKind::Timeline, Op::ReadScheduled(op)) => {
                    Outcome::ScheduledRead(self.timelines[place].1.scheduled(op)?)
                }
                (ShardKind::Timeline, Op::ReadReports(op)) => {
                    Outcome::ReportsRead(self.timelines[place].1.reports(op)?)
                }
                (ShardKind::Timeline, Op::ReadReport(op)) => {
                    Outcome::ReportRead(Box::new(self.timelines[place].1.report(op)?))
                }
                (ShardKind::Timeline, Op::ListGroups(op)) => Outcome::GroupList(self.timelines[place].1.groups(op)?),
                (ShardKind::Timeline, Op::ReadOutbox(op)) => Outcome::OutboxRead(self.timelines[place].1.outbox(op)?),
                (ShardKind::Timeline, Op::ReadConversations(op)) => {
                    Outcome::ConversationsRead(self.timelines[place].1.conversations(op)?)
                }
                (ShardKind::Timeline, Op::ReadMarks(op)) => Outcome::MarksRead(self.timelines[place].1.marks(op)?),
                (ShardKind::Directory, Op::ReadUser(op)) => {
                    Outcome::User(self.directories[place].1.user_for(&op.user, op.by.as_ref())?)
                }
                (ShardKind::Directory, Op::ReadContacts(op)) => {
                    Outcome::ContactsRead(self.directories[place].1.contacts(op)?)
                }
                (ShardKind::Directory, Op::ReadPrivacy(op)) => {
                    Outcome::Privacy(self.directories[place].1.read_privacy(op)?)
                }
                (ShardKind::Directory, Op::ReadAllowed(op)) => {
                    Outcome::AllowedRead(self.directories[place].1.read_allowed(op)?)
                }
                (ShardKind::Directory, Op::ReadUntold(op)) => {
                    Outcome::UntoldRead(self.directories[place].1.untold(op)?)
                }
                (ShardKind::Directory, Op::ListAccounts(op)) => {
                    Outcome::AccountList(self.directories[place].1.accounts(op)?)
                }
                (ShardKind::Directory, Op::CountAccounts(op)) => {
                    Outcome::AccountCount(self.directories[place].1.count_accounts(op)?)
                }
                (ShardKind::Directory, Op::ListSessions(op)) => {
                    Outcome::SessionList(self.directories[place].1.sessions(op)?)
                }
                _ => return Err(io::Error::other("the shard has nothing of the kind that was asked for").into()),
            })
        };
        match found() {
            Err(Unread::Rejected(rejected)) => Ok(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })),
            Err(Unread::Engine(error)) => Err(error),
            Ok(outcome) => Ok(outcome),
        }
    }

    /// Commands by which the leader of this shard sweeps: cursors of devices that are gone, remains of ended timelines, files to which nothing
    /// may refer, rows of sessions whose gateways have ended, contents of messages whose time is over, and what contacts of ended accounts are to
    /// be told.
    pub fn due_sweeps(&self, shard: ShardId, ages: Ages) -> io::Result<Vec<Bytes>> {
        let Ages { cursor_ms: cursor_age_ms, file_ms: unreferenced_media_ms, slack_ms } = ages;
        let place = usize::from(shard.index);
        match shard.kind {
            ShardKind::Timeline => {
                let ages = Retention { cursor_age_ms, ..Retention::default() };
                let (cursors, _) = self.timelines[place].1.gone_cursors(&[], &ages, SWEEP_CURSORS)?;
                let sweep = timeline_command::Op::SweepCursors(SweepCursors { cursors });
                let ticks = Retention { slack_ms, ..Retention::default() };
                let expire = self.timelines[place].1.due_messages(&ticks)?;
                let expire = expire.map(|(expire, _)| timeline_command::Op::ExpireMessages(expire));
                let kept = Retention { unreferenced_media_ms, ..ticks };
                let files = due_files(&self.timelines[place].1, &kept)?;
                let garbage = self.timelines[place].1.garbage(SWEEP_CURSORS)?;
                let garbage = garbage.into_iter().map(timeline_command::Op::CollectGarbage);
                let command = |op| TimelineCommand { op: Some(op) }.encode_to_vec().into();
                Ok(std::iter::once(sweep).chain(expire).chain(files).chain(garbage).map(command).collect())
            }
            ShardKind::Directory => {
                let registry = self.directories[usize::from(ShardId::REGISTRY.index)].1.registry().borrow().clone();
                let has_ended = |lease| registry.has_ended(lease);
                let (rows, _) = self.directories[place].1.of_ended(b"", has_ended, SWEEP_CURSORS)?;
                let ended = self.directories[place].1.ended_contacts(SWEEP_CURSORS)?;
                let sessions = rows.into_iter().map(directory_command::Op::DeleteSession);
                let contacts = ended.into_iter().map(directory_command::Op::ChangeContact);
                let command = |op| DirectoryCommand { op: Some(op) }.encode_to_vec().into();
                Ok(sessions.chain(contacts).map(command).collect())
            }
        }
    }

    /// The number of references to the file in this shard.
    pub fn media_references(&self, shard: ShardId, id: &MediaId) -> io::Result<u64> {
        self.timelines[usize::from(shard.index)].1.media_references(id)
    }

    /// The storage nodes and the placement, as they are now.
    pub fn rows(&self) -> Rows {
        let registry = self.directories[usize::from(ShardId::REGISTRY.index)].1.registry().borrow().clone();
        Rows { rows: registry.cluster, version: registry.version }
    }

    /// The current registry, without the storage nodes.
    pub fn registry(&self) -> RegistryView {
        let reader = &self.directories[usize::from(ShardId::REGISTRY.index)].1;
        let state = reader.registry().borrow().clone();
        RegistryView {
            version: state.version,
            ring_version: state.ring_version,
            nodes: state.nodes,
            directory_shards: self.map.directory.into(),
            timeline_shards: self.map.timeline.into(),
            level: state.cluster.level.0,
            domains: state.domains.all(),
            ..RegistryView::default()
        }
    }
}

/// The times for which things are kept, by the clock of a shard; 0: for ever.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Cursors of devices that are gone.
    pub cursor_ms: u64,
    /// Files to which nothing refers.
    pub file_ms: u64,
    /// The time between two ticks of the clock.
    pub slack_ms: u64,
}

/// Commands about files to which nothing may refer, and about counts of files to which nothing in the shard refers.
fn due_files(reader: &TimelineReader, kept: &Retention) -> io::Result<Vec<timeline_command::Op>> {
    let ids: Vec<Bytes> = reader
        .due_media(&[], kept, REMOVED_MEDIA)?
        .0
        .into_iter()
        .filter_map(|due| match due {
            DueMedia::Checked(id) => Some(id),
            DueMedia::Removed(_) => None,
        })
        .collect();
    let files = reader.released_media(kept, REMOVED_MEDIA)?;
    let check = (!ids.is_empty()).then(|| timeline_command::Op::CheckMedia(CheckMedia { ids }));
    let forget = (!files.is_empty()).then(|| timeline_command::Op::ForgetReleasedMedia(ForgetReleasedMedia { files }));
    Ok(check.into_iter().chain(forget).collect())
}

/// What the registry's leader knows of slots of the ring.
#[derive(Debug)]
pub struct RingSlots {
    watch: ring_slots::Watch,
    begins: Instant,
}

impl Default for RingSlots {
    fn default() -> Self {
        Self { watch: ring_slots::Watch::default(), begins: Instant::now() }
    }
}

impl RingSlots {
    /// The next change of slots after this time, if one is due. `leads`: the registry has a leader, the same as at the last look.
    pub fn due(&mut self, after: Duration, leads: bool, machines: &Machines) -> Option<directory_command::Op> {
        let registry = machines.directories[usize::from(ShardId::REGISTRY.index)].1.registry();
        self.watch.tick(self.begins + after, leads, &registry.borrow())
    }
}

/// The storage nodes and the placement at one moment.
#[derive(Clone)]
pub struct Rows {
    rows: ClusterRows,
    version: u64,
}

/// What the registry's leader knows of the leaders of shards.
#[derive(Debug, Clone, Default)]
pub struct Leads(planner::Leads);

impl Leads {
    /// `rates`: the work a second of each shard that is known. `slow`: nodes that can't keep up. `rests`: a lead has just moved.
    pub fn new(rates: BTreeMap<ShardId, u64>, slow: BTreeSet<u64>, rests: bool) -> Self {
        Self(planner::Leads { rates, slow, rests, waits: false })
    }
}

/// What the leader of a shard knows about the members.
#[derive(Debug)]
pub struct Known {
    /// Its own replica.
    pub own: u64,
    pub voters: BTreeSet<u64>,
    /// All replicas, and how many entries each is known to have.
    pub replicas: BTreeMap<u64, u64>,
    /// The entries of its own log.
    pub last: u64,
    /// A change of the voters is half done.
    pub in_change: bool,
    /// Members that do not answer.
    pub silent: BTreeSet<u64>,
}

impl Rows {
    /// False below the level from which on members change.
    pub fn may_change(&self) -> bool {
        self.rows.has_rows() && self.rows.level >= Level::GROWTH
    }

    pub fn nodes(&self) -> impl Iterator<Item = &StorageNode> {
        self.rows.nodes()
    }

    pub fn placement(&self, shard: ShardId) -> Option<&Placement> {
        self.rows.placement().get(&shard)
    }

    /// The node of this replica.
    pub fn node_of(&self, shard: ShardId, replica: u64) -> Option<u64> {
        self.rows.node_of(shard, replica)
    }

    /// What the registry's leader changes next.
    pub fn plan(&self, leads: &Leads) -> Option<directory_command::Op> {
        self.may_change().then(|| planner::next(&self.rows, &leads.0)).flatten()
    }

    /// What the leader of a shard does next.
    pub fn step(&self, shard: ShardId, known: &Known) -> Step {
        let index = |entries: u64| entries.checked_sub(1);
        let status = GroupStatus {
            leads: true,
            term: 1,
            last_log: index(known.last),
            applied: index(known.last),
            committed: index(known.last),
            matched: known.replicas.iter().map(|(replica, entries)| (*replica, index(*entries))).collect(),
            voters: known.voters.iter().copied().collect(),
            replicas: known.replicas.keys().copied().collect(),
            in_change: known.in_change,
            silent: known.silent.clone(),
            ..GroupStatus::default()
        };
        let has_all = |replica| status.matched.get(&replica).copied().flatten() >= status.last_log;
        reconcile::step(shard, &self.rows, self.version, &status, known.own, has_all)
    }

    /// Nothing comes, leaves or is to be changed.
    pub fn is_settled(&self, leads: &Leads) -> bool {
        let mut replicas = self.rows.placement().values().flat_map(|placement| &placement.replicas);
        self.plan(leads).is_none()
            && self.rows.nodes().all(|node| node.state() == State::Active)
            && !replicas.any(|replica| replica.joining || replica.leaving)
    }
}

/// The lanes of one stream: see `StoreRequest.lane`.
#[derive(Default)]
pub struct Lanes(shard::Lanes);

/// The lane of one write.
#[derive(Debug, Clone)]
pub struct Lane(shard::Lane);

impl Lanes {
    pub fn lane(&mut self, shard: ShardId, number: u64) -> Lane {
        Lane(self.0.lane(shard, number))
    }
}

impl Lane {
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    pub fn close(&self) {
        self.0.close();
    }
}
