//! Whether the gateway can serve clients.

use carillon_proto::{Readiness, Ready};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Put together from what its parts say.
pub(crate) struct Status {
    ready: watch::Sender<Readiness>,
    parts: Mutex<Reasons>,
}

struct Reasons {
    draining: bool,
    /// The lack in the links to routers; `None`: there is none.
    missing: Option<&'static str>,
}

impl Status {
    pub(crate) fn new() -> Self {
        let parts = Reasons { draining: false, missing: Some("not started") };
        Self { ready: watch::Sender::new(tell(&parts)), parts: Mutex::new(parts) }
    }

    pub(crate) fn subscribe(&self) -> Ready {
        self.ready.subscribe()
    }

    pub(crate) fn linked(&self, missing: Option<&'static str>) {
        self.change(|parts| parts.missing = missing);
    }

    pub(crate) fn draining(&self) {
        self.change(|parts| parts.draining = true);
    }

    fn change(&self, change: impl FnOnce(&mut Reasons)) {
        let mut parts = self.parts.lock();
        change(&mut parts);
        let now = tell(&parts);
        self.ready.send_if_modified(|told| told.change(now));
    }
}

fn tell(parts: &Reasons) -> Readiness {
    match parts {
        Reasons { draining: true, .. } => Readiness::Draining,
        Reasons { missing: Some(missing), .. } => Readiness::NotReady((*missing).to_owned()),
        Reasons { missing: None, .. } => Readiness::Ready,
    }
}
