//! The other nodes that the configuration names: reached, of the same cluster, of a release that fits.

use std::time::{Duration, SystemTime};

use carillon_gateway::GatewayConfig;
use carillon_proto::{
    Level,
    pb::{
        admin::{StatusReply, StatusRequest, admin_client::AdminClient},
        diagnostics::{ReadRequest, clock_client::ClockClient},
        raft::{
            DescribeRequest, Identity, MembersReply, MembersRequest, bootstrap_client::BootstrapClient,
            cluster_admin_client::ClusterAdminClient,
        },
        store::{LeadsRequest, NodeKind, RegistryView, WatchRequest, registry_client::RegistryClient},
    },
    peer::{AddToken, PeerSecurity, Tier, cause},
};
use carillon_router::RouterConfig;
use carillon_storage::{Folder, look};
use futures_util::future::join_all;
use tonic::{Code, Request, Response, Status, service::interceptor::InterceptedService, transport::Channel};

use super::{
    Looked,
    clock::{Answered, Look, http_date},
    report::Check,
};
use crate::{Config, Role, Secrets};

/// Deadline of each call.
const DEADLINE: Duration = Duration::from_secs(5);

/// A node that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    kind: Kind,
    /// With whose token it is asked.
    tier: Tier,
    setting: &'static str,
    address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Storage,
    Router,
}

/// What a node told of itself and its cluster.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Empty: the node has none yet.
    cluster: String,
    cluster_level: u32,
    /// Empty: it was not told to this tier.
    release: String,
    reads_level: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Told(Told),
    /// The node was reached, and can't tell now.
    Waits(String),
    /// The node was reached, and does not take the token.
    Refused(String),
    /// The node was not reached.
    Silent(String),
}

type Called = InterceptedService<Channel, AddToken>;

/// The answers, for the clocks; `None` if no other node is configured.
pub(super) async fn examine(check: &mut Check<'_>, config: &Config, looked: &Looked) -> Option<Vec<Answered>> {
    let peers = peers_of(config, looked);
    if peers.is_empty() {
        check.note("no other node is configured");
        return None;
    }
    let security = match Secrets::of(config).peer_security(config, &looked.tiers(config)) {
        Ok(security) => security,
        Err(error) => {
            check.not_checked("other nodes", error);
            return Some(Vec::new());
        }
    };
    let outcomes = join_all(peers.iter().map(|peer| ask(peer, &security))).await;
    let all: Vec<_> = peers.iter().zip(&outcomes).map(|(peer, (outcome, _))| (peer, outcome)).collect();
    for (peer, outcome) in &all {
        report(check, peer, outcome);
    }
    all_silent(check, &all);
    same_cluster(check, config, looked, &all);
    Some(outcomes.into_iter().filter_map(|(_, answered)| answered).collect())
}

fn peers_of(config: &Config, looked: &Looked) -> Vec<Peer> {
    let own = looked.own_addresses(config);
    let mut peers: Vec<Peer> = Vec::new();
    let mut add = |kind, tier, setting, addresses: &[String]| {
        for address in addresses.iter().filter(|address| !own.contains(address)) {
            // A process with all roles asks each node once.
            if !peers.iter().any(|peer| peer.address == *address && peer.kind == kind) {
                peers.push(Peer { kind, tier, setting, address: address.clone() });
            }
        }
    };
    if looked.roles.contains(&Role::Storage) {
        add(Kind::Storage, Tier::Storage, "storage.members", &config.storage.members);
    }
    // By default, the roles of one process find each other.
    let (storage, routers) = (&config.router.storage, &config.gateway.routers);
    let own_storage = looked.roles.contains(&Role::Storage) && *storage == RouterConfig::default().storage;
    let own_router = looked.roles.contains(&Role::Router) && *routers == GatewayConfig::default().routers;
    if looked.roles.contains(&Role::Router) && !own_storage {
        add(Kind::Storage, Tier::Router, "router.storage", storage);
    }
    if looked.roles.contains(&Role::Gateway) && !own_router {
        add(Kind::Router, Tier::Gateway, "gateway.routers", routers);
    }
    // Its accounts are made there; the gateways are asked by its messages.
    if looked.roles.contains(&Role::Canary) && config.canary.makes_accounts() {
        add(Kind::Router, Tier::Operator, "gateway.routers", routers);
    }
    if looked.roles.is_empty() {
        // The defaults are of a machine that runs a node.
        if *routers != GatewayConfig::default().routers {
            add(Kind::Router, Tier::Operator, "gateway.routers", routers);
        }
        add(Kind::Storage, Tier::Operator, "storage.members", &config.storage.members);
    }
    peers
}

async fn ask(peer: &Peer, security: &PeerSecurity) -> (Outcome, Option<Answered>) {
    let silent = |why: String| (Outcome::Silent(why), None);
    match tokio::time::timeout(DEADLINE, tokio::net::lookup_host(&peer.address)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return silent(format!("its name has no address: {error}")),
        Err(_) => return silent("no name server has told its address in time".to_owned()),
    }
    let called =
        security.of_tier(peer.tier).and_then(|security| Ok((security.channel(&peer.address)?, security.token())));
    let (channel, token) = match called {
        Ok(called) => called,
        Err(error) => return silent(error.to_string()),
    };
    let asked = SystemTime::now();
    let call = tokio::time::timeout(2 * DEADLINE, told_by(peer, channel.clone(), token.clone()));
    let answer = call.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
    let heard = SystemTime::now();
    let date = |metadata: &tonic::metadata::MetadataMap| metadata.get("date")?.to_str().ok().and_then(http_date);
    let (outcome, date) = match answer {
        Ok(response) => {
            let date = date(response.metadata());
            (Outcome::Told(response.into_inner()), date)
        }
        Err(status) => {
            // Only what came over the network has a date.
            let date = date(status.metadata());
            let outcome = outcome_of(&status, date.is_some());
            if date.is_none() {
                return (outcome, None);
            }
            (outcome, date)
        }
    };
    let mut looks: Vec<Look> = date.and_then(|seconds| Look::at_date(asked, heard, seconds)).into_iter().collect();
    looks.extend(read_clock(channel, token).await);
    (outcome, Some(Answered { peer: peer.address.clone(), looks }))
}

/// A connection that is open by now answers faster, which makes the reading sharper. Empty for a release that does not know the question.
async fn read_clock(channel: Channel, token: AddToken) -> Vec<Look> {
    const READINGS: usize = 5;
    let mut client = ClockClient::with_interceptor(channel, token);
    let mut looks = Vec::new();
    for _ in 0..READINGS {
        let asked = SystemTime::now();
        let reading = tokio::time::timeout(DEADLINE, client.read(soon(ReadRequest {}))).await;
        let Ok(Ok(reading)) = reading else { break };
        looks.extend(Look::at(asked, SystemTime::now(), reading.into_inner().time_us));
    }
    looks
}

fn outcome_of(status: &Status, was_reached: bool) -> Outcome {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Outcome::Refused(status.message().to_owned()),
        _ if was_reached => Outcome::Waits(cause(status)),
        _ => Outcome::Silent(cause(status)),
    }
}

/// The metadata is that of the first answer.
async fn told_by(peer: &Peer, channel: Channel, token: AddToken) -> Result<Response<Told>, Status> {
    match (peer.kind, peer.tier) {
        (Kind::Storage, Tier::Storage) => {
            let mut client = BootstrapClient::with_interceptor(channel, token);
            Ok(client.describe(soon(DescribeRequest {})).await?.map(by_identity))
        }
        (Kind::Storage, Tier::Operator) => {
            let mut client = ClusterAdminClient::with_interceptor(channel, token);
            Ok(client.members(soon(MembersRequest {})).await?.map(by_members))
        }
        (Kind::Router, Tier::Operator) => {
            let mut client = AdminClient::with_interceptor(channel, token);
            let address = peer.address.clone();
            Ok(client.status(soon(StatusRequest {})).await?.map(|reply| by_status(reply, &address)))
        }
        (Kind::Storage | Kind::Router, _) => {
            by_registry(peer.kind, RegistryClient::with_interceptor(channel, token)).await
        }
    }
}

async fn by_registry(kind: Kind, mut client: RegistryClient<Called>) -> Result<Response<Told>, Status> {
    let watching = client.watch(soon(WatchRequest {})).await?;
    let metadata = watching.metadata().clone();
    let view = watching.into_inner().message().await?.unwrap_or_default();
    let RegistryView { cluster, level, .. } = view;
    let mut told = Told { cluster, cluster_level: level, ..Told::default() };
    // Routers do not answer this to gateways.
    if kind == Kind::Storage {
        let release = client.leads(soon(LeadsRequest {})).await?.into_inner().release.unwrap_or_default();
        (told.release, told.reads_level) = (release.version, release.level);
    }
    let mut response = Response::new(told);
    *response.metadata_mut() = metadata;
    Ok(response)
}

fn by_identity(identity: Identity) -> Told {
    Told {
        cluster: identity.cluster.map(|cluster| cluster.id).unwrap_or_default(),
        cluster_level: identity.level,
        release: identity.release,
        reads_level: identity.reads_level,
    }
}

/// The called node does not say which one of the members it is.
fn by_members(members: MembersReply) -> Told {
    Told { cluster: members.cluster, cluster_level: members.level, ..Told::default() }
}

fn by_status(status: StatusReply, address: &str) -> Told {
    let view = status.registry.unwrap_or_default();
    let node = view.nodes.iter().find(|node| node.kind() == NodeKind::Router && node.address == address);
    let of_node = |told: &&carillon_proto::pb::admin::NodeRelease| {
        Some((told.kind, told.lease)) == node.map(|node| (node.kind, node.lease))
    };
    let release = status.releases.iter().find(of_node).and_then(|told| told.release.clone()).unwrap_or_default();
    Told { cluster: view.cluster, cluster_level: view.level, release: release.version, reads_level: release.level }
}

fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn report(check: &mut Check<'_>, peer: &Peer, outcome: &Outcome) {
    let shown = format!("{} {}", peer.setting, peer.address);
    match outcome {
        Outcome::Silent(why) => check.warning(
            format!("{shown} is not reached: {why}"),
            "is it running, is the address right, does a firewall or a NetworkPolicy let this node through?",
        ),
        Outcome::Refused(why) => check.fault(
            format!("{shown} refuses the {} token: {why}", peer.tier),
            "both nodes need the same cluster.secret_file, or the same token of this tier",
        ),
        Outcome::Waits(why) => check.note(format!("{shown} is reached, and takes the token, but waits itself: {why}")),
        Outcome::Told(told) => {
            let own = Level::OF_PROGRAM.0;
            let runs = match told.release.as_str() {
                "" => "of a release that it does not tell this tier".to_owned(),
                release => format!("of release {release}, which reads levels up to {}", told.reads_level),
            };
            let of = if told.cluster.is_empty() { "none yet" } else { told.cluster.as_str() };
            let found = format!("{shown} is reached and takes the token; it is {runs}; cluster {of}");
            if told.cluster_level > own {
                let level = told.cluster_level;
                check.fault(
                    format!("{found}, at level {level}, but this program reads levels up to {own}"),
                    "run the release of the cluster, or a newer one",
                );
            } else {
                check.ok(format!("{found}, level {}", told.cluster_level));
            }
            let release = env!("CARGO_PKG_VERSION");
            if !told.release.is_empty() && told.release != release {
                check.note(format!("{shown} runs release {}, and this program is of {release}", told.release));
            }
        }
    }
}

/// A node that reaches none of the nodes that it needs can't work.
fn all_silent(check: &mut Check<'_>, outcomes: &[(&Peer, &Outcome)]) {
    let mut settings: Vec<&'static str> = outcomes.iter().map(|(peer, _)| peer.setting).collect();
    settings.dedup();
    for setting in settings {
        let mut of = outcomes.iter().filter(|(peer, _)| peer.setting == setting);
        if of.all(|(_, outcome)| matches!(outcome, Outcome::Silent(_))) {
            check.fault(format!("none of {setting} is reached"), "see the lines above");
        }
    }
}

fn same_cluster(check: &mut Check<'_>, config: &Config, looked: &Looked, outcomes: &[(&Peer, &Outcome)]) {
    let own = match look(&config.storage.data_dir) {
        Ok(Folder::Member(place)) if looked.roles.contains(&Role::Storage) => Some(("this node", place.cluster)),
        _ => None,
    };
    let others = outcomes.iter().filter_map(|(peer, outcome)| match outcome {
        Outcome::Told(told) if !told.cluster.is_empty() => Some((peer.address.as_str(), told.cluster.clone())),
        _ => None,
    });
    let all: Vec<(&str, String)> = own.into_iter().chain(others).collect();
    let Some((first, cluster)) = all.first() else { return };
    match all.iter().find(|(_, other)| other != cluster) {
        Some((peer, other)) => check.fault(
            format!("{first} is of cluster {cluster}, but {peer} of cluster {other}"),
            "correct the addresses, or give the node the data folder of its cluster",
        ),
        None if all.len() > 1 => check.ok(format!("{} nodes are of the same cluster", all.len())),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Report, Severity},
        *,
    };

    fn looked(roles: &[Role]) -> Looked {
        Looked { roles: roles.to_vec() }
    }

    #[test]
    fn a_node_asks_others_and_not_itself() {
        let mut config = Config::default();
        config.storage.listen = "127.0.0.9:7401".parse().expect("address");
        assert_eq!(peers_of(&config, &looked(Role::ALL)), [], "a process by itself");
        assert_eq!(peers_of(&config, &looked(&[])), [], "an operator without addresses");
        config.storage.advertise = "a:1".into();
        config.storage.members = vec!["a:1".into(), "b:1".into()];
        config.router.storage = vec!["a:1".into(), "b:1".into(), "c:1".into()];
        let of = |roles: &[Role]| -> Vec<(Tier, String)> {
            peers_of(&config, &looked(roles)).into_iter().map(|peer| (peer.tier, peer.address)).collect()
        };
        assert_eq!(of(&[Role::Storage]), [(Tier::Storage, "b:1".into())]);
        assert_eq!(of(&[Role::Router]).len(), 3);
        let routers = GatewayConfig::default().routers.into_iter().map(|router| (Tier::Operator, router));
        assert_eq!(of(&[Role::Canary]), routers.collect::<Vec<_>>());
        assert_eq!(of(&[]), [(Tier::Operator, "a:1".into()), (Tier::Operator, "b:1".into())]);
        assert_eq!(of(&[Role::Storage, Role::Router]), [(Tier::Storage, "b:1".into()), (Tier::Router, "c:1".into())]);
    }

    #[test]
    fn another_cluster_and_a_newer_level_are_faults() {
        let peer = |address: &str| Peer {
            kind: Kind::Storage,
            tier: Tier::Router,
            setting: "router.storage",
            address: address.to_owned(),
        };
        let told = |cluster: &str, cluster_level| {
            Outcome::Told(Told { cluster: cluster.into(), cluster_level, ..Told::default() })
        };
        let worst = |outcomes: &[Outcome]| {
            let mut report_of = Report::default();
            let mut check = report_of.check("peers");
            let peers: Vec<Peer> = (0..outcomes.len()).map(|number| peer(&format!("s{number}:1"))).collect();
            let pairs: Vec<_> = peers.iter().zip(outcomes).collect();
            pairs.iter().for_each(|(peer, outcome)| report(&mut check, peer, outcome));
            all_silent(&mut check, &pairs);
            same_cluster(&mut check, &Config::default(), &looked(&[Role::Router]), &pairs);
            report_of.worst()
        };
        let silent = || Outcome::Silent("connection refused".into());
        assert_eq!(worst(&[told("x", 1), told("x", 1)]), Severity::Ok);
        assert_eq!(worst(&[told("x", 1), silent()]), Severity::Warning);
        assert_eq!(worst(&[silent(), silent()]), Severity::Fault);
        assert_eq!(worst(&[told("x", 1), told("y", 1)]), Severity::Fault);
        assert_eq!(worst(&[told("x", Level::OF_PROGRAM.0 + 1)]), Severity::Fault);
        assert_eq!(worst(&[Outcome::Refused("unknown token".into())]), Severity::Fault);
        assert_eq!(worst(&[told("x", 1), Outcome::Waits("no cluster".into())]), Severity::Note);
    }
}
