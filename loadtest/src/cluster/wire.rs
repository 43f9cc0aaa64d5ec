//! A slow cable: two TAP devices, between which this process carries the frames.
//!
//! Linux has `tc netem` for this, but not every kernel includes it. The cable to the node is disconnected from the
//! bridge and connected again through the pair: `node - veth - bridge of its own - TAP - this process - TAP - the
//! bridge`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_proto::tasks::Tasks;
use tokio::sync::mpsc;
use tokio_tun::{Tun, TunBuilder};

use super::{ClusterError, tool};

pub(crate) struct Wire {
    bridge: String,
    link: String,
    /// The bridge between the node and the wire.
    own: String,
    tasks: Tasks,
}

/// Most frames under way in one direction; further ones are dropped, as by a switch.
const UNDER_WAY: usize = 16_384;
const FRAME_BYTES: usize = 1_600;

impl Wire {
    /// Must be called within a runtime.
    pub(crate) fn insert(bridge: &str, link: &str, delay_ms: u64, tasks: &Tasks) -> Result<Self, ClusterError> {
        let (own, near, far) = (format!("{link}b"), format!("{link}n"), format!("{link}f"));
        let wire = Self { bridge: bridge.to_owned(), link: link.to_owned(), own: own.clone(), tasks: tasks.child() };
        let (near_end, far_end) = (tap(&near)?, tap(&far)?);
        tool::line(&format!("ip link add {own} type bridge"))?;
        tool::line(&format!("ip link set {own} up"))?;
        tool::line(&format!("ip link set {near} master {own} up"))?;
        tool::line(&format!("ip link set {far} master {bridge} up"))?;
        tool::line(&format!("ip link set {link} master {own}"))?;
        let delay = Duration::from_millis(delay_ms);
        wire.carry(Arc::clone(&near_end), Arc::clone(&far_end), delay);
        wire.carry(far_end, near_end, delay);
        Ok(wire)
    }

    fn carry(&self, from: Arc<Tun>, to: Arc<Tun>, delay: Duration) {
        // When it is full, frames are dropped.
        let (under_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        self.tasks.spawn("wire in", async move {
            let mut frame = vec![0; FRAME_BYTES];
            while let Ok(length) = from.recv(&mut frame).await {
                let _ = under_way.try_send((Instant::now() + delay, frame[..length].to_vec()));
            }
        });
        self.tasks.spawn("wire out", async move {
            while let Some((due, frame)) = arriving.recv().await {
                tokio::time::sleep_until(due.into()).await;
                // A lost frame is repeated by its sender.
                let _ = to.send(&frame).await;
            }
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The TAP devices are removed with the tasks that hold them.
        self.tasks.stop();
        let _ = tool::line(&format!("ip link set {} master {}", self.link, self.bridge));
        let _ = tool::line(&format!("ip link del {}", self.own));
    }
}

fn tap(name: &str) -> Result<Arc<Tun>, ClusterError> {
    let failed = |why: String| ClusterError::Tool { command: format!("making the TAP device {name}"), why };
    let made = TunBuilder::new().name(name).tap().up().build().map_err(|error| failed(error.to_string()))?;
    made.into_iter().next().map(Arc::new).ok_or_else(|| failed("no queue".to_owned()))
}
