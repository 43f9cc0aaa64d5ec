//! For how long a client may say nothing.

use std::time::{Duration, Instant};

use carillon_proto::pb::store::session::Protocol;

use super::{Now, Rules};

/// The time for the answer to a ping.
const XMPP_ANSWER: Duration = Duration::from_secs(60);

/// When a client that has just been heard is given up, and when it is asked for a sign of life: a little later than a
/// client that keeps to the heartbeat would give it, so that such a one is never asked. XMPP has no heartbeat: a client of it is
/// asked after a long time, and has a minute for its answer.
pub(super) fn patience(rules: &Rules, protocol: Protocol, now: Now) -> (Instant, Instant) {
    if protocol == Protocol::Xmpp {
        let ping_at = now.instant + rules.xmpp_silence;
        return (ping_at + XMPP_ANSWER, ping_at);
    }
    let heartbeat = Duration::from_millis(rules.heartbeat_ms.into());
    (now.instant + rules.silence, now.instant + heartbeat + heartbeat / 4)
}

/// A WebSocket's other end answers pings even while a browser has stopped the page's timers. Over TCP and gRPC the
/// client is a program that runs, and says something by itself; XMPP does not ask that of it.
pub(super) fn pings(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Websocket | Protocol::Xmpp)
}
