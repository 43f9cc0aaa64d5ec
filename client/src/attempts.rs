//! The numbers of a running client's sign-ins: by them the service knows a sign-in that the client has given up.

pub(crate) struct Attempts {
    instance: u64,
    begun: u32,
}

impl Attempts {
    /// `noise`: another one for each start of the device.
    pub(crate) fn new(noise: u64) -> Self {
        // 0 says nothing to a gateway.
        Self { instance: noise.max(1), begun: 0 }
    }

    /// `SignIn.instance` and `SignIn.attempt` of the next sign-in.
    pub(crate) fn begin(&mut self) -> (u64, u32) {
        self.begun = self.begun.saturating_add(1);
        (self.instance, self.begun)
    }
}
