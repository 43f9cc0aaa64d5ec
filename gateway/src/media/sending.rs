//! Downloads whose bytes the kernel sends from a folder to a socket without TLS. That may wait for the disk, so that threads for such work do it.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use carillon_media::{FilesError, Folder, OpenChunk, Version};
use carillon_proto::MediaId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::sendfile,
    io::Errno,
    net::{SendFlags, send},
};
use tokio::{io::Interest, net::TcpStream, time::sleep};

use super::{download::DownloadError, transfer::Transfer};
use crate::metrics;

/// How long a thread that nobody else needs waits for a client. Each hand-over to the task that waits for longer, and back, costs more than
/// `sendfile` of 100 KiB.
const WAIT: Duration = Duration::from_millis(20);
/// After this time a download queues again for a thread.
const TURN: Duration = Duration::from_millis(200);

/// A download on its way.
pub(super) struct Sending {
    file: (MediaId, Version),
    /// The part of the range that is not in `chunk`.
    rest: Range<u64>,
    chunk: OpenChunk,
    /// The part of the answer's head that was not sent yet.
    head: Bytes,
    socket: OwnedFd,
    /// Bytes of the file that were sent.
    given: u64,
}

/// Why a thread is done with a download.
enum Pause {
    End,
    /// The socket takes no more for now.
    Full,
    /// The socket said that it would take more, and took nothing.
    NoMemory,
    /// Others have their turn.
    Turn,
}

/// How much of the offered bytes a socket has taken.
#[derive(PartialEq)]
enum Taken {
    All,
    Part,
    Nothing,
}

/// A download that a thread has given back.
pub(super) struct Paused(Result<(Sending, Pause), DownloadError>);

impl Sending {
    /// Opens the file, and sends this head and what the socket takes of the range. After an error nothing was sent.
    pub(super) async fn begin(
        folder: &Folder,
        file: (MediaId, Version),
        range: Range<u64>,
        head: Vec<u8>,
        socket: &TcpStream,
        transfer: &mut Transfer,
    ) -> Result<Paused, FilesError> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        // Of the thread that sends the head, and the task that answers instead when the thread was too late.
        let is_answered = Arc::new(AtomicBool::new(false));
        let by_thread = Arc::clone(&is_answered);
        transfer.waits_for_place();
        let begun = folder.run(move |folder| {
            let chunk = folder.open_chunk(&file.0, file.1, range.clone())?;
            if by_thread.swap(true, Relaxed) {
                return Err(FilesError::Late);
            }
            let rest = range.start + length(&chunk)..range.end;
            let sending = Self { file, rest, chunk, head: head.into(), socket, given: 0 };
            Ok(sending.send(folder))
        });
        let begun = begun.await;
        transfer.waits_for_client();
        match begun {
            Err(late) if is_answered.swap(true, Relaxed) => Ok(Paused(Err(late.into()))),
            begun => begun,
        }
    }

    /// Sends what the socket takes.
    fn send(mut self, folder: &Folder) -> Paused {
        Paused(self.try_send(folder).map(|pause| (self, pause)))
    }

    fn try_send(&mut self, folder: &Folder) -> Result<Pause, DownloadError> {
        let (began, mut has_room) = (Instant::now(), false);
        loop {
            let taken = if self.head.has_remaining() { self.send_head()? } else { self.send_bytes()? };
            if self.chunk.range.is_empty() {
                if self.rest.is_empty() {
                    return Ok(Pause::End);
                }
                self.chunk = folder.open_chunk(&self.file.0, self.file.1, self.rest.clone())?;
                self.rest.start += length(&self.chunk);
            }
            if taken != Taken::All {
                if has_room && taken == Taken::Nothing {
                    return Ok(Pause::NoMemory);
                }
                has_room = !folder.lacks_threads() && takes_more(&self.socket, WAIT)?;
                if !has_room {
                    return Ok(Pause::Full);
                }
            }
            if began.elapsed() > TURN {
                return Ok(Pause::Turn);
            }
        }
    }

    fn send_head(&mut self) -> Result<Taken, DownloadError> {
        // The first bytes of the file go into the same packet.
        let flags = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = sent_bytes(send(&self.socket, &self.head, flags))?.unwrap_or(0);
        let taken = Taken::of(sent, self.head.len());
        self.head.advance(sent);
        Ok(taken)
    }

    fn send_bytes(&mut self) -> Result<Taken, DownloadError> {
        let asked = usize::try_from(length(&self.chunk)).unwrap_or(usize::MAX);
        let OpenChunk { file, range } = &mut self.chunk;
        let sent = match sent_bytes(sendfile(&self.socket, file, Some(&mut range.start), asked))? {
            Some(0) => return Err(DownloadError::Short),
            sent => sent.unwrap_or(0),
        };
        self.given += sent as u64;
        metrics::media_bytes("download", sent as u64);
        Ok(Taken::of(sent, asked))
    }
}

impl Taken {
    fn of(sent: usize, asked: usize) -> Self {
        match sent {
            0 => Self::Nothing,
            sent if sent < asked => Self::Part,
            _ => Self::All,
        }
    }
}

impl Paused {
    /// Sends the rest.
    pub(super) async fn finish(
        mut self,
        folder: &Folder,
        socket: &TcpStream,
        transfer: &mut Transfer,
    ) -> Result<(), DownloadError> {
        loop {
            let (sending, pause) = self.0?;
            match pause {
                Pause::End => return Ok(()),
                Pause::Full => {
                    let has_room = || match takes_more(socket, Duration::ZERO) {
                        Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                        polled => polled,
                    };
                    socket.async_io(Interest::WRITABLE, has_room).await?;
                }
                Pause::NoMemory => sleep(WAIT).await,
                Pause::Turn => {}
            }
            if transfer.is_too_slow(sending.given) {
                return Err(DownloadError::Slow);
            }
            transfer.waits_for_place();
            self = folder.run(|folder| Ok(sending.send(folder))).await?;
            transfer.waits_for_client();
        }
    }
}

fn length(chunk: &OpenChunk) -> u64 {
    chunk.range.end - chunk.range.start
}

/// `None`: nothing for now.
fn sent_bytes(sent: Result<usize, Errno>) -> Result<Option<usize>, DownloadError> {
    match sent {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) if is_of_file(error) => Err(FilesError::Io(error.into()).into()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn is_of_file(error: Errno) -> bool {
    matches!(error, Errno::IO | Errno::STALE | Errno::INVAL | Errno::NOSYS)
}

/// True if the socket has room, or is broken, which the next bytes will tell.
fn takes_more(socket: impl AsFd, within: Duration) -> io::Result<bool> {
    let within = Timespec { tv_sec: 0, tv_nsec: within.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&within)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
