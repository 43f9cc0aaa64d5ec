//! Errors of a local cluster.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("network namespaces and disk images need root")]
    NotRoot,
    #[error("{tool} is missing: install the package {package}")]
    Missing { tool: &'static str, package: &'static str },
    #[error("{command} failed: {why}")]
    Tool { command: String, why: String },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{node} ended by itself with {status}: see {}", log.display())]
    Ended { node: String, status: ExitStatus, log: PathBuf },
    #[error("{node} is not ready after {patience:?}: see {}", log.display())]
    NotReady { node: String, patience: Duration, log: PathBuf },
    #[error("{node} does not end within {patience:?} of SIGTERM: see {}", log.display())]
    NotEnding { node: String, patience: Duration, log: PathBuf },
    #[error("{node} does not say \"{text}\" within {patience:?}: see {}", log.display())]
    NotSaid { node: String, text: String, patience: Duration, log: PathBuf },
    #[error("no router knows the leader of directory-0")]
    NoController,
    #[error("{} is too long for the path of a socket: use a folder with a shorter name", .0.display())]
    LongPath(PathBuf),
    #[error("nothing is written in {} that could be damaged", .0.display())]
    NothingToSpoil(PathBuf),
    #[error("{0} is no storage node of the cluster")]
    NoMember(String),
    #[error("no storage node leads a timeline shard")]
    NoLeader,
    #[error("the cluster was started without {0}")]
    Without(&'static str),
}

impl ClusterError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}
