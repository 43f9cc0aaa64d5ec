//! Figures of Linux about processes, see proc(5). On other systems everything here is absent.

use std::fs;

/// Resources that a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// User and system time, in microseconds; the kernel counts it in steps of 10,000.
    pub cpu_us: u64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// Time of all cores since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MachineTime {
    pub busy: u64,
    pub total: u64,
}

/// `None` if there is no such process.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // A process that has ended but was not waited for has no memory.
    Some(Usage { cpu_us: cpu_us(&stat)?, rss_bytes: rss_bytes(&status).unwrap_or(0) })
}

/// The use of this process.
pub fn own() -> Usage {
    usage(std::process::id()).unwrap_or_default()
}

/// The calling thread's CPU time in nanoseconds.
pub fn thread_cpu_ns() -> Option<u64> {
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}

pub fn machine() -> MachineTime {
    fs::read_to_string("/proc/stat").ok().and_then(|text| machine_time(&text)).unwrap_or_default()
}

/// How many files this process may have open, sockets included.
pub fn open_files_limit() -> Option<u64> {
    open_files(&fs::read_to_string("/proc/self/limits").ok()?)
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The sum of fields 14 and 15. The second field, in brackets, may contain spaces.
fn cpu_us(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    // USER_HZ is 100 on every architecture of today's Linux.
    Some((user + system) * 10_000)
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The sum of the first eight fields; guest time is already part of user time.
fn machine_time(stat: &str) -> Option<MachineTime> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let (idle, total) = (ticks.get(3)? + ticks.get(4)?, ticks.iter().sum());
    Some(MachineTime { busy: total - idle, total })
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let stat = "1 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_us(stat), Some(3_000_000));
        assert_eq!(rss_bytes("VmPeak:\t 9 kB\nVmRSS:\t  1234 kB\n"), Some(1234 * 1024));
        let machine = machine_time("cpu  100 1 10 800 50 0 5 34 7 0\ncpu0 1 2 3\n");
        assert_eq!(machine, Some(MachineTime { busy: 150, total: 1000 }));
        assert_eq!(open_files("Max cpu time unlimited\nMax open files            1024    4096    files\n"), Some(1024));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_something() {
        assert!(own().rss_bytes > 100_000);
        assert!(thread_cpu_ns().is_some_and(|ns| ns > 0));
        assert!(machine().busy > 0);
    }
}
