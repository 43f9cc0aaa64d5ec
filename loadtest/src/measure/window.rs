//! The resources used between two moments.

use std::time::{Duration, Instant};

use super::{
    proc::{self, MachineTime},
    servers::{ServerUsage, Servers},
};
use crate::report::{recorded::Counts, recorder::Recorder};

/// The state of everything at one moment.
pub struct Reading {
    at: Instant,
    counts: Counts,
    servers: Vec<ServerUsage>,
    own_cpu_us: u64,
    machine: MachineTime,
}

/// The difference of two readings.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Window {
    pub took: Duration,
    pub counts: Counts,
    pub servers: Vec<ServerWindow>,
    /// CPU time of this process.
    pub own_cpu_us: u64,
    /// Used part of all cores' time, by any process: 0 to 1.
    pub machine_busy: f64,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ServerWindow {
    pub name: String,
    pub cpu_us: u64,
    pub rss_before_bytes: u64,
    pub rss_after_bytes: u64,
}

impl Reading {
    pub async fn now(recorder: &Recorder, servers: &Servers) -> Self {
        let servers = servers.read().await;
        let (own_cpu_us, machine) = (proc::own().cpu_us, proc::machine());
        Self { at: Instant::now(), counts: recorder.counts(), servers, own_cpu_us, machine }
    }

    /// From `self` to `later`.
    pub fn until(&self, later: &Self) -> Window {
        let total = later.machine.total.saturating_sub(self.machine.total);
        let busy = later.machine.busy.saturating_sub(self.machine.busy);
        let server = |(before, after): (&ServerUsage, &ServerUsage)| ServerWindow {
            name: after.name.clone(),
            cpu_us: after.usage.cpu_us.saturating_sub(before.usage.cpu_us),
            rss_before_bytes: before.usage.rss_bytes,
            rss_after_bytes: after.usage.rss_bytes,
        };
        Window {
            took: later.at - self.at,
            counts: later.counts.since(&self.counts),
            servers: self.servers.iter().zip(&later.servers).map(server).collect(),
            own_cpu_us: later.own_cpu_us.saturating_sub(self.own_cpu_us),
            machine_busy: if total == 0 { 0.0 } else { busy as f64 / total as f64 },
        }
    }
}

impl Window {
    /// CPU time of all servers in microseconds; `None` if no server is watched.
    pub fn server_cpu_us(&self) -> Option<u64> {
        (!self.servers.is_empty()).then(|| self.servers.iter().map(|server| server.cpu_us).sum())
    }

    /// The growth of all servers' memory, in bytes.
    pub fn server_rss_growth_bytes(&self) -> Option<i64> {
        let growth = |server: &ServerWindow| server.rss_after_bytes as i64 - server.rss_before_bytes as i64;
        (!self.servers.is_empty()).then(|| self.servers.iter().map(growth).sum())
    }

    /// Cores that this process kept busy.
    pub fn own_cores(&self) -> f64 {
        self.own_cpu_us as f64 / self.took.as_micros().max(1) as f64
    }

    /// Cores that the servers kept busy.
    pub fn server_cores(&self) -> Option<f64> {
        Some(self.server_cpu_us()? as f64 / self.took.as_micros().max(1) as f64)
    }
}
