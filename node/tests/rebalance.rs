//! Clients of a crowded gateway move to another one, seen from outside.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use carillon_client::Credential;
use carillon_proto::pb::client::{Code, Entry, content, server_frame};
use futures_util::future::join_all;
use support::{
    cluster::Cluster,
    node::until,
    people::{Device, PATIENCE, enter},
};
use tokio::{runtime::Runtime, sync::watch};

const CLIENTS: usize = 24;
/// The mean is 12, and the bound 16: it ends halfway.
const EVEN: [usize; 2] = [14, 10];
/// Settings that let gateways rebalance soon. Figures of routers are at most ten seconds old.
const BOUNDS: &str = "gateway.rebalance_factor = 1.0\ngateway.rebalance_margin = 4\ngateway.rebalance_after_ms = 12000\n\
                      gateway.rebalance_per_second = 4\ngateway.rebalance_rest_ms = 1000\n";
/// Longer than a rest and the time until it would begin.
const QUIET: Duration = Duration::from_secs(20);

fn text(entry: &Entry) -> Option<&String> {
    match entry.envelope.as_ref()?.content.as_ref()?.body.as_ref()? {
        content::Body::Text(text) => Some(&text.body),
        _ => None,
    }
}

async fn enters(cluster: &Cluster, gateway: usize, number: usize) -> Device {
    let user = format!("user-{number}");
    let credential = Credential::Token(cluster.token(&user));
    enter(&cluster.addresses[gateway], &user, "phone", &credential).await.expect("signs in")
}

/// Stays connected as a client of a load balancer: when it is asked to go, it comes back at the other gateway. Ends after `stop`.
/// Returns how often it was asked.
async fn stays(cluster: &Cluster, number: usize, mut stop: watch::Receiver<bool>) -> (Device, usize) {
    let mut device = enters(cluster, 0, number).await;
    let mut asked = 0;
    loop {
        let said = tokio::select! {
            said = device.said() => said,
            _ = stop.wait_for(|stop| *stop) => return (device, asked),
        };
        match said {
            Some(server_frame::Body::Bye(bye)) => {
                assert_eq!((bye.code(), bye.reconnect), (Code::ShuttingDown, true), "{}", bye.reason);
                asked += 1;
                device = enters(cluster, asked % 2, number).await;
            }
            Some(_) => {}
            None => panic!("the connection ended without a Bye"),
        }
    }
}

#[test]
fn gateways_even_out_nothing_is_lost_and_then_nobody_is_asked_any_more() {
    let mut cluster = Cluster::start();
    for gateway in &mut cluster.gateways {
        gateway.change_config(|config| format!("{BOUNDS}{config}"));
        gateway.terminate();
        gateway.start_again();
    }
    cluster.wait_ready();
    let runtime = Runtime::new().expect("runtime");
    let clients = thread::scope(|threads| {
        // Dropped by a failure, too: it ends the clients.
        let (stop, stopped) = watch::channel(false);
        let (cluster, runtime) = (&cluster, &runtime);
        let clients = (0..CLIENTS).map(move |number| stays(cluster, number, stopped.clone()));
        let clients = threads.spawn(move || runtime.block_on(join_all(clients)));
        let metric = |gateway: usize, name: &str| cluster.gateways[gateway].metric(name) as usize;
        let sessions = || [0, 1].map(|gateway| metric(gateway, "carillon_gateway_sessions"));
        let asked = || [0, 1].map(|gateway| metric(gateway, "carillon_gateway_rebalanced_total"));
        until("the gateways are even", 3 * PATIENCE, || sessions() == EVEN);
        let began = Instant::now();
        until("nobody was asked for a while", 3 * PATIENCE, || {
            assert_eq!((sessions(), asked()), (EVEN, [EVEN[1], 0]), "clients are asked again");
            began.elapsed() > QUIET
        });
        stop.send_replace(true);
        clients.join().expect("clients stay")
    });
    assert!(clients.iter().all(|(_, asked)| *asked <= 1), "a client was asked twice");
    // Each still hears its neighbour, wherever that is.
    let mut devices: Vec<Device> = clients.into_iter().map(|(device, _)| device).collect();
    runtime.block_on(async {
        for (number, device) in devices.iter_mut().enumerate() {
            let to = format!("user-{}", (number + 1) % CLIENTS);
            device.send(&to, "one", &format!("from {number}")).await.expect("is accepted");
        }
        for (number, device) in devices.iter_mut().enumerate() {
            let from = (number + CLIENTS - 1) % CLIENTS;
            assert!(device.history().await.entries.iter().any(|entry| text(entry) == Some(&format!("from {from}"))));
        }
    });
}
