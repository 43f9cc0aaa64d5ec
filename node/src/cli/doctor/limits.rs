//! What the system lets the process have: open files, memory, connections that wait.

use std::fs;

use carillon_gateway::GatewayConfig;

use super::{process::Node, report::Check};
use crate::{Config, Role, descriptors, memory};

const MIB: u64 = 1 << 20;
/// Where nobody has a limit, the caches should leave this part of the machine's memory to others.
const PART_OF_MACHINE: u64 = 2;

pub(super) fn examine(check: &mut Check<'_>, config: &Config, roles: &[Role], node: &Node) {
    let pid = node.running().and_then(|node| node.pid);
    if node.running().is_some() && pid.is_none() {
        check.not_checked("limits of the running node", "only its user or root may see its process");
        return;
    }
    if pid.is_none() {
        check.note("the node does not run: these are the limits of this shell, and a service may have others");
    }
    open_files(check, config, roles, pid);
    memory(check, config, roles, pid);
    if roles.contains(&Role::Gateway) {
        backlog(check, config);
    }
}

fn open_files(check: &mut Check<'_>, config: &Config, roles: &[Role], pid: Option<u32>) {
    let of = pid.map_or("self".to_owned(), |pid| pid.to_string());
    let file = format!("/proc/{of}/limits");
    let limit = match fs::read_to_string(&file).map(|text| hard_limit(&text)) {
        Ok(Some(limit)) => limit,
        Ok(None) => return check.not_checked("open files", format!("{file} does not tell the limit")),
        Err(error) => return check.not_checked("open files", format!("{file}: {error}")),
    };
    let (wanted, fitted) = (config, descriptors::fitted(config, roles, limit));
    let connections = |config: &Config| config.gateway.max_connections;
    if fitted.is_too_low {
        return check.fault(
            format!(
                "the limit of open files is {limit}, too few for this process ({} are kept back)",
                fitted.kept_back
            ),
            "raise it: ulimit -Hn, LimitNOFILE",
        );
    }
    if roles.contains(&Role::Gateway) && connections(&fitted.config) < connections(wanted) {
        let text = format!(
            "the limit of open files is {limit}: gateway.max_connections is {}, but {} fit",
            connections(wanted),
            connections(&fitted.config)
        );
        if connections(wanted) == GatewayConfig::default().max_connections {
            return check.note(text);
        }
        return check.warning(text, "raise the limit (ulimit -Hn, LimitNOFILE), or lower gateway.max_connections");
    }
    check.ok(format!("the limit of open files is {limit}, enough for what is configured"));
}

/// From the table of /proc/PID/limits; `u64::MAX` for no limit.
fn hard_limit(table: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        limit => limit.parse().ok(),
    }
}

fn memory(check: &mut Check<'_>, config: &Config, roles: &[Role], pid: Option<u32>) {
    let caches = if roles.contains(&Role::Storage) { memory::caches_bytes(&config.storage) } else { 0 };
    let Some(limit) = memory::limit_of_process(pid) else {
        return machine_memory(check, caches);
    };
    let (limit_mib, caches_mib) = (limit / MIB, caches / MIB);
    let fitted = memory::fitted(config, roles, limit);
    let after = if roles.contains(&Role::Storage) { memory::caches_bytes(&fitted.storage) } else { 0 };
    if after > limit / 2 {
        return check.warning(
            format!("the memory limit is {limit_mib} MiB, and the storage's caches take {} MiB of it", after / MIB),
            "lower storage.*_cache_bytes and storage.timeline_memtables_bytes, or give the process more memory",
        );
    }
    if after < caches || fitted.gateway.max_connections < config.gateway.max_connections {
        return check.note(format!(
            "the memory limit is {limit_mib} MiB: the defaults are lowered to it (caches {} of {caches_mib} MiB, \
             gateway.max_connections {} of {})",
            after / MIB,
            fitted.gateway.max_connections,
            config.gateway.max_connections
        ));
    }
    check.ok(format!("the memory limit is {limit_mib} MiB, enough for what is configured"));
}

fn machine_memory(check: &mut Check<'_>, caches: u64) {
    let Some(total) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text)) else {
        return check.not_checked("memory", "/proc/meminfo does not tell the size");
    };
    let (total_mib, caches_mib) = (total / MIB, caches / MIB);
    if caches > total / PART_OF_MACHINE {
        return check.warning(
            format!("the machine has {total_mib} MiB of memory, and the storage's caches take {caches_mib} MiB of it"),
            "lower storage.*_cache_bytes and storage.timeline_memtables_bytes",
        );
    }
    check.ok(format!("no memory limit; the machine has {total_mib} MiB, the storage's caches take {caches_mib} MiB"));
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn backlog(check: &mut Check<'_>, config: &Config) {
    const FILE: &str = "/proc/sys/net/core/somaxconn";
    let Some(most) = fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<usize>().ok()) else {
        return check.not_checked("accept backlog", format!("{FILE} can't be read"));
    };
    let clients = config.gateway.max_connections;
    if clients > most {
        return check.note(format!(
            "net.core.somaxconn is {most}: when more clients than that connect at once, the rest come a second later"
        ));
    }
    check.ok(format!("net.core.somaxconn is {most}, enough for gateway.max_connections"));
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Report, Severity},
        *,
    };

    #[test]
    fn tables_of_the_system_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(hard_limit(limits), Some(524_288));
        assert_eq!(hard_limit(&limits.replace("524288", "unlimited")), Some(u64::MAX));
        assert_eq!(hard_limit("nothing"), None);
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        let own = fs::read_to_string("/proc/self/limits").expect("readable");
        assert!(hard_limit(&own).is_some_and(|limit| limit > 0), "{own}");
    }

    #[test]
    fn caches_larger_than_half_of_the_machine_are_told() {
        let worst = |caches: u64| {
            let mut report = Report::default();
            machine_memory(&mut report.check("limits"), caches);
            report.worst()
        };
        assert_eq!(worst(1 << 20), Severity::Ok);
        assert_eq!(worst(1 << 60), Severity::Warning);
    }
}
