//! What this process tells the operator of itself.

use carillon_proto::{
    diagnostics::Diagnostics,
    now_ms,
    pb::{diagnostics::Description, store::Release},
};
use metrics_exporter_prometheus::PrometheusHandle;
use rand::RngExt as _;

use crate::{
    Config, Role, Secrets,
    admin::{Health, rendered},
    machine,
    recent_log::{Kept, RecentLog},
    redact::Redactor,
};

/// `config`: as it is in use, with what the machine's limits have lowered.
pub(crate) fn of_process(config: &Config, roles: &[Role], health: Health, metrics: PrometheusHandle) -> Diagnostics {
    let (config, roles) = (config.clone(), roles.to_vec());
    let redactor = Redactor::new(Secrets::of(&config).texts(&config));
    let instance: [u8; 16] = rand::rng().random();
    let started_ms = now_ms();
    Diagnostics::new(move || {
        let clean = |text: &str| redactor.redact(text).into_owned();
        let Kept { lines, left_out } = RecentLog::of_process().kept();
        Description {
            instance: instance.to_vec().into(),
            release: Some(Release::own()),
            roles: roles.iter().map(|role| role.as_str().to_owned()).collect(),
            pid: std::process::id(),
            time_ms: now_ms(),
            started_ms,
            not_ready: health.reasons().iter().map(|why| clean(why)).collect(),
            configuration: clean(&config.to_toml()),
            metrics: clean(&rendered(&metrics)),
            log: lines.iter().map(|line| clean(line)).collect(),
            log_left_out: left_out,
            machine: machine::facts(&config, &roles),
        }
    })
}
