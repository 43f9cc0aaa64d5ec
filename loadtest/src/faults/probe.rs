//! The machine's own state: the longest time that a small flush to the same disk took during a run. A cluster can't be
//! faster than that, so an outage beside a slow probe says nothing about the service.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const EACH: Duration = Duration::from_millis(50);

pub(crate) struct Probe {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    slowest_micros: AtomicU64,
    stopped: AtomicBool,
}

impl Probe {
    /// Writes a file of its own in this folder until the probe is dropped.
    pub(crate) fn start(folder: &Path) -> io::Result<Self> {
        let file = File::create(folder.join("probe"))?;
        let shared = Arc::<Shared>::default();
        let noted = Arc::clone(&shared);
        // A flush blocks, possibly for very long.
        thread::Builder::new().name("probe".to_owned()).spawn(move || {
            while !noted.stopped.load(Ordering::Relaxed) {
                let before = Instant::now();
                // If the disk can't be written, the cluster notices it as well.
                let _ = file.write_all_at(b"flushed?", 0).and_then(|()| file.sync_data());
                noted.slowest_micros.fetch_max(before.elapsed().as_micros() as u64, Ordering::Relaxed);
                thread::sleep(EACH);
            }
        })?;
        Ok(Self { shared })
    }

    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest_micros.load(Ordering::Relaxed))
    }

    /// Gives the slowest time since the last call.
    pub(crate) fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest_micros.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}
