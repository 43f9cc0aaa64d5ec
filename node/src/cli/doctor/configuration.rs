//! The configuration, read as the node reads it.

use super::report::Check;
use crate::{Config, Layers, Role, config::is_secret};

/// Levels of the log at which each message has lines of its own.
const NOISY: [&str; 2] = ["debug", "trace"];

/// What a file, the environment and flags say together.
pub(super) fn examine(check: &mut Check<'_>, layers: anyhow::Result<Layers>, file: Option<String>) -> Option<Config> {
    const REMEDY: &str = "correct it; `carillon ROLE --print-config` shows what is in use";
    let layers = match layers {
        Ok(layers) => layers,
        Err(error) => {
            check.fault(error.to_string(), REMEDY);
            return None;
        }
    };
    for warning in layers.warnings() {
        check.warning(warning.clone(), "correct the name, or remove the variable");
    }
    let from_environment: Vec<String> = layers.set_by_environment().map(str::to_owned).collect();
    let config = match layers.load() {
        Ok(config) => config,
        Err(error) => {
            check.fault(error.to_string(), REMEDY);
            return None;
        }
    };
    match file {
        Some(file) => check.ok(format!("{file} is read; all its settings are known")),
        None => check.note("no configuration file is named: defaults, the environment and flags"),
    }
    if !from_environment.is_empty() {
        check.note(format!("the environment sets {}", from_environment.join(", ")));
    }
    let secrets: Vec<&str> = from_environment.iter().map(String::as_str).filter(|key| is_secret(key)).collect();
    if !secrets.is_empty() {
        check.warning(
            format!("secrets come from the environment, which other processes may see: {}", secrets.join(", ")),
            "put them into files: cluster.secret_file, gateway.jwt.keys with secret_file",
        );
    }
    Some(config)
}

/// The values, for these roles.
pub(super) fn values(check: &mut Check<'_>, config: &Config, roles: &[Role]) {
    let invalid = config.invalid(roles);
    for error in &invalid {
        check.fault(error.to_string(), "correct the value");
    }
    if invalid.is_empty() {
        check.ok("all values are in their ranges");
    }
    for warning in crate::check::contradictions(config, roles) {
        check.warning(warning, "");
    }
    if let Some(level) = NOISY.iter().find(|level| config.log.level.split(',').any(|word| word.trim() == **level)) {
        check.note(format!("log.level is {level}, which costs much at full load"));
    }
}
