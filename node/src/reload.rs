//! Settings that are renewed while the service runs: at SIGHUP the configuration and all files that it names; the files
//! also when they change. Connections continue. After an error the old values stay in use.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Config, Role, Running, Secrets, Telemetry, causes::told, config::changed};

/// Pause between two looks at the files. A change is taken up when two looks have found the same file, so that no
/// half-written file is read.
pub(crate) const LOOK: Duration = Duration::from_secs(2);

/// Settings that are taken up, with everything below them. All other settings need a restart.
const TAKEN_UP: &[&str] = &["log.level", "cluster", "gateway.tls", "gateway.jwt", "gateway.domains"];

pub(crate) struct Reloader<L> {
    load: L,
    roles: Vec<Role>,
    /// The configuration at the start of the process.
    started: Config,
    /// The current configuration, whose files are watched.
    current: Config,
    taken: Vec<Print>,
    seen: Vec<Print>,
}

/// Distinguishes the contents of a file without reading it. Links are followed, because Kubernetes changes files by
/// changing links.
type Print = Option<(u64, u64, i64, i64, u64)>;

impl<L: Fn() -> anyhow::Result<Config>> Reloader<L> {
    /// `load` reads the configuration again.
    pub(crate) fn new(load: L, roles: &[Role], config: Config) -> Self {
        let prints = prints(&files(&config));
        Self {
            load,
            roles: roles.to_vec(),
            started: config.clone(),
            current: config,
            taken: prints.clone(),
            seen: prints,
        }
    }

    /// Files that the start may have made do not count as changed.
    pub(crate) fn started(&mut self) {
        self.taken = prints(&files(&self.current));
        self.seen = self.taken.clone();
    }

    /// Reads the configuration and all files again.
    pub(crate) fn on_signal(&mut self, running: &Running, telemetry: &Telemetry) {
        let loaded = (self.load)().and_then(|config| {
            config.validate(&self.roles)?;
            Ok(config)
        });
        let config = match loaded {
            Ok(config) => config,
            Err(error) => {
                tracing::error!("SIGHUP: nothing was changed: {}", told(&error));
                return;
            }
        };
        let untouched = changed(&self.started, &config).into_iter().filter(|key| !is_taken_up(key));
        let untouched: Vec<String> = untouched.collect();
        if !untouched.is_empty() {
            tracing::warn!(settings = untouched.join(", "), "SIGHUP: these settings have changed, but need a restart");
        }
        // The level was checked with the rest of the configuration.
        if let Err(error) = telemetry.set_level(&config.log.level) {
            tracing::error!("SIGHUP: log.level stays as it was: {error}");
        }
        self.current = config;
        self.take_up(running, "SIGHUP");
    }

    /// Takes up changed files.
    pub(crate) fn look(&mut self, running: &Running) {
        let now = prints(&files(&self.current));
        let settled = now == self.seen;
        self.seen = now;
        if settled && self.seen != self.taken {
            self.take_up(running, "files have changed");
        }
    }

    fn take_up(&mut self, running: &Running, because: &str) {
        self.taken = prints(&files(&self.current));
        self.seen = self.taken.clone();
        let failures = running.reload(&self.current);
        for failure in &failures {
            tracing::error!(because, "what is in use stays as it was: {failure}");
        }
        if failures.is_empty() {
            let level = self.current.log.level.as_str();
            tracing::info!(because, level, files = self.taken.len(), "certificates, keys and tokens are taken up");
        }
    }
}

fn is_taken_up(key: &str) -> bool {
    TAKEN_UP.iter().any(|taken| key == *taken || key.strip_prefix(taken).is_some_and(|rest| rest.starts_with('.')))
}

/// The files that the configuration names and that are read again.
fn files(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![Secrets::of(config).cluster_path(), Secrets::of(config).token_path()];
    let cluster = &config.cluster;
    let tokens = &cluster.tokens;
    files.extend([&cluster.secret_file, &tokens.storage_file, &tokens.router_file].map(PathBuf::clone));
    files.extend([&tokens.gateway_file, &tokens.operator_file].map(PathBuf::clone));
    if let Some(tls) = &cluster.tls {
        files.extend([&tls.ca, &tls.certificate, &tls.key].map(PathBuf::clone));
    }
    if let Some(tls) = &config.gateway.tls {
        files.extend([&tls.certificate, &tls.key].map(PathBuf::clone));
    }
    let keys = config.gateway.token_keys();
    files.extend(keys.flat_map(|key| key.secret_file.iter().chain(&key.public_key_file)).cloned());
    files.retain(|path| !path.as_os_str().is_empty());
    files
}

fn prints(files: &[PathBuf]) -> Vec<Print> {
    files.iter().map(|path| print(path)).collect()
}

/// `None` if there is no such file.
fn print(path: &Path) -> Print {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_points_elsewhere_is_a_change() {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), "x").expect("written");
        fs::write(path("two"), "x").expect("written");
        std::os::unix::fs::symlink(path("one"), path("link")).expect("linked");
        let before = print(&path("link"));
        assert_eq!(before, print(&path("one")));
        std::os::unix::fs::symlink(path("two"), path("new")).expect("linked");
        fs::rename(path("new"), path("link")).expect("renamed");
        assert!(print(&path("link")).is_some() && print(&path("link")) != before);
        fs::remove_file(path("two")).expect("removed");
        assert_eq!(print(&path("link")), None);
    }

    #[test]
    fn settings_that_are_taken_up_are_told_from_the_rest() {
        for key in ["log.level", "cluster.secret_file", "gateway.tls.key", "gateway.jwt.keys"] {
            assert!(is_taken_up(key), "{key}");
        }
        for key in ["log.format", "gateway.tcp.listen", "gateway.tls_like", "data_dir"] {
            assert!(!is_taken_up(key), "{key}");
        }
    }
}
