//! `--check-config`: everything that can be checked without starting.

use std::{
    fs,
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
};

use carillon_proto::now_ms;

use crate::{
    Config, Role, SecretError, Secrets,
    certificates::{State, files_of, validity_of},
    running::{gateway_config, is_whole, no_operator, tiers},
};

const HOUR_MS: u64 = 3_600_000;

/// The findings, for people, each with the name of its setting.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The process would not start, or would not do what it is configured to do.
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

pub(crate) fn check(config: &Config, roles: &[Role]) -> Findings {
    let mut found = Findings::default();
    found.problems.extend(config.invalid(roles).iter().map(ToString::to_string));
    let data_dir = ("data_dir", config.data_dir.as_path());
    let storage_dir = ("storage.data_dir", config.storage.data_dir.as_path());
    let storage_dir = roles.contains(&Role::Storage).then_some(storage_dir);
    found.problems.extend(std::iter::once(data_dir).chain(storage_dir).filter_map(|(key, path)| folder(key, path)));
    listeners(config, roles, &mut found);
    secrets(config, roles, &mut found);
    certificates(config, roles, &mut found);
    found.warnings.extend(contradictions(config, roles));
    found
}

/// Values that are valid, and do not have the effect that somebody may have meant.
pub(crate) fn contradictions(config: &Config, roles: &[Role]) -> Vec<String> {
    let mut found = Vec::new();
    if !roles.contains(&Role::Storage) {
        return found;
    }
    let retention = &config.storage.retention;
    let (age, window) = (retention.max_age_ms, retention.duplicate_window_ms);
    if age != 0 && age < window {
        found.push(format!(
            "storage.retention.max_age_ms is {age}, but nothing younger than storage.retention.duplicate_window_ms \
             ({window}) is removed"
        ));
    }
    let files = retention.unreferenced_media_ms;
    if files != 0 && files < HOUR_MS {
        found.push(format!(
            "storage.retention.unreferenced_media_ms is {files}: who uploads a file, or forwards a message with one that \
             goes, has only so long to send it"
        ));
    }
    found
}

fn secrets(config: &Config, roles: &[Role], found: &mut Findings) {
    let secrets = Secrets::of(config);
    let invalid = secrets.invalid(config);
    found.problems.extend(invalid.iter().map(ToString::to_string));
    let tiers = tiers(roles, config);
    if invalid.is_empty() && !tiers.is_empty() {
        match secrets.peer_security(config, &tiers) {
            // The process creates what is missing.
            Err(SecretError::NoClusterSecret { .. }) if is_whole(roles) => {}
            Err(error) => found.problems.push(error.to_string()),
            Ok(security) => found.warnings.extend(no_operator(roles, &security).map(str::to_owned)),
        }
    }
    if roles.contains(&Role::Gateway) {
        let checked = carillon_gateway::check_files(&gateway_config(config, roles, &secrets));
        found.problems.extend(checked.iter().map(|error| format!("gateway.{error}")));
    }
}

/// Skips files that can't be read: their reader reports that.
fn certificates(config: &Config, roles: &[Role], found: &mut Findings) {
    for file in files_of(config, roles) {
        let Ok(validity) = validity_of(&file.path) else { continue };
        let state = State::of(validity, now_ms() / 1000);
        let Some(what) = state.told() else { continue };
        let text = format!("certificate {} (for {}) {what}", file.path.display(), file.used_for);
        if state.is_wrong() { found.problems.push(text) } else { found.warnings.push(text) }
    }
}

/// `None` if the folder exists or can be created.
fn folder(key: &str, path: &Path) -> Option<String> {
    let there = path.ancestors().find(|path| path.as_os_str().is_empty() || path.exists())?;
    if there.as_os_str().is_empty() {
        // Relative to the current folder, in which the process is.
        return None;
    }
    let shown = path.display();
    match fs::metadata(there) {
        Ok(meta) if !meta.is_dir() => Some(format!("{key} {shown} can't be used: {} is no folder", there.display())),
        Ok(meta) if meta.permissions().readonly() => {
            Some(format!("{key} {shown} can't be used: {} may not be written to", there.display()))
        }
        Ok(_) => None,
        Err(error) => Some(format!("{key} {shown} can't be used: {error}")),
    }
}

fn listeners(config: &Config, roles: &[Role], found: &mut Findings) {
    let Listens { addresses, unresolved } = listen_addresses(config, roles);
    found.problems.extend(unresolved);
    found.problems.extend(shared_ports(&addresses));
}

/// Where the roles of a process listen.
pub(crate) struct Listens {
    /// With the names of their settings.
    pub(crate) addresses: Vec<(&'static str, SocketAddr)>,
    /// What is wrong with the names that have no address.
    pub(crate) unresolved: Vec<String>,
}

pub(crate) fn listen_addresses(config: &Config, roles: &[Role]) -> Listens {
    let mut taken = vec![("admin.listen", config.admin.listen)];
    let mut unresolved = Vec::new();
    if roles.contains(&Role::Storage) {
        taken.push(("storage.listen", config.storage.listen));
    }
    if roles.contains(&Role::Router) {
        taken.push(("router.listen", config.router.listen));
    }
    if roles.contains(&Role::Gateway) {
        let gateway = &config.gateway;
        let (xmpp, xmpp_tls) = (gateway.xmpp.plain_listener(), gateway.xmpp.tls_listener());
        let listeners = [
            ("gateway.tcp.listen", &gateway.tcp),
            ("gateway.ws.listen", &gateway.ws),
            ("gateway.grpc.listen", &gateway.grpc),
            ("gateway.xmpp.listen", &xmpp),
            ("gateway.xmpp.tls_listen", &xmpp_tls),
        ];
        for (key, listener) in listeners.into_iter().filter(|(_, listener)| listener.enabled) {
            match listener.listen.to_socket_addrs() {
                Ok(addresses) => taken.extend(addresses.map(|address| (key, address))),
                // Another form is reported with the other values.
                Err(error) if listener.listen.contains(':') => {
                    unresolved.push(format!("{key} {} has no address: {error}", listener.listen));
                }
                Err(_) => {}
            }
        }
    }
    Listens { addresses: taken, unresolved }
}

/// What is wrong with listeners on the same port.
pub(crate) fn shared_ports(taken: &[(&'static str, SocketAddr)]) -> Vec<String> {
    let mut shared = Vec::new();
    for (at, (key, address)) in taken.iter().enumerate() {
        let other = taken[..at].iter().find(|(other, before)| other != key && collide(*before, *address));
        if let Some((other, before)) = other {
            shared.push(format!("{key} {address} and {other} {before} are the same: give each a port of its own"));
        }
    }
    shared
}

/// On Linux, [::] takes IPv4 as well.
pub(crate) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_on_one_port_are_found() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("address");
        for (one, other, right) in [
            ("127.0.0.1:7", "127.0.0.1:7", true),
            ("127.0.0.1:7", "0.0.0.0:7", true),
            ("[::]:7", "127.0.0.1:7", true),
            ("[::1]:7", "0.0.0.0:7", false),
            ("127.0.0.1:7", "127.0.0.2:7", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:7", "0.0.0.0:8", false),
        ] {
            assert_eq!(collide(address(one), address(other)), right, "{one} {other}");
            assert_eq!(collide(address(other), address(one)), right, "{other} {one}");
        }
    }

    #[test]
    fn retention_that_surprises_is_told_to_storage_nodes() {
        let warnings = |max_age_ms, unreferenced_media_ms, role| {
            let mut config = Config::default();
            config.storage.retention.max_age_ms = max_age_ms;
            config.storage.retention.unreferenced_media_ms = unreferenced_media_ms;
            contradictions(&config, &[role]).len()
        };
        assert_eq!(warnings(0, 0, Role::Storage), 0);
        assert_eq!(warnings(0, HOUR_MS, Role::Storage), 0);
        assert_eq!(warnings(1000, HOUR_MS - 1, Role::Storage), 2);
        assert_eq!(warnings(1000, HOUR_MS - 1, Role::Router), 0);
    }
}
