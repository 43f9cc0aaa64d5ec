//! A pipe between a socket and a file: the kernel moves what comes, and this program does not see it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::{io::Interest, net::TcpStream};

/// Room that is asked for: pieces of a socket that may be 1 to 32 KiB long, each in 4 KiB of it.
const ROOM: usize = 1 << 20;

pub(super) struct Pipe {
    read: Arc<OwnedFd>,
    write: OwnedFd,
    holds: usize,
}

/// The next bytes of a socket.
pub(super) enum Filled {
    Bytes(usize),
    /// The pipe has no room for them.
    Full,
    /// No more come.
    End,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The system may not allow so much: then each piece is smaller.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Self { read: Arc::new(read), write, holds: 0 })
    }

    /// Waits for bytes of the socket, and takes at most so many.
    pub(super) async fn fill(&mut self, socket: &TcpStream, most: usize) -> io::Result<Filled> {
        let Self { write, holds, .. } = self;
        // "Not now" is an answer of the pipe, too, and would wait for other bytes than those that are there.
        let take = || match splice(socket, None, &*write, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Ok(0) => Ok(Filled::End),
            Ok(count) => Ok(Filled::Bytes(count)),
            Err(Errno::AGAIN) if *holds > 0 && has_more(socket) => Ok(Filled::Full),
            Err(error) => Err(error.into()),
        };
        let filled = socket.async_io(Interest::READABLE, take).await?;
        if let Filled::Bytes(count) = filled {
            *holds += count;
        }
        Ok(filled)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.holds
    }

    /// The number of bytes in the pipe, which the caller takes from `end` before it is filled again.
    pub(super) fn empty(&mut self) -> usize {
        std::mem::take(&mut self.holds)
    }

    pub(super) fn end(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.read)
    }
}

/// True if bytes are there, or the end: what has ended is ready for ever.
fn has_more(socket: &TcpStream) -> bool {
    let peeked = recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    !matches!(peeked, Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    #[tokio::test]
    async fn a_full_pipe_says_so_and_goes_on_when_it_was_emptied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (socket, _) = listener.accept().await.expect("accepts");
        let bytes: Vec<u8> = (0..8_u32 << 20).map(|at| (at * 7 / 5) as u8).collect();
        let sent = bytes.clone();
        let (mut pipe, mut got, mut was_full) = (Pipe::new().expect("a pipe"), Vec::new(), false);
        fcntl_setpipe_size(&pipe.write, 4096).expect("small");
        let sending = async move {
            client.write_all(&sent).await.expect("writes");
            drop(client);
        };
        let taking = async {
            loop {
                let filled = pipe.fill(&socket, 1 << 20).await.expect("moves");
                was_full |= matches!(filled, Filled::Full);
                if matches!(filled, Filled::Full | Filled::End) {
                    let mut space = vec![0; pipe.empty()];
                    let mut read = 0;
                    while read < space.len() {
                        read += rustix::io::read(&*pipe.read, &mut space[read..]).expect("reads");
                    }
                    got.extend_from_slice(&space);
                }
                if matches!(filled, Filled::End) {
                    break;
                }
            }
        };
        tokio::join!(sending, taking);
        assert!(was_full && got == bytes, "{} of {} bytes", got.len(), bytes.len());
    }
}
