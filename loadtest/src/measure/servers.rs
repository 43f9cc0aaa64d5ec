//! The servers whose CPU and memory a run measures.

use parking_lot::Mutex;

use super::{
    admin::{self, AdminError},
    proc::{self, Usage},
};

/// Servers by process id or admin address. A restarted server keeps its entry and its CPU time.
#[derive(Default)]
pub struct Servers(Mutex<Vec<Server>>);

#[derive(Clone)]
struct Server {
    name: String,
    source: Source,
    /// CPU time of earlier processes of the server, in microseconds.
    before_us: u64,
    /// The last reading; it stays when the process is gone.
    last: Usage,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Pid(u32),
    /// `host:port`.
    Admin(String),
}

/// The resources that one server has used; CPU is counted over its restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUsage {
    pub name: String,
    pub usage: Usage,
    /// True if the server could be read just now.
    pub alive: bool,
}

impl Servers {
    /// Watches a process under this name.
    pub fn add_pid(&self, name: &str, pid: u32) {
        self.add(name, Source::Pid(pid));
    }

    /// Watches a server by `http://host:port/metrics`.
    pub fn add_admin(&self, url: &str) -> Result<(), AdminError> {
        let authority = admin::authority(url)?;
        self.add(&authority, Source::Admin(authority.clone()));
        Ok(())
    }

    /// The server of this name now runs as another process.
    pub fn restarted(&self, name: &str, pid: u32) {
        if let Some(server) = self.0.lock().iter_mut().find(|server| server.name == name) {
            server.before_us += server.last.cpu_us;
            server.last = Usage::default();
            server.source = Source::Pid(pid);
        }
    }

    fn add(&self, name: &str, source: Source) {
        self.0.lock().push(Server { name: name.to_owned(), source, before_us: 0, last: Usage::default() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Reads all servers.
    pub async fn read(&self) -> Vec<ServerUsage> {
        let servers = self.0.lock().clone();
        let mut usages = Vec::with_capacity(servers.len());
        for (at, server) in servers.iter().enumerate() {
            let read = match &server.source {
                Source::Pid(pid) => proc::usage(*pid),
                Source::Admin(authority) => admin::usage(authority).await.ok(),
            };
            usages.push(self.note(at, &server.source, read));
        }
        usages
    }

    fn note(&self, at: usize, source: &Source, read: Option<Usage>) -> ServerUsage {
        let mut servers = self.0.lock();
        let server = &mut servers[at];
        // The entry was replaced during the reading, which therefore belongs to the earlier process.
        if let Some(usage) = read.filter(|_| server.source == *source) {
            if usage.cpu_us < server.last.cpu_us {
                // A server behind an admin address was restarted.
                server.before_us += server.last.cpu_us;
            }
            server.last = usage;
        }
        let usage = Usage { cpu_us: server.before_us + server.last.cpu_us, rss_bytes: server.last.rss_bytes };
        ServerUsage { name: server.name.clone(), usage, alive: read.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_goes_on_over_a_restart() {
        let servers = Servers::default();
        servers.add_pid("gateway", 1);
        let usage = |cpu_us| Some(Usage { cpu_us, rss_bytes: 7 });
        let read = |pid, read| servers.note(0, &Source::Pid(pid), read);
        assert_eq!(read(1, usage(500)).usage.cpu_us, 500);
        let gone = read(1, None);
        assert_eq!((gone.usage.cpu_us, gone.alive), (500, false));
        servers.restarted("gateway", 2);
        assert_eq!(read(1, usage(600)).usage.cpu_us, 500);
        assert_eq!(read(2, usage(20)).usage.cpu_us, 520);
    }

    #[tokio::test]
    async fn a_process_is_read_from_proc() {
        let servers = Servers::default();
        servers.add_pid("this", std::process::id());
        assert!(servers.read().await[0].usage.rss_bytes > 0);
        assert!(servers.add_admin("nonsense").is_err());
    }
}
