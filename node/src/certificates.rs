//! The validity of this process's certificates: logged at the start, when it changes and once a day, and a gauge.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use carillon_proto::{
    now_ms,
    tasks::Tasks,
    tls::{TlsError, Validity},
};
use metrics::gauge;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::{Config, Role, metrics::CERTIFICATE_ENDS};

const LOOK: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// "Soon" is this long before the end, or a quarter of the validity period, whichever is less: certificates of a day
/// are renewed within hours, those of a year within weeks.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A file with certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFile {
    /// The label of the gauge.
    pub(crate) used_for: &'static str,
    pub(crate) path: PathBuf,
}

/// What to report about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Good,
    /// Seconds until the end.
    EndsSoon(u64),
    /// Seconds since the end.
    Ended(u64),
    /// Seconds until the beginning.
    NotYet(u64),
}

/// The certificates in use. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    files: Arc<Mutex<Vec<Watched>>>,
}

struct Watched {
    file: CertificateFile,
    validity: Validity,
    told: Option<(State, Instant)>,
}

/// The certificate files of the roles of this process.
pub(crate) fn files_of(config: &Config, roles: &[Role]) -> Vec<CertificateFile> {
    let mut files = Vec::new();
    let mut add = |used_for, path: &Path| files.push(CertificateFile { used_for, path: path.to_owned() });
    if let Some(tls) = &config.cluster.tls {
        add("nodes", &tls.certificate);
        add("nodes-ca", &tls.ca);
    }
    if let Some(tls) = config.gateway.tls.as_ref().filter(|_| roles.contains(&Role::Gateway)) {
        add("clients", &tls.certificate);
    }
    files
}

/// The validity of the certificates in a file. The error says what is wrong with it.
pub(crate) fn validity_of(path: &Path) -> Result<Validity, String> {
    let pem = fs::read(path).map_err(|error| format!("can't be read: {error}"))?;
    Validity::of_pem(&pem).map_err(|error: TlsError| error.to_string())
}

impl State {
    pub(crate) fn of(validity: Validity, now_s: u64) -> Self {
        let left = validity.not_after_s.saturating_sub(now_s);
        if now_s < validity.not_before_s {
            Self::NotYet(validity.not_before_s - now_s)
        } else if left == 0 {
            Self::Ended(now_s - validity.not_after_s)
        } else if Duration::from_secs(left) <= SOON.min(validity.length() / 4) {
            Self::EndsSoon(left)
        } else {
            Self::Good
        }
    }

    /// A warning for people; `None` if nobody has to do anything.
    pub(crate) fn told(self) -> Option<String> {
        match self {
            Self::Good => None,
            Self::EndsSoon(left) => Some(format!("ends in {}", long(left))),
            Self::Ended(ago) => Some(format!("has ended {} ago", long(ago))),
            Self::NotYet(left) => Some(format!("is not valid yet: it will be in {}", long(left))),
        }
    }

    pub(crate) fn is_wrong(self) -> bool {
        matches!(self, Self::Ended(_) | Self::NotYet(_))
    }
}

impl Certificates {
    /// Sets the files in use. A file that can't be read is not in use.
    pub(crate) fn use_files(&self, files: Vec<CertificateFile>) {
        let readable = |file: CertificateFile| {
            let validity = validity_of(&file.path).ok()?;
            Some(Watched { file, validity, told: None })
        };
        *self.files.lock() = files.into_iter().filter_map(readable).collect();
        self.look();
    }

    pub(crate) fn run(&self, tasks: &Tasks) {
        let this = self.clone();
        tasks.spawn("certificates", async move {
            loop {
                sleep(LOOK).await;
                this.look();
            }
        });
    }

    fn look(&self) {
        let now_s = now_ms() / 1000;
        for Watched { file, validity, told } in self.files.lock().iter_mut() {
            gauge!(CERTIFICATE_ENDS, "used_for" => file.used_for).set(validity.not_after_s as f64);
            let state = State::of(*validity, now_s);
            let same = |(before, at): &(State, Instant)| {
                std::mem::discriminant(before) == std::mem::discriminant(&state) && at.elapsed() < AGAIN
            };
            if told.as_ref().is_some_and(same) {
                continue;
            }
            let (path, used_for) = (file.path.display(), file.used_for);
            match state.told() {
                Some(what) if state.is_wrong() => tracing::error!(%path, used_for, "certificate {what}"),
                Some(what) => tracing::warn!(%path, used_for, "certificate {what}"),
                None => {}
            }
            *told = Some((state, Instant::now()));
        }
    }
}

fn long(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    #[test]
    fn what_ends_soon_depends_on_how_long_it_holds() {
        let of = |from: u64, until: u64, now: u64| {
            State::of(Validity { not_before_s: from * DAY, not_after_s: until * DAY }, now * DAY)
        };
        assert_eq!(of(10, 375, 9), State::NotYet(DAY));
        assert_eq!(of(10, 375, 360), State::Good);
        assert_eq!(of(10, 375, 361), State::EndsSoon(14 * DAY));
        assert_eq!(of(10, 375, 376), State::Ended(DAY));
        assert_eq!(of(10, 375, 375), State::Ended(0));
        assert_eq!(of(10, 18, 15), State::Good);
        assert_eq!(of(10, 18, 16), State::EndsSoon(2 * DAY));
    }

    #[test]
    fn only_what_needs_somebody_is_told() {
        assert_eq!(State::Good.told(), None);
        assert_eq!(State::EndsSoon(3 * DAY).told().as_deref(), Some("ends in 3 days"));
        assert!(State::Ended(90).is_wrong() && State::NotYet(1).is_wrong() && !State::EndsSoon(1).is_wrong());
    }
}
