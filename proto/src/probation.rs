//! A connection that is closed unless someone vouches for it in time. Every open connection takes a descriptor and a
//! place, so a peer must authenticate soon.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};

/// Whether someone vouches for a connection. Clones refer to the same connection, and travel with its requests.
#[derive(Clone, Default)]
pub struct Probation(Arc<State>);

#[derive(Default)]
struct State {
    vouchers: AtomicUsize,
    /// The connection's task, which is woken when the last voucher is dropped.
    task: AtomicWaker,
    /// A place among the connections that nobody vouches for yet.
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

/// While a voucher exists, the connection may stay.
pub struct Voucher(Arc<State>);

/// More vouchers than can exist.
const FOR_GOOD: usize = usize::MAX / 2;

impl Probation {
    /// `place` is released when someone vouches.
    pub fn with_place(place: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(State { place: Mutex::new(Some(place)), ..State::default() }))
    }

    pub fn vouch(&self) -> Voucher {
        self.0.vouchers.fetch_add(1, Ordering::AcqRel);
        drop(self.0.place.lock().take());
        Voucher(Arc::clone(&self.0))
    }

    /// Ends the probation for good. Cheap if it has already ended.
    pub fn vouch_for_good(&self) {
        if self.0.vouchers.load(Ordering::Acquire) < FOR_GOOD {
            self.0.vouchers.store(FOR_GOOD, Ordering::Release);
            drop(self.0.place.lock().take());
        }
    }
}

impl Drop for Voucher {
    fn drop(&mut self) {
        if self.0.vouchers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.task.wake();
        }
    }
}

/// A socket, and a guard that is released when it is closed. Reads and writes fail when nobody has vouched for the
/// socket for `time`, which ends the layers above it (TLS, HTTP/2).
pub struct OnProbation<S, H = ()> {
    io: S,
    probation: Probation,
    time: Duration,
    /// `None` while someone vouches: an idle connection holds no timer.
    ends: Option<Pin<Box<Sleep>>>,
    held: H,
}

impl<S, H> OnProbation<S, H> {
    pub fn new(io: S, probation: Probation, time: Duration, held: H) -> Self {
        Self { io, probation, time, ends: None, held }
    }

    pub fn probation(&self) -> &Probation {
        &self.probation
    }

    pub fn io(&self) -> &S {
        &self.io
    }

    pub fn held(&self) -> &H {
        &self.held
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let vouchers = self.probation.0.vouchers.load(Ordering::Acquire);
        if vouchers >= FOR_GOOD {
            self.ends = None;
            return Ok(());
        }
        if vouchers > 0 {
            self.ends = None;
            self.probation.0.task.register(context.waker());
            // The last voucher may have been dropped before the waker was registered.
            if self.probation.0.vouchers.load(Ordering::Acquire) > 0 {
                return Ok(());
            }
        }
        let time = self.time;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(time)));
        match ends.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody signed in on it in time")),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for OnProbation<S, H> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        Pin::new(&mut this.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for OnProbation<S, H> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        Pin::new(&mut this.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(context)?;
        Pin::new(&mut this.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(context)?;
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, duplex},
        time::{Instant, timeout},
    };

    use super::*;

    const TIME: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn nobody_vouches_and_it_ends() {
        let (_other, ours) = duplex(64);
        let mut stream = OnProbation::new(ours, Probation::default(), TIME, ());
        let start = Instant::now();
        let error = stream.read_u8().await.expect_err("ends");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= TIME, "not before its time");
    }

    #[tokio::test]
    async fn it_lasts_while_somebody_vouches_and_for_the_time_after_that() {
        let (_other, ours) = duplex(64);
        let probation = Probation::default();
        let mut stream = OnProbation::new(ours, probation.clone(), TIME, ());
        let (first, second) = (probation.vouch(), probation.vouch());
        timeout(TIME * 5, stream.read_u8()).await.expect_err("goes on");
        drop(first);
        timeout(TIME * 5, stream.read_u8()).await.expect_err("one is enough");
        // While it is being read: nothing but the voucher's end wakes it.
        let end = async {
            tokio::time::sleep(TIME).await;
            drop(second);
            Instant::now()
        };
        let (read, gone) = tokio::join!(stream.read_u8(), end);
        assert_eq!(read.expect_err("ends").kind(), io::ErrorKind::TimedOut);
        assert!(gone.elapsed() >= TIME, "not before its time");
    }

    #[tokio::test]
    async fn a_place_is_given_back_when_somebody_vouches() {
        let places = Arc::new(tokio::sync::Semaphore::new(1));
        let (_other, ours) = duplex(64);
        let probation = Probation::with_place(Arc::clone(&places).try_acquire_owned().expect("free"));
        let mut stream = OnProbation::new(ours, probation.clone(), TIME, ());
        assert_eq!(places.available_permits(), 0);
        probation.vouch_for_good();
        assert_eq!(places.available_permits(), 1);
        timeout(TIME * 5, stream.read_u8()).await.expect_err("goes on");
    }
}
