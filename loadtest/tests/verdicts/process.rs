//! The program as a process that tests talk to while it runs.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

/// A process of the program. It is killed when the test is over.
pub(crate) struct Process {
    child: Child,
    said: BufReader<ChildStderr>,
    all: String,
}

impl Process {
    pub(crate) fn start(folder: &Path, words: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_carillon-loadtest"))
            .args(words)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let said = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, said, all: String::new() }
    }

    /// Reads what the process says until a line has this, and returns the line.
    pub(crate) fn until(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).expect("read") > 0, "it never said {text:?}: {}", self.all);
            self.all += &line;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends it the signal of this name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("runs").success());
    }

    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        std::io::Read::read_to_string(&mut self.said, &mut self.all).expect("read");
        let code = self.child.wait().expect("ends").code();
        (code, std::mem::take(&mut self.all))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process has ended, unless the test failed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
