//! Makes the scenarios' configurations from the arguments.

use std::time::Duration;

use super::{
    arguments::{Common, Direct, Herd, Idle, Offline, SignIn},
    seconds,
};
use crate::{
    payload::Filling,
    report::levels::Levels,
    scenario::{
        Environment,
        direct::{DirectConfig, SlowReaders},
        herd::HerdConfig,
        idle::IdleConfig,
        offline::OfflineConfig,
        sign_in::SignInConfig,
    },
};

impl Common {
    pub(super) fn levels(&self) -> Levels {
        Levels { max_p99_ms: self.max_p99_ms, min_rate: self.min_rate, max_cpu_us: self.max_cpu_us }
    }
}

impl Direct {
    pub(super) fn config(&self, environment: &Environment) -> DirectConfig {
        let users = self.users.max(2);
        DirectConfig {
            run: environment.run.clone(),
            addresses: environment.target.addresses.clone(),
            users,
            devices: self.devices.max(1),
            rate: self.rate.map(|rate| rate / users as f64),
            window: self.window.max(1),
            bytes: self.bytes,
            filling: Filling::Repeated,
            send_timeout: Duration::from_secs(30),
            slow_readers: SlowReaders {
                count: self.slow_readers.min(users),
                pause: Duration::from_millis(self.slow_pause_ms),
            },
        }
    }
}

impl Idle {
    pub(super) fn config(&self) -> IdleConfig {
        IdleConfig { connections: self.connections.max(1), concurrency: self.concurrency }
    }
}

impl SignIn {
    pub(super) fn config(&self) -> SignInConfig {
        SignInConfig {
            count: self.count.max(1),
            users: self.users.unwrap_or(self.count).max(1),
            concurrency: self.concurrency.max(1),
            rate: self.rate,
            sign_out: self.sign_out,
            new_users: self.new_users,
        }
    }
}

impl Offline {
    pub(super) fn config(&self) -> OfflineConfig {
        OfflineConfig {
            absent: self.absent.max(1),
            senders: self.senders.max(1),
            messages: self.messages,
            rate: self.rate,
            window: self.window.max(1),
            bytes: self.bytes,
            patience: seconds(self.patience),
        }
    }
}

impl Herd {
    pub(super) fn config(&self) -> HerdConfig {
        HerdConfig {
            connections: self.connections.max(1),
            senders: self.senders.max(1),
            window: 64,
            bytes: self.bytes,
            trigger: self.trigger_cmd.clone(),
            patience: seconds(self.patience),
        }
    }
}
