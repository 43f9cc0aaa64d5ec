//! Makes of a scenario what its parts are run with.

use std::time::Duration;

use super::{CapacityPart, DirectPart, ScenarioFile};
use crate::{
    capacity::{Bounds, CapacityConfig, Wanted},
    cli::{servers, target},
    credentials::Credentials,
    measure::gateways::Gateways,
    payload::Filling,
    report::levels::Levels,
    scenario::{
        Environment,
        direct::{DirectConfig, SlowReaders},
        herd::HerdConfig,
        idle::IdleConfig,
        offline::OfflineConfig,
        pacer::Pace,
    },
    session::{Outputs, Setting},
};

/// A send without an answer for this long is unknown.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(30);

impl ScenarioFile {
    /// Reads the files that the scenario names, and connects to nothing.
    pub(crate) fn setting(&self, outputs: Outputs, note: String, threads: usize) -> anyhow::Result<Setting> {
        let part = &self.target;
        Ok(Setting {
            scenario: self.name.clone(),
            target: target(&part.addresses, part.ca.as_deref(), part.server_name.as_deref())?,
            credentials: self.sign_in.credentials(&part.token_secret_file)?,
            servers: servers(&part.server_pids, &part.admin)?,
            gateways: Gateways::new(&part.gateway_admin)?,
            levels: self.levels(),
            outputs,
            note,
            threads,
        })
    }

    /// For a process that signs nobody in.
    pub(crate) fn coordinators_setting(&self, outputs: Outputs, note: String) -> anyhow::Result<Setting> {
        let part = &self.target;
        Ok(Setting {
            scenario: self.name.clone(),
            target: target(&part.addresses, None, None)?,
            credentials: Credentials::given(String::new()),
            servers: servers(&part.server_pids, &part.admin)?,
            gateways: Gateways::new(&part.gateway_admin)?,
            levels: self.levels(),
            outputs,
            note,
            threads: 1,
        })
    }

    fn levels(&self) -> Levels {
        let level = &self.level;
        Levels {
            max_p99_ms: None,
            max_acceptance_p99_ms: level.acceptance_p99_ms,
            max_delivery_p99_ms: level.delivery_p99_ms,
            // Rates above the capacity are tried on purpose; what is refused there is in the steps.
            max_not_accepted: level.not_accepted.filter(|_| self.capacity.is_none()),
            min_rate: level.rate,
            max_cpu_us: level.server_cpu_us,
        }
    }

    pub(crate) fn direct_config(&self, direct: &DirectPart, environment: &Environment) -> DirectConfig {
        DirectConfig {
            run: environment.run.clone(),
            addresses: environment.target.addresses.clone(),
            users: direct.users,
            devices: direct.devices,
            // The pace is given with the run.
            rate: None,
            window: direct.window,
            bytes: direct.bytes,
            filling: Filling::Repeated,
            send_timeout: SEND_TIMEOUT.min(self.time.patience.0),
            slow_readers: SlowReaders { count: direct.slow_readers, pause: direct.slow_pause.0 },
        }
    }

    /// The pace of each user; `None`: as fast as the window allows.
    pub(crate) fn pace(&self, direct: &DirectPart) -> Option<Pace> {
        let ramp = direct.ramp.map(|ramp| Pace::Ramp { from: ramp.from, to: ramp.to, over: self.whole() });
        direct.rate.map(Pace::Steady).or(ramp).map(|pace| pace.each_of(direct.users))
    }

    /// How long messages are sent.
    pub(crate) fn whole(&self) -> Duration {
        self.time.warm_up.0 + self.time.measured.0
    }

    pub(crate) fn idle_config(&self) -> Option<IdleConfig> {
        let idle = self.idle.as_ref()?;
        Some(IdleConfig { connections: idle.connections, concurrency: idle.concurrency, groups: None })
    }

    pub(crate) fn offline_config(&self) -> Option<OfflineConfig> {
        let offline = self.offline.as_ref()?;
        Some(OfflineConfig {
            absent: offline.absent,
            senders: offline.senders,
            messages: offline.messages,
            rate: offline.rate,
            window: offline.window,
            bytes: offline.bytes,
            patience: self.time.patience.0,
        })
    }

    pub(crate) fn herd_config(&self) -> Option<HerdConfig> {
        let reconnect = self.reconnect.as_ref()?;
        Some(HerdConfig {
            connections: reconnect.connections,
            senders: reconnect.senders,
            window: 64,
            bytes: reconnect.bytes,
            trigger: None,
            patience: self.time.patience.0,
        })
    }

    /// `None` if it looks for no capacity.
    pub(crate) fn capacity_config(&self) -> Option<CapacityConfig> {
        let (direct, part) = (self.direct.as_ref()?, self.capacity.as_ref()?);
        let CapacityPart { from, precision, settle, window, .. } = *part;
        let wanted =
            Wanted { acceptance_p99_ms: self.level.acceptance_p99_ms?, delivery_p99_ms: self.level.delivery_p99_ms };
        let bounds = Bounds { from, least: part.least(), most: self.most(direct, part), precision };
        let patience = self.time.patience.0;
        Some(CapacityConfig { wanted, bounds, settle: settle.0, window: window.0, patience })
    }
}
