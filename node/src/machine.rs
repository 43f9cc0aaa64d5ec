//! What the system gives this process: for reports about it.

use std::{fs, thread::available_parallelism};

use carillon_proto::pb::diagnostics::Fact;
use carillon_storage::disk_space;

use crate::{Config, Role, memory};

/// Files of the system that are told as they are. Each is short.
const FILES: [(&str, &str); 9] = [
    ("kernel", "/proc/sys/kernel/osrelease"),
    ("kernel version", "/proc/sys/kernel/version"),
    ("load", "/proc/loadavg"),
    ("pressure cpu", "/proc/pressure/cpu"),
    ("pressure io", "/proc/pressure/io"),
    ("pressure memory", "/proc/pressure/memory"),
    ("somaxconn", "/proc/sys/net/core/somaxconn"),
    ("port range", "/proc/sys/net/ipv4/ip_local_port_range"),
    ("limits", "/proc/self/limits"),
];
const LONGEST: usize = 4 * 1024;
/// The fact that names the host; in Kubernetes that is the pod.
pub(crate) const HOST: &str = "host";

/// Facts of this process, as a node with these roles; without roles, as a command.
pub(crate) fn facts(config: &Config, roles: &[Role]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String| facts.push(Fact { name: name.to_owned(), value });
    add(HOST, rustix::system::uname().nodename().to_string_lossy().into_owned());
    for (name, file) in FILES {
        // A file that this system does not have tells nothing.
        if let Ok(text) = fs::read_to_string(file) {
            add(name, text.trim().chars().take(LONGEST).collect());
        }
    }
    if let Some(name) = fs::read_to_string("/etc/os-release").ok().as_deref().and_then(pretty_name) {
        add("system", name);
    }
    add("processors", available_parallelism().map_or_else(|error| error.to_string(), |count| count.to_string()));
    add("memory limit", memory::limit().map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} bytes")));
    if let Some(memory) =
        fs::read_to_string("/proc/meminfo").ok().and_then(|text| Some(text.lines().next()?.to_owned()))
    {
        add("memory", memory);
    }
    if roles.contains(&Role::Storage) {
        let space = disk_space(&config.storage.data_dir, config.storage.disk_reserve_bytes);
        let space =
            space.map(|space| format!("{} of {} bytes free, {} kept back", space.free, space.total, space.needed));
        add("disk of storage.data_dir", space.unwrap_or_else(|error| error.to_string()));
    }
    facts
}

fn pretty_name(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_tells_its_kernel_and_its_limits() {
        let facts = facts(&Config::default(), &[Role::Gateway]);
        let of = |name: &str| facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.clone());
        assert!(of(HOST).is_some_and(|host| !host.is_empty()), "{facts:?}");
        assert!(of("kernel").is_some_and(|kernel| kernel.contains('.')), "{facts:?}");
        assert!(of("limits").is_some_and(|limits| limits.contains("Max open files")), "{facts:?}");
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian 13\"\n").as_deref(), Some("Debian 13"));
    }
}
