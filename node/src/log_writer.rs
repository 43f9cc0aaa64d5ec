//! The writer of log lines to standard error, which may be closed, full, or a pipe whose reader is stuck: then the
//! service continues, and lines are lost.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written. When the queue is full, new lines are dropped and counted, and the count is reported
/// later.
const LINES: usize = 8 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogWriter {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    /// Answered when all earlier lines have been written.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts a thread of its own, because writing may block.
    pub(crate) fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = sync_channel(LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&messages, to, &counter))?;
        Ok(Self { queue, dropped })
    }

    /// Waits until everything is written, for at most `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        let end = Instant::now() + patience;
        let mut message = Message::Flush(done);
        // The queue is full while the reader is slow or stuck.
        while let Err(TrySendError::Full(again)) = self.queue.try_send(message) {
            if Instant::now() >= end {
                return;
            }
            message = again;
            thread::sleep(Duration::from_millis(5));
        }
        let _ = wait.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

fn write_all(messages: &Receiver<Message>, mut to: impl Write, dropped: &AtomicU64) {
    // A failed write may succeed later, when the disk has room again or the reader is back.
    loop {
        match messages.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::Line(line)) => {
                if to.write_all(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            Ok(Message::Flush(done)) => {
                let _ = to.flush();
                // The caller may have stopped waiting.
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0
            && writeln!(to, "{lost} lines of the log were lost: standard error could not be written to").is_err()
        {
            dropped.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// One event, which is written as a whole when it is dropped.
pub(crate) struct Line<'a> {
    writer: &'a LogWriter,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self, bytes: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = Message::Line(std::mem::take(&mut self.bytes));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.writer.queue.try_send(line) {
            self.writer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Lets one write pass for each permission, and reports the written text.
    struct Slow {
        permissions: Receiver<bool>,
        written: std::sync::mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.permissions.recv() {
                Ok(false) => Err(io::ErrorKind::StorageFull.into()),
                Ok(true) | Err(_) => {
                    let _ = self.written.send(String::from_utf8_lossy(bytes).into_owned());
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_what_was_lost_is_told() {
        let ((permit, permissions), (written, lines)) = (channel(), channel());
        let log = LogWriter::start(Slow { permissions, written }).expect("a thread");
        for line in 0..LINES * 2 {
            let _ = writeln!(log.make_writer(), "line {line}");
        }
        drop(permit);
        log.flush(Duration::from_secs(20));
        let lines: Vec<String> = lines.try_iter().collect();
        assert!(lines.iter().any(|line| line.contains("line 0\n")), "{:?}", lines.first());
        assert!(lines.iter().any(|line| line.contains("were lost")), "{:?}", lines.last());
    }

    #[test]
    fn what_can_not_be_written_is_counted_and_the_rest_goes_on() {
        let ((permit, permissions), (written, lines)) = (channel(), channel());
        let log = LogWriter::start(Slow { permissions, written }).expect("a thread");
        permit.send(false).expect("waits");
        let _ = writeln!(log.make_writer(), "lost");
        drop(permit);
        let _ = writeln!(log.make_writer(), "written");
        log.flush(Duration::from_secs(20));
        let text: String = lines.try_iter().collect();
        assert!(text.contains("written") && text.contains("1 lines of the log were lost"), "{text}");
    }
}
