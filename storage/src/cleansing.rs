//! Takes what was erased from this node's disk: old versions in the timelines' files, snapshots and the log. See
//! docs/adr/0023-user-data.md.
//!
//! A shard is clean up to an entry of its log if nothing is on this disk any more that this entry, or one before it, has removed
//! or overwritten. That is said of one replica: another one of the same shard may be sent old entries again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carillon_proto::{ShardId, ShardKind};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, Serving},
    engine::{DIRECTORY, Engines},
    log::Log,
    shard::{Reader, Shard},
    snapshot::{self, SnapshotFile},
};

/// Time between two looks. A round is followed by a pause as long as itself, so that the disk is there for others at least as long;
/// what is erased during a round waits for the next one.
const INTERVAL: Duration = Duration::from_secs(2);
/// A round begins when nothing more has been erased for this long, or that long after it was due: rounds for a few shards each would
/// write everything as often.
const RESTS: Duration = Duration::from_secs(6);
const AT_LATEST: Duration = Duration::from_secs(600);
/// How long a snapshot and a purge may take.
const PATIENCE: Duration = Duration::from_secs(1800);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How far each replica is clean.
const CLEAN: &str = "clean";
/// The same for directory shards, once the engine is made anew: while this file is there, the next start does that.
const RENEW: &str = "directory.renew";

/// Replicas that have left this node. What they had is in files of others until those are made anew, which is done when somebody asks
/// for what an erasure has left.
const GONE: &str = "gone";

/// By Raft group and id of the replica.
type Upto = BTreeMap<(u64, u64), u64>;

/// What this disk is known to be rid of. Kept in files: a file that is lost costs another round.
pub(crate) struct Clean {
    dir: PathBuf,
    known: Mutex<Known>,
    /// Held while files are written.
    writing: Mutex<()>,
    /// Somebody has asked what is left: replicas that have left this node are to be taken off its disk, too.
    asked: AtomicBool,
}

#[derive(Clone, Default)]
struct Known {
    upto: Upto,
    /// After the next start.
    renewed: Upto,
    gone: BTreeSet<(u64, u64)>,
}

impl Clean {
    /// Call it before the engines are opened. Blocking.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let gone = read(&dir.join(GONE)).into_keys().collect();
        let mut known = Known { upto: read(&dir.join(CLEAN)), renewed: read(&dir.join(RENEW)), gone };
        let renew = dir.join(RENEW);
        if renew.try_exists()? && can_be_made_anew(dir) {
            let directory = dir.join(DIRECTORY);
            if directory.try_exists()? {
                fs::remove_dir_all(directory)?;
            }
            tracing::info!("the directory engine is made anew from snapshots and log, without what was erased");
            for (replica, index) in std::mem::take(&mut known.renewed) {
                advance(&mut known.upto, replica, index);
            }
            write(dir, CLEAN, &known.upto)?;
            fs::remove_file(renew)?;
        }
        let (writing, asked) = (Mutex::default(), AtomicBool::default());
        Ok(Self { dir: dir.to_owned(), known: Mutex::new(known), writing, asked })
    }

    /// Call it before what the replica has is deleted. Blocking.
    pub(crate) fn leaves(&self, shard: ShardId, replica: u64) -> io::Result<()> {
        let _writing = self.writing.lock();
        let mut known = self.known.lock().clone();
        // One of each shard is enough: all that have left are taken off the disk together.
        known.gone.retain(|(group, _)| *group != shard.group());
        known.gone.insert((shard.group(), replica));
        write_gone(&self.dir, &known.gone)?;
        *self.known.lock() = known;
        Ok(())
    }

    /// How many replicas of timelines and of directories have left, of which this disk may have something; and whether it has something
    /// of one until the next start. It will be taken off the disk.
    pub(crate) fn ask_for_gone(&self, hosted: &BTreeSet<(u64, u64)>) -> (u32, u32, bool) {
        let known = self.known.lock();
        let of_kind = |kind| gone(&known.gone).filter(|(shard, _)| shard.kind == kind).count() as u32;
        let (timelines, directories) = (of_kind(ShardKind::Timeline), of_kind(ShardKind::Directory));
        if timelines + directories > 0 {
            self.asked.store(true, Ordering::Release);
        }
        (timelines, directories, known.renewed.keys().any(|replica| !hosted.contains(replica)))
    }

    fn gone(&self) -> Vec<(ShardId, u64)> {
        gone(&self.known.lock().gone).collect()
    }

    pub(crate) fn upto(&self, shard: ShardId, replica: u64) -> u64 {
        self.known.lock().upto.get(&(shard.group(), replica)).copied().unwrap_or(0)
    }

    /// Blocking.
    fn advance(&self, rounds: &[(ShardId, u64, u64)], gone: &[(ShardId, u64)]) -> io::Result<()> {
        let _writing = self.writing.lock();
        // Nobody waits for the disk to read what is known.
        let mut known = self.known.lock().clone();
        for (shard, replica, index) in rounds {
            let of_kind = match shard.kind {
                ShardKind::Directory => &mut known.renewed,
                ShardKind::Timeline => &mut known.upto,
            };
            advance(of_kind, (shard.group(), *replica), *index);
        }
        for (shard, replica) in gone {
            if shard.kind == ShardKind::Directory {
                advance(&mut known.renewed, (shard.group(), *replica), 0);
            }
            known.gone.remove(&(shard.group(), *replica));
        }
        write(&self.dir, CLEAN, &known.upto)?;
        if !known.renewed.is_empty() {
            write(&self.dir, RENEW, &known.renewed)?;
        }
        if !gone.is_empty() {
            write_gone(&self.dir, &known.gone)?;
        }
        *self.known.lock() = known;
        Ok(())
    }

    /// How far the replica is clean after the next start.
    pub(crate) fn coming(&self, shard: ShardId, replica: u64) -> u64 {
        let known = self.known.lock();
        let of = |upto: &Upto| upto.get(&(shard.group(), replica)).copied().unwrap_or(0);
        of(&known.renewed).max(of(&known.upto))
    }
}

/// True if all snapshots of directory shards are sound: with the log they have everything, and nothing else will have it once the
/// engine is gone.
fn can_be_made_anew(dir: &Path) -> bool {
    let check = || -> io::Result<()> {
        for entry in fs::read_dir(dir.join(snapshot::FOLDER))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(DIRECTORY) && name.ends_with(".snapshot") {
                SnapshotFile::open(&dir.join(snapshot::FOLDER).join(name))?.verify()?;
            }
        }
        Ok(())
    };
    match check() {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::error!(%error, "the directory engine can't be made anew, and still has what was erased: a snapshot can't be read");
            false
        }
    }
}

fn advance(upto: &mut Upto, replica: (u64, u64), index: u64) {
    let of_replica = upto.entry(replica).or_default();
    *of_replica = index.max(*of_replica);
}

/// Lines of three numbers. What can't be read is not there.
fn read(path: &Path) -> Upto {
    let text = fs::read_to_string(path).unwrap_or_default();
    let numbers = |line: &str| -> Option<((u64, u64), u64)> {
        let mut numbers = line.split(' ').map(|number| number.parse().ok());
        Some(((numbers.next()??, numbers.next()??), numbers.next()??))
    };
    text.lines().filter_map(numbers).collect()
}

fn write(dir: &Path, name: &str, upto: &Upto) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = File::create(&temporary)?;
    upto.iter().try_for_each(|((group, replica), index)| writeln!(file, "{group} {replica} {index}"))?;
    file.sync_all()?;
    fs::rename(temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn write_gone(dir: &Path, gone: &BTreeSet<(u64, u64)>) -> io::Result<()> {
    write(dir, GONE, &gone.iter().map(|replica| (*replica, 0)).collect())
}

fn gone(replicas: &BTreeSet<(u64, u64)>) -> impl Iterator<Item = (ShardId, u64)> {
    replicas.iter().filter_map(|(group, replica)| Some((ShardId::from_group(*group)?, *replica)))
}

/// Runs as long as the node.
pub(crate) async fn run(serving: Arc<Serving>, engines: Arc<Engines>, log: Arc<Log>, clean: Arc<Clean>) {
    let Some(cluster) = serving.get() else { return };
    let mut erased = Erased::default();
    loop {
        let start = Instant::now();
        let done = match due(cluster, &clean) {
            Ok(due) if erased.rests(&due, start) || due.is_empty() && clean.asked.load(Ordering::Acquire) => {
                erased = Erased::default();
                round(&due, &engines, &log, &clean).await
            }
            other => other.map(|_| 0),
        };
        match done {
            Ok(0) => {}
            Ok(shards) => {
                tracing::info!(shards, seconds = start.elapsed().as_secs(), "what was erased is off this node's disk");
            }
            // Another round begins anew.
            Err(error) => tracing::warn!(%error, "what was erased is still on this node's disk"),
        }
        sleep(start.elapsed().max(INTERVAL)).await;
    }
}

/// Shards of which something was erased, and up to which entry.
type Due = Vec<(Shard, u64)>;

/// Up to which entries shards of this node have erased something that is still on its disk, as of the last look.
#[derive(Default)]
struct Erased {
    upto: Vec<(ShardId, u64)>,
    first: Option<Instant>,
    changed: Option<Instant>,
}

impl Erased {
    /// True if it is time to begin.
    fn rests(&mut self, due: &Due, now: Instant) -> bool {
        self.saw(due.iter().map(|(shard, upto)| (shard.id(), *upto)).collect(), now)
    }

    fn saw(&mut self, upto: Vec<(ShardId, u64)>, now: Instant) -> bool {
        if upto.is_empty() {
            *self = Self::default();
            return false;
        }
        let first = *self.first.get_or_insert(now);
        if self.upto != upto {
            (self.upto, self.changed) = (upto, Some(now));
        }
        self.changed.is_some_and(|changed| now - changed >= RESTS) || now - first >= AT_LATEST
    }
}

/// Up to which entry of its log something was erased in the shard.
pub(crate) fn erased_upto(reader: &Reader) -> io::Result<u64> {
    match reader {
        Reader::Directory(reader) => reader.erased_upto(),
        Reader::Timeline(reader) => reader.erased_upto(),
    }
}

fn due(cluster: &Cluster, clean: &Clean) -> io::Result<Due> {
    let mut due = Due::new();
    for shard in cluster.shards().values() {
        let upto = shard.alarm().hear(format_args!("shard {}", shard.id()), erased_upto(shard.reader()))?;
        if upto > clean.coming(shard.id(), shard.group().replica()) {
            due.push((shard.clone(), upto));
        }
    }
    Ok(due)
}

/// Returns the number of shards that are clean now.
async fn round(due: &Due, engines: &Arc<Engines>, log: &Log, clean: &Arc<Clean>) -> io::Result<usize> {
    let gone = clean.gone();
    let kinds = || due.iter().map(|(shard, _)| shard.id().kind).chain(gone.iter().map(|(shard, _)| shard.kind));
    if kinds().any(|kind| kind == ShardKind::Timeline) {
        let engines = Arc::clone(engines);
        let rewriting = tokio::task::spawn_blocking(move || engines.rewrite_timelines());
        rewriting.await.map_err(io::Error::other)??;
    }
    for (shard, upto) in due {
        purge(shard, *upto).await?;
    }
    log.rewrite().await?;
    let rounds: Vec<_> = due.iter().map(|(shard, upto)| (shard.id(), shard.group().replica(), *upto)).collect();
    let (clean, shards) = (Arc::clone(clean), due.len() + gone.len());
    let advancing = tokio::task::spawn_blocking(move || {
        clean.advance(&rounds, &gone)?;
        clean.asked.store(false, Ordering::Release);
        Ok(())
    });
    advancing.await.map_err(io::Error::other)?.map(|()| shards)
}

/// Makes a snapshot that has this entry, and drops the log up to it.
async fn purge(shard: &Shard, upto: u64) -> io::Result<()> {
    let group = shard.group();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match group.snapshot_upto().filter(|snapshot| *snapshot >= upto) {
            None => group.make_snapshot().await,
            Some(_) if group.log().purged_upto() >= upto => return Ok(()),
            Some(snapshot) => group.purge(snapshot).await,
        }
        if group.is_closed() || Instant::now() >= deadline {
            let why = format!("the log of shard {} still has what was erased", shard.id());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_clean_when_it_was_made_anew_and_a_lost_file_costs_another_round() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path();
        let shard = |kind, index| ShardId { kind, index };
        let (directory, timeline) = (shard(ShardKind::Directory, 1), shard(ShardKind::Timeline, 2));
        fs::create_dir(dir.join(DIRECTORY)).expect("made");
        let clean = Clean::open(dir).expect("opens");
        clean.advance(&[(directory, 1, 7), (timeline, 1, 8)], &[]).expect("writes");
        clean.advance(&[(directory, 1, 5)], &[]).expect("writes");
        assert_eq!([directory, timeline].map(|shard| (clean.upto(shard, 1), clean.coming(shard, 1))), [(0, 7), (8, 8)]);
        assert!(dir.join(DIRECTORY).exists());
        let clean = Clean::open(dir).expect("opens");
        assert_eq!([directory, timeline].map(|shard| clean.upto(shard, 1)), [7, 8]);
        assert_eq!(clean.upto(timeline, 2), 0, "another replica");
        assert!(!dir.join(DIRECTORY).exists() && !dir.join(RENEW).exists());
        fs::create_dir(dir.join(DIRECTORY)).expect("made");
        assert_eq!(Clean::open(dir).expect("opens").upto(directory, 1), 7);
        assert!(dir.join(DIRECTORY).exists());

        // Of an engine whose snapshot is damaged nothing is removed.
        let clean = Clean::open(dir).expect("opens");
        clean.advance(&[(directory, 1, 9)], &[]).expect("writes");
        let snapshot = dir.join(snapshot::FOLDER).join("directory-1.snapshot");
        fs::create_dir(dir.join(snapshot::FOLDER)).expect("made");
        fs::write(&snapshot, b"not one").expect("writes");
        let kept = Clean::open(dir).expect("opens");
        assert_eq!((kept.upto(directory, 1), kept.coming(directory, 1)), (7, 9));
        assert!(dir.join(DIRECTORY).exists());
        fs::remove_file(snapshot).expect("removes");
        assert_eq!(Clean::open(dir).expect("opens").upto(directory, 1), 9);
        assert!(!dir.join(DIRECTORY).exists());
        fs::write(dir.join(CLEAN), b"\xffnot ours").expect("writes");
        assert_eq!(Clean::open(dir).expect("opens").upto(timeline, 1), 0);
    }

    #[test]
    fn a_round_waits_until_nothing_more_is_erased_but_not_for_ever() {
        let (mut erased, start) = (Erased::default(), Instant::now());
        let upto = |upto| vec![(ShardId::REGISTRY, upto)];
        assert!(!erased.saw(upto(1), start));
        assert!(!erased.saw(upto(2), start + RESTS));
        assert!(!erased.saw(upto(2), start + 2 * RESTS - Duration::from_millis(1)));
        assert!(erased.saw(upto(2), start + 2 * RESTS));
        assert!(!erased.saw(Vec::new(), start + 3 * RESTS), "nothing is left");
        assert!(!erased.saw(upto(3), start + 3 * RESTS));
        let changes = (4..).zip((0..).map(|step| start + 3 * RESTS + step * RESTS / 2));
        let begins = changes.skip(1).find(|(at, now)| erased.saw(upto(*at), *now)).map(|(_, now)| now - start);
        assert_eq!(begins, Some(3 * RESTS + AT_LATEST));
    }

    #[test]
    fn what_replicas_that_left_had_is_on_the_disk_until_somebody_asks_and_a_round_and_a_start_have_passed() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path();
        let shard = |kind, index| ShardId { kind, index };
        let (directory, timeline) = (shard(ShardKind::Directory, 1), shard(ShardKind::Timeline, 2));
        fs::create_dir(dir.join(DIRECTORY)).expect("made");
        let hosted = BTreeSet::from([(timeline.group(), 9)]);
        let clean = Clean::open(dir).expect("opens");
        assert_eq!(clean.ask_for_gone(&hosted), (0, 0, false));
        assert!(!clean.asked.load(Ordering::Acquire));
        for (shard, replica) in [(directory, 3), (timeline, 4), (timeline, 4)] {
            clean.leaves(shard, replica).expect("writes");
        }
        let clean = Clean::open(dir).expect("opens");
        assert_eq!(clean.ask_for_gone(&hosted), (1, 1, false));
        assert!(clean.asked.load(Ordering::Acquire));
        clean.leaves(timeline, 5).expect("one that leaves during the round");
        clean.advance(&[], &[(directory, 3), (timeline, 4)]).expect("writes");
        assert_eq!(clean.ask_for_gone(&hosted), (1, 0, true));
        let clean = Clean::open(dir).expect("opens");
        assert!(!dir.join(DIRECTORY).exists());
        assert_eq!(clean.ask_for_gone(&hosted), (1, 0, false));
    }
}
