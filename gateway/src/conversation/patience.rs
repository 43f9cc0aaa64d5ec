//! The time for which a client may say nothing.

use std::time::{Duration, Instant};

use carillon_proto::pb::store::session::Protocol;

use super::{Now, Rules};

/// The time for the answer to a ping.
const XMPP_ANSWER: Duration = Duration::from_secs(60);

/// The times at which a client that has just been heard is given up, and is asked for a sign of life. A client that keeps to the heartbeat is
/// never asked: the second time is a little later than its next word. XMPP has no heartbeat: its clients are asked after a long time, and have a
/// minute for the answer.
pub(super) fn patience(rules: &Rules, protocol: Protocol, now: Now) -> (Instant, Instant) {
    if protocol == Protocol::Xmpp {
        let ping_at = now.instant + rules.xmpp_silence;
        return (ping_at + XMPP_ANSWER, ping_at);
    }
    let heartbeat = Duration::from_millis(rules.heartbeat_ms.into());
    (now.instant + rules.silence, now.instant + heartbeat + heartbeat / 4)
}

/// Whether silent clients are asked for a sign of life. A WebSocket's other end answers pings even while a browser has stopped the page's
/// timers. Over native TCP and gRPC the client is a program that runs, and says something by itself; XMPP does not ask that of its clients.
pub(super) fn pings(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Websocket | Protocol::Xmpp)
}
