//! The disks: may be written, have space, are of a suitable kind, and flush quickly; whose data they hold.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use carillon_storage::{Folder, Membership, disk_space, look};
use rustix::{
    fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open, statfs},
    io::Errno,
};

use super::{
    process::{Node, locked_by, name_of},
    report::Check,
};
use crate::{Config, Role};

const MIB: u64 = 1 << 20;
/// Flushes that are measured, and for how long at most.
const FLUSHES: usize = 25;
const MEASURE: Duration = Duration::from_millis(1_500);
/// A record of a log with few messages.
const RECORD: [u8; 4096] = [0x5a; 4096];
/// Half of the flushes should be quicker: a message waits for two of them, one after the other, and in each of the three nodes.
const SLOW: Duration = Duration::from_millis(25);
/// A storage node whose flushes take this long gives its leads away.
const TOO_SLOW: Duration = Duration::from_millis(400);
/// Not measured with less space: a node may need it.
const LEAST_FREE: u64 = 16 * MIB;

/// Kinds of file systems by the magic number of statfs(2).
const FILE_SYSTEMS: [(u32, &str, Suits); 14] = [
    (0xef53, "ext4", Suits::Well),
    (0x5846_5342, "xfs", Suits::Well),
    (0x9123_683e, "btrfs", Suits::Well),
    (0x2fc1_2fc1, "zfs", Suits::Well),
    (0x0102_1994, "tmpfs", Suits::Forgets),
    (0x8584_58f6, "ramfs", Suits::Forgets),
    (0x794c_7630, "overlayfs", Suits::Container),
    (0x6969, "NFS", Suits::Remote),
    (0xff53_4d42, "CIFS", Suits::Remote),
    (0xfe53_4d42, "SMB", Suits::Remote),
    (0x00c3_6400, "CephFS", Suits::Remote),
    (0x0102_1997, "9p", Suits::Remote),
    (0x6573_5546, "FUSE", Suits::Remote),
    (0xf15f, "ecryptfs", Suits::Remote),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suits {
    Well,
    /// Its content is gone after a restart of the machine.
    Forgets,
    /// The layer of a container, which ends with the container.
    Container,
    /// Locks, flushes and errors are those of another program.
    Remote,
}

pub(super) fn examine(check: &mut Check<'_>, config: &Config, roles: &[Role], node: &Node) {
    let is_storage = roles.contains(&Role::Storage);
    if is_storage {
        let path = &config.storage.data_dir;
        let shown = format!("storage.data_dir {}", path.display());
        if let Some(there) = usable(check, &shown, path) {
            let is_disk = file_system(check, &shown, &there);
            let has_space = space(check, &shown, &there, config);
            if is_disk && has_space {
                flushes(check, &shown, &there, node);
            }
            if path.exists() {
                content(check, &shown, path);
                owner(check, &shown, path, node);
            }
        }
    }
    // In the other folder a process with all roles makes its secrets; all others only read there.
    if crate::running::is_whole(roles) {
        let path = &config.data_dir;
        let shown = format!("data_dir {}", path.display());
        if usable(check, &shown, path).is_some() && path.exists() {
            check.ok(format!("{shown} may be written"));
        }
    } else if !is_storage {
        check.ok("nothing is written to a disk here");
    }
}

/// The folder, or the one in which it would be made. `None` if it can't be used, which is reported.
fn usable(check: &mut Check<'_>, shown: &str, path: &Path) -> Option<PathBuf> {
    let path = if path.is_absolute() { path.to_owned() } else { std::env::current_dir().ok()?.join(path) };
    let there = path.ancestors().find(|path| path.exists())?.to_owned();
    let is_there = there == path;
    if !there.is_dir() {
        check.fault(format!("{shown} can't be used: {} is no folder", there.display()), "name another folder");
        return None;
    }
    // The rights of this program as it runs, and whether the file system is mounted to be read only.
    match accessat(CWD, &there, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) if is_there => {}
        Ok(()) => check.note(format!("{shown} does not exist yet: the node makes it in {}", there.display())),
        Err(error) => {
            let why = io::Error::from(error);
            let remedy = "start the doctor as the user of the node; if it is that user, give it the folder";
            check.fault(format!("{shown} can't be used: {} is not writable: {why}", there.display()), remedy);
            return None;
        }
    }
    Some(there)
}

/// False if it is none that keeps what was flushed.
fn file_system(check: &mut Check<'_>, shown: &str, there: &Path) -> bool {
    let known = match statfs(there) {
        // Only 32 bits are meant, which may have been sign-extended.
        Ok(found) => {
            let magic = (found.f_type as u64 & u64::from(u32::MAX)) as u32;
            let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
            known.ok_or_else(|| format!("its kind {magic:#x} is not known to this program"))
        }
        Err(error) => Err(io::Error::from(error).to_string()),
    };
    let (name, suits) = match known {
        Ok((_, name, suits)) => (name, *suits),
        Err(why) => {
            check.not_checked(format!("{shown}: file system"), why);
            return true;
        }
    };
    match suits {
        Suits::Well => check.ok(format!("{shown} is on {name}")),
        Suits::Forgets => check.fault(
            format!("{shown} is on {name}, which forgets everything when the machine restarts: its votes, too"),
            "put it on a disk",
        ),
        Suits::Container => check.warning(
            format!("{shown} is on {name}: in a container, that ends with the container"),
            "mount a volume there, unless this is a trial",
        ),
        Suits::Remote => check.warning(
            format!("{shown} is on {name}, where locks and flushes may not hold what a local disk promises"),
            "put it on a local disk or a block volume",
        ),
    }
    suits != Suits::Forgets
}

/// True if there is enough for a short measurement.
fn space(check: &mut Check<'_>, shown: &str, there: &Path, config: &Config) -> bool {
    let space = match disk_space(there, config.storage.disk_reserve_bytes) {
        Ok(space) => space,
        Err(error) => {
            check.not_checked(format!("{shown}: space"), error);
            return false;
        }
    };
    let (free, total, needed) = (space.free / MIB, space.total / MIB, space.needed / MIB);
    let found = format!("{shown} has {free} of {total} MiB free");
    // The log grows to its size, and snapshots and timelines come on top of it.
    let soon = space.needed.saturating_add(config.storage.log_bytes);
    if space.free < space.needed {
        check.fault(
            format!("{found}, and sends are refused below {needed} MiB (storage.disk_reserve_bytes)"),
            "make space",
        );
    } else if space.free < soon {
        let log = config.storage.log_bytes / MIB;
        check.warning(
            format!("{found}: {needed} MiB are kept back, and the log alone may take {log} MiB (storage.log_bytes)"),
            "make space, or take a larger disk",
        );
    } else {
        check.ok(found);
    }
    space.free >= LEAST_FREE
}

/// Writes to a file without a name, which nobody sees, and which is gone when it is closed.
fn flushes(check: &mut Check<'_>, shown: &str, there: &Path, node: &Node) {
    let what = || format!("{shown}: time of a flush");
    let mut file = match open(there, OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            return check.not_checked(what(), "the file system has no files without a name (O_TMPFILE)");
        }
        Err(error) => return check.not_checked(what(), io::Error::from(error)),
    };
    let times = match measure(&mut file) {
        Ok(times) => times,
        Err(error) => {
            return check.fault(format!("{shown}: a write failed: {error}"), "look at the disk (dmesg, SMART)");
        }
    };
    judge(check, shown, times, node.running().is_some());
}

fn measure(file: &mut File) -> io::Result<Vec<Duration>> {
    let begun = Instant::now();
    let mut times = Vec::with_capacity(FLUSHES);
    while times.len() < FLUSHES && begun.elapsed() < MEASURE {
        let since = Instant::now();
        file.write_all(&RECORD)?;
        file.sync_data()?;
        times.push(since.elapsed());
    }
    Ok(times)
}

fn judge(check: &mut Check<'_>, shown: &str, mut times: Vec<Duration>, busy: bool) {
    times.sort();
    let (Some(middle), Some(longest)) = (times.get(times.len() / 2), times.last()) else {
        return check.not_checked(format!("{shown}: time of a flush"), "no write was finished");
    };
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let beside = if busy { ", beside the running node" } else { "" };
    let found = format!(
        "{shown}: a flush takes {:.1} ms, at most {:.1} ms, in {} of them{beside}",
        ms(middle),
        ms(longest),
        times.len()
    );
    if *middle >= TOO_SLOW {
        check.fault(found, "the node can't keep up with such a disk: look at it (iostat, dmesg), or take another one");
    } else if *middle >= SLOW || *longest >= TOO_SLOW {
        check.warning(found, "messages wait for flushes: look at the disk and at who else uses it (iostat)");
    } else {
        check.ok(found);
    }
}

fn content(check: &mut Check<'_>, shown: &str, path: &Path) {
    match look(path) {
        Ok(Folder::Empty) => check.note(format!("{shown} is empty: the node waits for its place in a cluster")),
        Ok(Folder::Waiting) => check.note(format!(
            "{shown} belongs to a node that has no place in a cluster yet (`carillon cluster init`, `add` or `replace`)"
        )),
        Ok(Folder::Member(Membership { cluster, node, level, put_back })) => {
            let back = if put_back { "; restored from a copy, timelines get new epochs at the next start" } else { "" };
            check.ok(format!("{shown} is that of storage node {node} of cluster {cluster}, level {level}{back}"));
        }
        Err(why) => check.fault(format!("{shown}: {why}"), "see \"When a node does not start\" in docs/operations.md"),
    }
}

/// Who has the folder open.
fn owner(check: &mut Check<'_>, shown: &str, path: &Path, node: &Node) {
    match (locked_by(&path.join("lock")), node) {
        (Err(why), _) => check.not_checked(format!("{shown}: who has it open"), why),
        (Ok(None), Node::Runs(_)) => {
            let why = "the node runs, but this user, or this container, does not see who has the folder locked";
            check.not_checked(format!("{shown}: who has it open"), why);
        }
        (Ok(None), _) => check.ok(format!("{shown} is not in use by any process that can be seen from here")),
        (Ok(Some(pid)), Node::Runs(running)) if running.pid.is_none_or(|own| own == pid) => {
            check.ok(format!("{shown} is in use by this node (process {pid})"));
        }
        (Ok(Some(pid)), Node::Unknown(_)) => check.warning(
            format!("{shown} is in use by process {pid} ({}), which may be this node: that is not known", name_of(pid)),
            "find out why nothing of a node answers at admin.listen",
        ),
        (Ok(Some(pid)), _) => check.fault(
            format!("{shown} is in use by process {pid} ({}), which is not what listens at admin.listen", name_of(pid)),
            "stop that one, or give this node a folder of its own",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::report::{Report, Severity},
        *,
    };

    fn examined(config: &Config) -> Report {
        let mut report = Report::default();
        examine(&mut report.check("disk"), config, &[Role::Storage], &Node::Stopped);
        report
    }

    fn at(path: &Path) -> Config {
        let mut config = Config::default();
        config.storage.data_dir = path.to_owned();
        config
    }

    #[test]
    fn looking_at_a_folder_makes_nothing_in_it() {
        let folder = tempfile::tempdir().expect("folder");
        examined(&at(&folder.path().join("not/there")));
        examined(&at(folder.path()));
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
    }

    #[test]
    fn who_keeps_nothing_needs_no_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("written");
        let config = Config { data_dir: file.join("below"), ..Config::default() };
        for role in [Role::Router, Role::Gateway, Role::Canary] {
            let mut report = Report::default();
            examine(&mut report.check("disk"), &config, &[role], &Node::Stopped);
            assert_eq!(report.worst(), Severity::Ok, "{report}");
        }
        let mut report = Report::default();
        examine(&mut report.check("disk"), &config, Role::ALL, &Node::Stopped);
        assert_eq!(report.worst(), Severity::Fault, "{report}");
    }

    #[test]
    fn a_folder_that_is_a_file_or_full_or_foreign_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("written");
        let report = examined(&at(&file.join("below")));
        assert!(report.worst() == Severity::Fault && report.to_string().contains("is no folder"), "{report}");

        let mut full = at(folder.path());
        full.storage.disk_reserve_bytes = u64::MAX;
        full.storage.log_bytes = u64::MAX;
        let report = examined(&full);
        assert!(report.to_string().contains("MiB free"), "{report}");
        assert!(report.worst() >= Severity::Warning, "{report}");

        fs::create_dir(folder.path().join("log")).expect("made");
        let report = examined(&at(folder.path()));
        assert!(report.to_string().contains("has data but no file identity"), "{report}");
        let lock = File::create(folder.path().join("lock")).expect("made");
        lock.try_lock().expect("free");
        let report = examined(&at(folder.path()));
        assert!(report.to_string().contains(&format!("in use by process {}", std::process::id())), "{report}");
        let owned = |node: &Node| {
            let mut report = Report::default();
            owner(&mut report.check("disk"), "here", folder.path(), node);
            report.worst()
        };
        assert_eq!(owned(&Node::Stopped), Severity::Fault);
        assert_eq!(owned(&Node::Unknown("no answer in time".to_owned())), Severity::Warning, "it may be the node");
    }

    #[test]
    fn a_slow_disk_is_told() {
        let worst = |ms: &[u64]| {
            let mut report = Report::default();
            let times = ms.iter().copied().map(Duration::from_millis).collect();
            judge(&mut report.check("disk"), "here", times, false);
            report.worst()
        };
        assert_eq!(worst(&[1, 1, 30]), Severity::Ok);
        assert_eq!(worst(&[1, 1, 500]), Severity::Warning);
        assert_eq!(worst(&[30, 30, 1]), Severity::Warning);
        assert_eq!(worst(&[500, 500, 500]), Severity::Fault);
        assert_eq!(worst(&[]), Severity::NotChecked);
    }
}
