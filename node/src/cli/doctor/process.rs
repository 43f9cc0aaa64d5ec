//! The processes of this machine, as far as this user may see them: who listens on a port, who has a file locked.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::admin_http::get_within;
use crate::{Config, Role};

/// More than a node with 1,024 shards has.
const METRICS_BYTES: u64 = 8 << 20;
const DEADLINE: Duration = Duration::from_secs(3);

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    inode: u64,
}

/// The node whose configuration is looked at, as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningNode {
    /// `None` if this user may not see it.
    pub(super) pid: Option<u32>,
    pub(super) roles: Vec<Role>,
    pub(super) release: String,
}

/// What the admin listener of the configuration told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    Runs(RunningNode),
    /// Nothing listens there.
    Stopped,
    /// Something else listens there, or it does not answer.
    Unknown(String),
}

impl Node {
    pub(super) fn running(&self) -> Option<&RunningNode> {
        match self {
            Self::Runs(node) => Some(node),
            Self::Stopped | Self::Unknown(_) => None,
        }
    }
}

/// Asks the admin listener of this configuration.
pub(super) async fn find(config: &Config) -> Node {
    let address = crate::running::from_here(config.admin.listen);
    let answer = match get_within(&address.to_string(), "/metrics", METRICS_BYTES, DEADLINE).await {
        Ok((_, body)) => body,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Node::Stopped,
        Err(error) => return Node::Unknown(format!("admin.listen {address}: {error}")),
    };
    let Some((release, roles)) = built(&answer) else {
        return Node::Unknown(format!("admin.listen {address}: the answer is not that of a Carillon node"));
    };
    let pid = listening().ok().and_then(|all| owner_of(&all, config.admin.listen));
    Node::Runs(RunningNode { pid, roles, release })
}

/// Release and roles, from the metric that has them as labels.
pub(in super::super) fn built(metrics: &str) -> Option<(String, Vec<Role>)> {
    let line = metrics.lines().find(|line| line.starts_with("carillon_node_build_info{"))?;
    let label = |name: &str| line.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(value, _)| value);
    let roles = label("roles")?;
    let known = Role::ALL.iter().copied().chain([Role::Canary]);
    let roles = known.filter(|role| roles.split('+').any(|name| name == role.as_str())).collect();
    Some((label("version")?.to_owned(), roles))
}

/// All sockets that listen in this network namespace.
pub(super) fn listening() -> std::io::Result<Vec<Listening>> {
    let mut all = parse(&fs::read_to_string("/proc/net/tcp")?);
    // A system without IPv6 has no such file.
    all.extend(parse(&fs::read_to_string("/proc/net/tcp6").unwrap_or_default()));
    Ok(all)
}

/// The process that listens at this address.
pub(super) fn owner_of(all: &[Listening], address: SocketAddr) -> Option<u32> {
    let covers = |one: &&Listening| crate::check::collide(one.address, address);
    let inode = all.iter().find(covers)?.inode;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    pids().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == socket))
    })
}

/// The process that holds a lock of this file. `Err` says why nobody knows.
pub(super) fn locked_by(file: &Path) -> Result<Option<u32>, String> {
    let meta = match fs::metadata(file) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let locks = fs::read_to_string("/proc/locks").map_err(|error| format!("/proc/locks: {error}"))?;
    Ok(holder(&locks, meta.dev(), meta.ino()))
}

/// See proc_locks(5): `1: FLOCK ADVISORY WRITE 4321 fd:01:1234 0 EOF`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, of, ..] = words.as_slice() else { return None };
        (*of == file).then(|| pid.parse().ok())?
    })
}

/// The name of a process's program, for people.
pub(super) fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The lines of /proc/net/tcp and tcp6 with the state 0A, LISTEN.
fn parse(table: &str) -> Vec<Listening> {
    table.lines().skip(1).filter_map(listens).collect()
}

fn listens(line: &str) -> Option<Listening> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, "0A", _, _, _, _, _, inode, ..] = words.as_slice() else { return None };
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok();
    // Each word of 32 bits is in the order of this machine.
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(Listening { address: SocketAddr::new(ip, port), inode: inode.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn this_process_is_found_by_its_port() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6 has nothing to look at.
            let Ok(listener) = std::net::TcpListener::bind(bind) else { continue };
            let address = listener.local_addr().expect("bound");
            let all = listening().expect("readable");
            assert!(all.iter().any(|one| one.address == address), "{address} is not in {all:?}");
            assert_eq!(owner_of(&all, address), Some(std::process::id()));
            drop(listener);
        }
        assert_ne!(name_of(std::process::id()), "?");
    }

    #[test]
    fn who_holds_a_lock_is_found() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("lock");
        assert_eq!(locked_by(&path), Ok(None), "no such file");
        let file = File::create(&path).expect("made");
        assert_eq!(locked_by(&path), Ok(None));
        file.try_lock().expect("free");
        assert_eq!(locked_by(&path), Ok(Some(std::process::id())));
        drop(file);
        assert_eq!(locked_by(&path), Ok(None));
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 7 08:01:55 0 EOF\n", 0x801, 55), Some(7));
        assert_eq!(holder("1: POSIX  ADVISORY  WRITE 7 08:01:55 0 EOF\n", 0x801, 55), None);
    }

    #[test]
    fn roles_and_release_are_read_from_the_metrics() {
        let text = "# TYPE x\ncarillon_node_build_info{version=\"0.2.0\",roles=\"storage+router\"} 1\n";
        assert_eq!(built(text), Some(("0.2.0".to_owned(), vec![Role::Storage, Role::Router])));
        let canary = "carillon_node_build_info{version=\"0.2.0\",roles=\"canary\"} 1\n";
        assert_eq!(built(canary), Some(("0.2.0".to_owned(), vec![Role::Canary])));
        assert_eq!(built("nothing"), None);
    }
}
