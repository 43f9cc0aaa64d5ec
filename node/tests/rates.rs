//! Rates seen from outside: of clients that a stopping gateway sends away, and of a herd that signs in.

mod support;

use std::time::{Duration, Instant};

use carillon_client::{Credential, SignInError};
use carillon_proto::pb::client::Code;
use futures_util::future::join_all;
use support::{
    people::{Device, enter},
    service::{Carrier, Service},
};

const CLIENTS: usize = 30;

async fn enters(service: &Service, number: usize) -> Result<Device, SignInError> {
    let user = format!("user-{number}");
    let credential = Credential::Token(service.token(&user));
    enter(&service.address(Carrier::Tcp), &user, "phone", &credential).await
}

/// The earliest time at which a rate lets the last of so many through.
fn at_rate(count: usize, per_second: f64) -> Duration {
    Duration::from_secs_f64(count as f64 / per_second)
}

#[test]
fn a_stopping_gateway_tells_its_clients_to_go_at_its_rate() {
    const PER_SECOND: f64 = 20.0;
    let service = Service::start(&format!(
        "gateway.drain_per_second = {PER_SECOND}\ngateway.drain_delay_ms = 0\ngateway.drain_spread_ms = 0"
    ));
    service.block_on(async {
        let entered = join_all((0..CLIENTS).map(|number| enters(&service, number))).await;
        let devices: Vec<Device> = entered.into_iter().map(|entered| entered.expect("signs in")).collect();
        let began = Instant::now();
        service.node.signal("TERM");
        let goes = |mut device: Device| async move {
            assert_eq!(device.bye().await, (Code::ShuttingDown, true));
            began.elapsed()
        };
        let mut gone = join_all(devices.into_iter().map(goes)).await;
        gone.sort();
        for (before, at) in gone.iter().enumerate() {
            assert!(*at >= at_rate(before, PER_SECOND), "{} clients were told to go within {at:?}", before + 1);
        }
    });
}

#[test]
fn a_herd_signs_in_at_the_rate_and_each_client_gets_in_at_the_time_that_it_was_told() {
    const PER_SECOND: f64 = 10.0;
    const BURST: usize = 10;
    // Each begins anew.
    const COST: usize = 2;
    let service =
        Service::start(&format!("gateway.sign_ins_per_second = {PER_SECOND}\ngateway.sign_in_burst = {BURST}"));
    service.block_on(async {
        let began = Instant::now();
        let comes = async |number: usize| {
            let (mut tries, mut entered) = (1, enters(&service, number).await);
            if let Err(SignInError::Bye(bye)) = &entered {
                assert_eq!((bye.code(), bye.reconnect), (Code::Overloaded, true));
                tokio::time::sleep(Duration::from_millis(bye.reconnect_after_ms.into())).await;
                (tries, entered) = (2, enters(&service, number).await);
            }
            let device = entered.unwrap_or_else(|error| panic!("try {tries} of client {number}: {error}"));
            // Kept: its place among those of its user is not free again.
            (began.elapsed(), tries, device)
        };
        let mut came = join_all((0..CLIENTS).map(comes)).await;
        came.sort_by_key(|(at, ..)| *at);
        for (before, (at, ..)) in came.iter().enumerate() {
            let paid = ((before + 1) * COST).saturating_sub(BURST);
            assert!(*at >= at_rate(paid, PER_SECOND), "{} clients had signed in within {at:?}", before + 1);
        }
        assert!(came.iter().any(|(_, tries, _)| *tries == 2), "nobody was told a time");
    });
}
