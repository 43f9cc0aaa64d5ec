//! Makes the scenarios' configurations from the arguments.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use carillon_client::{ConnectOptions, Trust};

use super::{
    scenario::{Common, Direct, Herd, Idle, Offline, SignIn},
    seconds,
};
use crate::{
    measure::{gateways::Gateways, proc, servers::Servers},
    payload::Filling,
    report::levels::Levels,
    scenario::{
        Environment, Target,
        direct::{DirectConfig, SlowReaders},
        herd::HerdConfig,
        idle::IdleConfig,
        offline::OfflineConfig,
        sign_in::SignInConfig,
    },
    session::Setting,
};

impl Common {
    /// Reads the files that the options name.
    pub(super) fn setting(&self, scenario: &str) -> anyhow::Result<Setting> {
        Ok(Setting {
            scenario: scenario.to_owned(),
            target: target(&self.url, self.ca.as_deref(), self.server_name.as_deref())?,
            credentials: self.sign_in.credentials(&self.token_secret_file)?,
            servers: servers(&self.server_pid, &self.admin)?,
            gateways: Gateways::new(&self.gateway_admin)?,
            levels: Levels {
                max_p99_ms: self.max_p99_ms,
                min_rate: self.min_rate,
                max_cpu_us: self.max_cpu_us,
                ..Levels::default()
            },
            outputs: self.outputs.outputs(),
            note: self.outputs.note.clone(),
            threads: self.workers.max(1),
        })
    }
}

pub(crate) fn target(urls: &[String], ca: Option<&Path>, server_name: Option<&str>) -> anyhow::Result<Target> {
    let addresses = urls.iter().map(|url| url.parse()).collect::<Result<_, _>>()?;
    let trust = match ca {
        Some(path) => {
            Trust::ca(std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?)
        }
        None => Trust::public(),
    };
    let connect = ConnectOptions { trust, server_name: server_name.map(str::to_owned), ..ConnectOptions::default() };
    Ok(Target { addresses, connect })
}

pub(crate) fn servers(pids: &[u32], admins: &[String]) -> anyhow::Result<Servers> {
    let servers = Servers::default();
    for pid in pids {
        anyhow::ensure!(proc::usage(*pid).is_some(), "there is no process {pid}");
        servers.add_pid(&format!("pid {pid}"), *pid);
    }
    for url in admins {
        servers.add_admin(url)?;
    }
    Ok(servers)
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
        IdleConfig {
            connections: self.connections.max(1),
            concurrency: self.concurrency,
            groups: self.groups.in_groups(),
        }
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
            resume: self.resume,
            groups: self.groups.in_groups(),
            up_to_date: self.up_to_date,
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
