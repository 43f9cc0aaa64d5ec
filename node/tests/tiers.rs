//! Which calls between nodes a tier's token may make. docs/operations.md has the same table.

mod support;

use carillon_proto::{
    pb::{
        admin::{StatusRequest, admin_client::AdminClient},
        backup::backup_client::BackupClient,
        diagnostics::{clock_client::ClockClient, diagnostics_client::DiagnosticsClient},
        link::{Hello, ToRouter, router_client::RouterClient},
        raft::{
            DescribeRequest, RaftFrames, SnapshotPiece, bootstrap_client::BootstrapClient,
            founding_client::FoundingClient, raft_client::RaftClient,
        },
        store::{
            DeregisterRequest, NodeKind, RegisterRequest, Release, RenewRequest, ToStore, WatchRequest,
            registry_client::RegistryClient, store_client::StoreClient,
        },
    },
    peer::{PeerSecurity, Tier},
};
use futures_util::stream;
use support::service::{CLUSTER_SECRET, Service};
use tonic::{Code, Request, Status};

/// A request with a time limit.
fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(std::time::Duration::from_secs(10));
    request
}

/// Makes the call with this tier's token. An error that is not about the token means that the call was admitted.
async fn call(service: &Service, name: &str, tier: Tier, secret: &str) -> Result<(), Code> {
    let security = PeerSecurity::from_secret(tier, secret, None).expect("valid");
    let address = if name.ends_with("router") { service.router() } else { service.storage() };
    let channel = security.channel(&address.to_string()).expect("channel");
    let token = security.token();
    let done: Result<(), Status> = match name {
        "Raft.Stream" => {
            let frames = soon(stream::iter([RaftFrames::default()]));
            RaftClient::with_interceptor(channel, token).stream(frames).await.map(drop)
        }
        "Raft.InstallSnapshot" => {
            let pieces = soon(stream::iter([SnapshotPiece::default()]));
            RaftClient::with_interceptor(channel, token).install_snapshot(pieces).await.map(drop)
        }
        "Bootstrap.Describe" => {
            BootstrapClient::with_interceptor(channel, token).describe(soon(DescribeRequest {})).await.map(drop)
        }
        "Bootstrap.Assign" => {
            BootstrapClient::with_interceptor(channel, token).assign(soon(Default::default())).await.map(drop)
        }
        "Bootstrap.Announce" => {
            BootstrapClient::with_interceptor(channel, token).announce(soon(Default::default())).await.map(drop)
        }
        "Bootstrap.Carry" => {
            BootstrapClient::with_interceptor(channel, token).carry(soon(Default::default())).await.map(drop)
        }
        "Founding.Found" => {
            FoundingClient::with_interceptor(channel, token).found(soon(Default::default())).await.map(drop)
        }
        "Backup.Describe" => {
            BackupClient::with_interceptor(channel, token).describe(soon(Default::default())).await.map(drop)
        }
        "Backup.Read" => BackupClient::with_interceptor(channel, token).read(soon(Default::default())).await.map(drop),
        "Store.Stream" => {
            let requests = soon(stream::iter([ToStore::default()]));
            StoreClient::with_interceptor(channel, token).stream(requests).await.map(drop)
        }
        "Store.FindMessage" => {
            StoreClient::with_interceptor(channel, token).find_message(soon(Default::default())).await.map(drop)
        }
        "Registry.Watch" | "Registry.Watch at a router" => {
            RegistryClient::with_interceptor(channel, token).watch(soon(WatchRequest {})).await.map(drop)
        }
        "Registry.Renew" | "Registry.Renew at a router" => {
            // Nobody has this lease.
            let renew = soon(RenewRequest { lease: 3, ..RenewRequest::default() });
            RegistryClient::with_interceptor(channel, token).renew(renew).await.map(drop)
        }
        "Router.Link at a router" => {
            let first = soon(stream::iter([ToRouter::default()]));
            RouterClient::with_interceptor(channel, token).link(first).await.map(drop)
        }
        "Diagnostics.Describe" | "Diagnostics.Describe at a router" => {
            DiagnosticsClient::with_interceptor(channel, token).describe(soon(Default::default())).await.map(drop)
        }
        "Clock.Read" | "Clock.Read at a router" => {
            ClockClient::with_interceptor(channel, token).read(soon(Default::default())).await.map(drop)
        }
        "Admin.DescribeGateway at a router" => {
            AdminClient::with_interceptor(channel, token).describe_gateway(soon(Default::default())).await.map(drop)
        }
        "Admin.Status at a router" => {
            AdminClient::with_interceptor(channel, token).status(soon(StatusRequest {})).await.map(drop)
        }
        other => panic!("no such call: {other}"),
    };
    match done {
        Err(status) if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) => Err(status.code()),
        Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unimplemented) => {
            panic!("{name} was not answered: {status}")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[test]
fn each_call_opens_to_its_tiers_and_to_nobody_else() {
    let service = Service::shared();
    service.block_on(async {
        for (name, opens_to) in [
            ("Raft.Stream", &[Tier::Storage][..]),
            ("Raft.InstallSnapshot", &[Tier::Storage]),
            ("Bootstrap.Describe", &[Tier::Storage]),
            ("Bootstrap.Assign", &[Tier::Storage]),
            ("Bootstrap.Announce", &[Tier::Storage]),
            ("Bootstrap.Carry", &[Tier::Storage]),
            ("Founding.Found", &[Tier::Operator]),
            ("Backup.Describe", &[Tier::Operator]),
            ("Backup.Read", &[Tier::Operator]),
            ("Store.Stream", &[Tier::Router]),
            ("Store.FindMessage", &[Tier::Router]),
            ("Registry.Watch", &[Tier::Storage, Tier::Router]),
            ("Registry.Renew", &[Tier::Storage, Tier::Router]),
            ("Registry.Watch at a router", &[Tier::Gateway]),
            ("Registry.Renew at a router", &[Tier::Gateway]),
            ("Router.Link at a router", &[Tier::Gateway, Tier::Router]),
            ("Admin.Status at a router", &[Tier::Operator]),
            ("Admin.DescribeGateway at a router", &[Tier::Operator]),
            ("Diagnostics.Describe", &[Tier::Operator]),
            ("Diagnostics.Describe at a router", &[Tier::Operator]),
            ("Clock.Read", &Tier::ALL),
            ("Clock.Read at a router", &Tier::ALL),
        ] {
            for tier in Tier::ALL {
                let right = if opens_to.contains(&tier) { Ok(()) } else { Err(Code::PermissionDenied) };
                assert_eq!(call(service, name, tier, CLUSTER_SECRET).await, right, "{name} with the {tier} token");
                let other = call(service, name, tier, "another-cluster-1").await;
                assert_eq!(other, Err(Code::Unauthenticated), "{name} with another cluster's {tier} token");
            }
        }
    });
}

#[test]
fn a_gateway_can_not_pass_for_a_router() {
    let service = Service::shared();
    service.block_on(async {
        let gateway = PeerSecurity::from_secret(Tier::Gateway, CLUSTER_SECRET, None).expect("valid");
        let channel = gateway.channel(&service.router().to_string()).expect("channel");
        let mut registry = RegistryClient::with_interceptor(channel.clone(), gateway.token());
        let mut views = registry.watch(WatchRequest {}).await.expect("watches").into_inner();
        let view = views.message().await.expect("open").expect("a view");
        let router = view.nodes.iter().find(|node| node.kind() == NodeKind::Router).expect("a router").lease;

        let request = RegisterRequest {
            kind: NodeKind::Router.into(),
            address: "127.0.0.1:9".into(),
            ttl_ms: 1000,
            nonce: vec![7; 16].into(),
            release: Some(Release::own()),
            ..RegisterRequest::default()
        };
        let refused = registry.register(soon(request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let refused =
            registry.renew(soon(RenewRequest { lease: router, ..RenewRequest::default() })).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let refused = registry.deregister(soon(DeregisterRequest { lease: router })).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

        // A link that claims to be a router's, and a link that brings hints, end at once.
        let link = |kind: NodeKind, hints| ToRouter {
            hello: Some(Hello { lease: router, kind: kind.into() }),
            hints,
            ..ToRouter::default()
        };
        for first in [link(NodeKind::Router, vec![]), link(NodeKind::Gateway, vec![Default::default()])] {
            let mut client = RouterClient::with_interceptor(channel.clone(), gateway.token());
            // The link lasts for as long as the router permits it.
            let says = soon(futures_util::StreamExt::chain(stream::iter([first]), stream::pending()));
            let mut hears = client.link(says).await.expect("let in").into_inner();
            let ended = async { while let Ok(Some(_)) = hears.message().await {} };
            tokio::time::timeout(std::time::Duration::from_secs(5), ended).await.expect("cut");
        }
    });
}
