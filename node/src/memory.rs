//! The memory limit of the process's control group, as containers have it: the defaults of what is kept in memory fit into it.

use std::{fs, path::Path};

use carillon_gateway::GatewayConfig;
use carillon_storage::StorageConfig;

use crate::{Config, Role};

const MIB: u64 = 1 << 20;
/// The caches may have one part in this many of the limit, and so may the connections.
const PART: u64 = 2;
/// A smaller cache is of no use.
const LEAST_CACHE_BYTES: u64 = 4 * MIB;
/// Memory of a connection with what waits to be written, on average. An idle one takes half of it.
const CONNECTION_BYTES: u64 = 16 << 10;
const LEAST_CONNECTIONS: u64 = 64;
/// Control groups of version 1 have the largest number of pages when they have no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Lowers the defaults of the storage's caches and of `gateway.max_connections` to what the limit allows. A value that was chosen by
/// the operator stays, with a line in the log if it does not fit.
pub(crate) fn arrange(config: &mut Config, roles: &[Role]) {
    if let Some(limit) = limit() {
        fit(config, roles, limit);
    }
}

/// The limit in bytes; `None` if there is none, or if the system has no control groups.
pub(crate) fn limit() -> Option<u64> {
    limit_of(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// That of another process, or of this one. `None` also if its groups can't be read.
pub(crate) fn limit_of_process(pid: Option<u32>) -> Option<u64> {
    let Some(pid) = pid else { return limit() };
    limit_of(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?, Path::new("/sys/fs/cgroup"))
}

/// The configuration as a process would use it under this limit.
pub(crate) fn fitted(config: &Config, roles: &[Role], limit: u64) -> Config {
    let mut config = config.clone();
    fit(&mut config, roles, limit);
    config
}

/// Memory that the caches of a storage node take when they are full.
pub(crate) fn caches_bytes(storage: &StorageConfig) -> u64 {
    let sizes = [storage.directory_cache_bytes, storage.timeline_cache_bytes, storage.timeline_memtables_bytes];
    sizes.iter().fold(storage.log_cache_bytes, |sum, bytes| sum.saturating_add(*bytes))
}

/// `groups`: what /proc/self/cgroup says, see cgroups(7). A group is also under the limits of those above it. A container may see its
/// own group as the root, under whatever path.
fn limit_of(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, controllers_and_path) = line.split_once(':')?;
        let (controllers, path) = controllers_and_path.split_once(':')?;
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let ancestors = Path::new(path.trim_start_matches('/')).ancestors().map(Path::to_owned);
        ancestors.filter_map(|group| read(&mount.join(group).join(file))).min()
    });
    limits.min()
}

fn read(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

fn fit(config: &mut Config, roles: &[Role], limit: u64) {
    if roles.contains(&Role::Storage) {
        fit_caches(&mut config.storage, limit);
    }
    if roles.contains(&Role::Gateway) {
        fit_connections(&mut config.gateway, limit);
    }
}

fn fit_caches(storage: &mut StorageConfig, limit: u64) {
    let defaults = StorageConfig::default();
    let shards = u64::from(storage.timeline_shards);
    let memtables = shards * MIB;
    let caches = [
        (&mut storage.directory_cache_bytes, defaults.directory_cache_bytes, LEAST_CACHE_BYTES),
        (&mut storage.timeline_cache_bytes, defaults.timeline_cache_bytes, LEAST_CACHE_BYTES),
        (&mut storage.timeline_memtables_bytes, defaults.timeline_memtables_bytes, memtables),
        (&mut storage.log_cache_bytes, defaults.log_cache_bytes, LEAST_CACHE_BYTES),
    ];
    let (budget, wanted) = (limit / PART, caches.iter().map(|(bytes, ..)| **bytes).sum::<u64>());
    if wanted <= budget {
        return;
    }
    let (open, chosen): (Vec<_>, Vec<_>) = caches.into_iter().partition(|(bytes, default, _)| **bytes == *default);
    let chosen: u64 = chosen.iter().map(|(bytes, ..)| **bytes).sum();
    let left = budget.saturating_sub(chosen);
    let of_defaults: u64 = open.iter().map(|(_, default, _)| *default).sum();
    let mut total = chosen;
    for (bytes, default, least) in open {
        // The product does not fit into 64 bits when somebody has a limit of many terabytes.
        let part = u128::from(default) * u128::from(left) / u128::from(of_defaults);
        *bytes = u64::try_from(part).unwrap_or(default).clamp(least.min(default), default);
        total += *bytes;
    }
    let (limit_mib, total_mib) = (limit / MIB, total / MIB);
    if total > budget {
        tracing::warn!(
            limit_mib,
            total_mib,
            "the storage's caches take more than half of the memory limit: {HOW_CACHES}"
        );
    } else {
        tracing::info!(limit_mib, total_mib, "the storage's caches are lowered to half of the memory limit");
    }
}

const HOW_CACHES: &str =
    "lower storage.*_cache_bytes and storage.timeline_memtables_bytes, or give the process more memory";

fn fit_connections(gateway: &mut GatewayConfig, limit: u64) {
    let most = (limit / PART / CONNECTION_BYTES).max(LEAST_CONNECTIONS);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (wanted, limit_mib) = (gateway.max_connections, limit / MIB);
    if wanted <= most {
        return;
    }
    if wanted == GatewayConfig::default().max_connections {
        gateway.max_connections = most;
        tracing::info!(
            limit_mib,
            max_connections = most,
            "gateway.max_connections is lowered to what the memory limit allows"
        );
    } else {
        tracing::warn!(
            limit_mib,
            wanted,
            enough_for = most,
            "gateway.max_connections may need more than the memory limit"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("folder");
        fs::write(file, text).expect("written");
    }

    #[test]
    fn the_lowest_limit_from_the_group_up_to_the_root_counts() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        assert_eq!(limit_of("0::/a/b\n", root), None, "no such groups");
        write(root, "memory.max", "max\n");
        write(root, "a/memory.max", "1000\n");
        write(root, "a/b/memory.max", "2000\n");
        assert_eq!(limit_of("0::/a/b\n", root), Some(1000));
        assert_eq!(limit_of("0::/\n", root), None);
        // In a container with a namespace of its own, the root is its group.
        write(root, "memory.max", "500\n");
        assert_eq!(limit_of("0::/\n", root), Some(500));
        assert_eq!(limit_of("0::/../elsewhere\n", root), Some(500));
    }

    #[test]
    fn groups_of_version_1_are_read_too() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        let groups = "12:memory:/kubepods/pod1/c1\n4:cpu,cpuacct:/kubepods\n0::/\n";
        // A container that sees the path of the host, but has its own group as the root.
        write(root, "memory/memory.limit_in_bytes", "268435456\n");
        assert_eq!(limit_of(groups, root), Some(268_435_456));
        write(root, "memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit_of(groups, root), None, "no limit");
        write(root, "memory/kubepods/pod1/memory.limit_in_bytes", "4096\n");
        assert_eq!(limit_of(groups, root), Some(4096));
        assert_eq!(limit_of("4:cpu,cpuacct:/kubepods\nnonsense\n", root), None);
    }

    #[test]
    fn caches_and_connections_fit_into_half_of_the_limit() {
        let caches = |storage: &StorageConfig| {
            let StorageConfig { directory_cache_bytes: a, timeline_cache_bytes: b, .. } = storage;
            (*a / MIB, *b / MIB, storage.timeline_memtables_bytes / MIB, storage.log_cache_bytes / MIB)
        };
        let fitted = |limit: u64, change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            fit(&mut config, Role::ALL, limit);
            config.validate(Role::ALL).expect("valid");
            (caches(&config.storage), config.gateway.max_connections)
        };
        assert_eq!(fitted(4096 * MIB, |_| ()), ((64, 128, 256, 64), 100_000), "enough for all");
        assert_eq!(fitted(512 * MIB, |_| ()), ((32, 64, 128, 32), 16_384));
        let chosen: fn(&mut Config) = |config| {
            config.storage.timeline_cache_bytes = 200 * MIB;
            config.gateway.max_connections = 50_000;
        };
        // 56 MiB are left for 384 MiB, but memtables need one for each shard.
        assert_eq!(fitted(512 * MIB, chosen), ((9, 200, 37, 9), 50_000), "what was chosen stays");
        assert_eq!(fitted(64 * MIB, chosen), ((4, 200, 32, 4), 50_000), "no cache is useless");
    }
}
