//! Limits of open files: the process's limit is raised as far as possible, and clients get what the rest of the process
//! does not need.

use carillon_gateway::GatewayConfig;
use carillon_proto::peer::MAX_UNPROVEN_PEERS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Config, Role, admin::MAX_CONNECTIONS as ADMIN_CONNECTIONS};

/// Files of the program itself: standard streams, listeners, the runtime, and files that are read now and then.
const PROCESS: u64 = 64;
/// Connections to and from other nodes.
const PEERS: u64 = 64;
/// A storage node's log, directory and snapshots; the files of its timelines are counted separately.
const STORE: u64 = 128;
/// The files of timelines may be one part in this many of all open files.
const TIMELINES: u64 = 8;
/// Fewer clients than this are of no use.
const LEAST_CONNECTIONS: u64 = 16;

/// Raises the soft limit to the hard one, and lowers `storage.timeline_open_files` and `gateway.max_connections` to
/// what the limit allows.
pub(crate) fn arrange(config: &mut Config, roles: &[Role]) {
    if let Some(limit) = raise() {
        fit(config, roles, limit);
    }
}

/// What a limit of open files leaves.
pub(crate) struct Fitted {
    pub(crate) config: Config,
    /// Files that clients may not use.
    pub(crate) kept_back: u64,
    pub(crate) is_too_low: bool,
}

/// The configuration as a process would use it under this limit.
pub(crate) fn fitted(config: &Config, roles: &[Role], limit: u64) -> Fitted {
    let mut config = config.clone();
    fit(&mut config, roles, limit);
    let kept_back = kept_back(&config, roles);
    Fitted { config, kept_back, is_too_low: limit <= kept_back }
}

fn fit(config: &mut Config, roles: &[Role], limit: u64) {
    let files = small((limit / TIMELINES).max(16));
    config.storage.timeline_open_files = config.storage.timeline_open_files.min(files);
    let kept_back = kept_back(config, roles);
    let left = limit.saturating_sub(kept_back);
    if left == 0 {
        tracing::warn!(limit, kept_back, "the limit of open files is too low for this process: raise it ({HOW})");
    }
    let wanted = config.gateway.max_connections;
    if roles.contains(&Role::Gateway) && wanted as u64 > left {
        let max_connections = small(left.max(LEAST_CONNECTIONS));
        config.gateway.max_connections = max_connections;
        // The default was not chosen by the operator: a message is useful only if the limit is so low that clients will
        // notice it.
        if wanted == GatewayConfig::default().max_connections && limit >= ROOMY {
            tracing::info!(
                max_connections,
                wanted,
                limit,
                kept_back,
                "gateway.max_connections is lowered: {WHY} ({HOW})"
            );
        } else {
            tracing::warn!(
                max_connections,
                wanted,
                limit,
                kept_back,
                "gateway.max_connections is lowered: {WHY} ({HOW})"
            );
        }
    }
}

const WHY: &str = "the limit of open files leaves no more";
const HOW: &str = "ulimit -n, LimitNOFILE";
/// A limit that somebody has probably set on purpose.
const ROOMY: u64 = 16 * 1024;

/// Files that clients may not use.
fn kept_back(config: &Config, roles: &[Role]) -> u64 {
    let of = |role: &Role| match role {
        Role::Storage => STORE + config.storage.timeline_open_files as u64 + PEERS + MAX_UNPROVEN_PEERS as u64,
        Role::Router => PEERS + MAX_UNPROVEN_PEERS as u64,
        Role::Gateway => PEERS + config.gateway.max_refused() as u64,
        Role::Canary => PEERS,
    };
    PROCESS + ADMIN_CONNECTIONS as u64 + roles.iter().map(of).sum::<u64>()
}

fn small(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Raises the limit and returns it; `None` if there is no limit.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    // None of the two is "no limit", which Linux does not know here.
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            let (current, maximum) = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
            tracing::warn!(%error, current, maximum, "the limit of open files can't be raised");
            Some(current)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_soft_limit_leaves_room_for_clients_and_for_the_store() {
        let mut config = Config::default();
        fit(&mut config, Role::ALL, 1024);
        assert_eq!(config.storage.timeline_open_files, 128);
        let clients = config.gateway.max_connections as u64;
        assert!(clients >= 72 && clients + kept_back(&config, Role::ALL) <= 1024, "{clients}");

        let mut config = Config::default();
        fit(&mut config, &[Role::Gateway], 1024);
        assert!(config.gateway.max_connections >= 700, "{}", config.gateway.max_connections);
    }

    #[test]
    fn what_fits_stays_as_it_was_set() {
        let mut config = Config::default();
        fit(&mut config, Role::ALL, 1 << 20);
        let default = Config::default();
        assert_eq!(config.gateway.max_connections, default.gateway.max_connections);
        assert_eq!(config.storage.timeline_open_files, default.storage.timeline_open_files);
        config.gateway.max_connections = 50;
        fit(&mut config, Role::ALL, 1024);
        assert_eq!(config.gateway.max_connections, 50);
        fit(&mut config, Role::ALL, 64);
        assert_eq!(config.gateway.max_connections as u64, LEAST_CONNECTIONS);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lower = Rlimit { current: before.maximum.map_or(Some(512), |most| Some(most - 1)), ..before };
        setrlimit(Resource::Nofile, lower).expect("a process may lower its limit");
        assert_eq!(raise(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
