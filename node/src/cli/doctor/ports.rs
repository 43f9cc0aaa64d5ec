//! The ports of this node: free, or its own.

use std::{io, net::SocketAddr};

use rustix::io::Errno;
use tokio::net::TcpSocket;

use super::{
    process::{Listening, Node, listening, name_of, owner_of},
    report::Check,
};
use crate::{
    Config, Role,
    check::{Listens, listen_addresses, shared_ports},
};

pub(super) fn examine(check: &mut Check<'_>, config: &Config, roles: &[Role], node: &Node) {
    if let Node::Unknown(why) = node {
        check.warning(
            format!("whether the node runs is not known: {why}"),
            "if it is another program, stop it or set admin.listen to a free address",
        );
    }
    let Listens { addresses, unresolved } = listen_addresses(config, roles);
    for why in unresolved {
        check.fault(why, "correct the name, or give an IP address");
    }
    for why in shared_ports(&addresses) {
        check.fault(why, "");
    }
    // Without the table, ports in use have no known owner.
    let all = listening().unwrap_or_default();
    for (key, address) in addresses {
        one(check, (key, address), node, &all);
    }
}

fn one(check: &mut Check<'_>, (key, address): (&str, SocketAddr), node: &Node, all: &[Listening]) {
    let shown = format!("{key} {address}");
    match can_bind(address) {
        Ok(()) if address.port() == 0 => check.note(format!("{shown}: any free port is taken at each start")),
        Ok(()) => match node {
            Node::Runs(_) => check.warning(
                format!("{shown} is free, but the node runs"),
                "it may be opening still (/startedz), or run with another configuration: start it again",
            ),
            Node::Stopped | Node::Unknown(_) => check.ok(format!("{shown} is free")),
        },
        Err(error) => taken(check, (key, &shown), &error, node, owner_of(all, address)),
    }
}

fn taken(check: &mut Check<'_>, (key, shown): (&str, &str), error: &io::Error, node: &Node, owner: Option<u32>) {
    match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => {}
        Some(Errno::ACCESS) => {
            let why = "may not be used by this user";
            return check.fault(format!("{shown} {why}"), "take a port from 1024 on, or give CAP_NET_BIND_SERVICE");
        }
        Some(Errno::ADDRNOTAVAIL) => {
            let why = "can't be used: this machine has no such address";
            return check.fault(format!("{shown} {why}"), format!("correct {key}, or bring the network up"));
        }
        _ => return check.not_checked(shown, error),
    }
    match (owner, node.running()) {
        (Some(pid), Some(running)) if running.pid == Some(pid) => {
            check.ok(format!("{shown} is that of this node, which runs (process {pid})"));
        }
        (Some(pid), _) => check.fault(
            format!("{shown} is in use by process {pid} ({})", name_of(pid)),
            format!("stop that one, or set {key} to a free address"),
        ),
        (None, Some(_)) => check.not_checked(
            shown,
            "the node runs, and the port is in use, but only the node's user or root may see whether by the node",
        ),
        (None, None) => check.fault(
            format!("{shown} is in use, by a process that this user may not see"),
            format!("find it as root (`ss -ltnp`), and stop it, or set {key} to a free address"),
        ),
    }
}

/// Binds without listening, so that a node that starts just now is not disturbed.
fn can_bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            process::RunningNode,
            report::{Report, Severity},
        },
        *,
    };

    fn found(address: SocketAddr, node: &Node) -> (Severity, String) {
        let mut report = Report::default();
        one(&mut report.check("ports"), ("router.listen", address), node, &listening().expect("readable"));
        let finding = report.findings.remove(0);
        (finding.severity, finding.found)
    }

    #[test]
    fn a_port_is_free_or_the_nodes_own_or_somebody_elses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let own = std::process::id();
        let runs = |pid| Node::Runs(RunningNode { pid, roles: Vec::new(), release: String::new() });
        let (severity, text) = found(address, &Node::Stopped);
        assert!(severity == Severity::Fault && text.contains(&format!("process {own}")), "{text}");
        assert_eq!(found(address, &runs(Some(own))).0, Severity::Ok);
        assert_eq!(found(address, &runs(Some(1))).0, Severity::Fault, "of another process");
        drop(listener);
        assert_eq!(found(address, &Node::Stopped).0, Severity::Ok);
        assert_eq!(found(address, &runs(Some(own))).0, Severity::Warning, "the node does not listen there");
        let elsewhere = "192.0.2.1:7000".parse().expect("address");
        let (severity, text) = found(elsewhere, &Node::Stopped);
        assert!(severity == Severity::Fault && text.contains("no such address"), "{text}");
    }
}
