//! Where the parts of a run wait for each other, so that all begin at the same time.

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Clone)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Gate {
    /// Nobody waits at it.
    pub fn open() -> Self {
        let gate = Self::closed();
        gate.let_pass();
        gate
    }

    pub(crate) fn closed() -> Self {
        Self(Arc::new(State { open: watch::Sender::new(false), arrived: watch::Sender::new(0) }))
    }

    /// Arrives, and waits until the gate is open.
    pub(crate) async fn pass(&self) {
        self.0.arrived.send_modify(|arrived| *arrived += 1);
        // The sender lives as long as this gate.
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }

    /// Waits until so many have arrived.
    pub(crate) async fn arrived(&self, wanted: usize) {
        let _ = self.0.arrived.subscribe().wait_for(|arrived| *arrived >= wanted).await;
    }

    pub(crate) fn let_pass(&self) {
        self.0.open.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_passes_before_all_have_arrived() {
        let gate = Gate::closed();
        let opened = async {
            gate.arrived(2).await;
            gate.let_pass();
        };
        let alone = tokio::time::timeout(std::time::Duration::from_millis(20), gate.pass());
        assert!(alone.await.is_err());
        tokio::join!(gate.pass(), opened);
        Gate::open().pass().await;
    }
}
