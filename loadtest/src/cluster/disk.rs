//! A disk for one node, which can be slow, full or failing, or lose unflushed writes at a power cut.
//!
//! An ext4 file system is on a loop device, the loop device on a file that nbdfuse provides, and nbdkit serves that
//! file with three filters: `error` (writes, or reads, fail while a certain file exists), `rate` (bits a second, read from a
//! file), and `cache` in write-back mode, which forwards writes only at a flush: when nbdkit is killed, unflushed
//! writes are lost.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{ClusterError, tool};

pub struct Disk {
    folder: PathBuf,
    /// The mount point of the file system.
    mount: PathBuf,
    nbdkit: Option<Child>,
    nbdfuse: Option<Child>,
    device: Option<String>,
    mounted: bool,
}

/// Longest path of a socket that Linux takes.
const SOCKET_BYTES: usize = 107;
/// More bits a second than any test writes.
const UNLIMITED: &str = "100G";

impl Disk {
    /// Makes the image, with a size in MiB, and mounts it. Needs root.
    pub(crate) fn create(folder: PathBuf, mount: PathBuf, mib: u64) -> Result<Self, ClusterError> {
        tool::require_root()?;
        tool::require(&[
            ("nbdkit", "nbdkit"),
            ("nbdfuse", "libnbd-bin"),
            ("fusermount3", "fuse3"),
            ("mkfs.ext4", "e2fsprogs"),
            ("losetup", "mount"),
        ])?;
        for path in [&folder, &mount, &folder.join("nbd")] {
            fs::create_dir_all(path).map_err(ClusterError::io(path))?;
        }
        let socket = folder.join("socket");
        if socket.as_os_str().len() > SOCKET_BYTES {
            return Err(ClusterError::LongPath(socket));
        }
        let mut disk = Self { folder, mount, nbdkit: None, nbdfuse: None, device: None, mounted: false };
        let image = disk.path("disk.img");
        tool::run("truncate", &["-s", &format!("{mib}M"), &image])?;
        // No blocks are reserved for root: a full disk is full for root, too.
        tool::run("mkfs.ext4", &["-q", "-m", "0", &image])?;
        disk.attach()?;
        Ok(disk)
    }

    /// Mounts the image; the file system repairs itself from its journal.
    pub fn attach(&mut self) -> Result<(), ClusterError> {
        for stale in ["socket", "fail", "fail-reads"] {
            // The file is usually absent.
            let _ = fs::remove_file(self.folder.join(stale));
        }
        self.rate(UNLIMITED)?;
        let (socket, log) = (self.path("socket"), self.path("nbd.log"));
        let nbdkit = [
            "-f",
            "-U",
            &socket,
            "--filter=error",
            "--filter=rate",
            "--filter=cache",
            "file",
            &self.path("disk.img"),
            "cache=writeback",
            "error-pwrite-rate=100%",
            &format!("error-pwrite-file={}", self.path("fail")),
            "error-pread-rate=100%",
            &format!("error-pread-file={}", self.path("fail-reads")),
            &format!("rate-file={}", self.path("rate")),
        ];
        self.nbdkit = Some(spawn("nbdkit", &nbdkit, &log)?);
        wait_for("nbdkit's socket", || Path::new(&socket).exists())?;
        let nbdfuse = ["-o", "allow_other", &self.path("nbd"), &format!("nbd+unix:///?socket={socket}")];
        self.nbdfuse = Some(spawn("nbdfuse", &nbdfuse, &log)?);
        let file = self.path("nbd/nbd");
        wait_for("nbdfuse's file", || Path::new(&file).exists())?;
        let direct = tool::run("losetup", &["--direct-io=on", "-f", "--show", &file]);
        let device = direct.or_else(|_| tool::run("losetup", &["-f", "--show", &file]))?;
        self.device = Some(device.clone());
        tool::run("mount", &["-t", "ext4", &device, &self.mount.to_string_lossy()])?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts the file system. Processes with open files on it see a failing disk.
    pub fn detach(&mut self) {
        // Each step may have nothing to do, or may already have been done by the step that failed.
        if std::mem::take(&mut self.mounted) {
            let mount = self.mount.to_string_lossy().into_owned();
            if tool::run("umount", &[&mount]).is_err() {
                let _ = tool::run("umount", &["-l", &mount]);
            }
        }
        if let Some(device) = self.device.take() {
            let _ = tool::run("losetup", &["-d", &device]);
        }
        let nbd = self.path("nbd");
        if tool::run("fusermount3", &["-u", &nbd]).is_err() {
            let _ = tool::run("umount", &["-l", &nbd]);
        }
        for mut process in [self.nbdfuse.take(), self.nbdkit.take()].into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// From now on nothing reaches the image, and unflushed writes are lost. Kill the node at the same time, then call
    /// [`Disk::detach`] and [`Disk::attach`].
    pub fn cut_power(&mut self) {
        if let Some(mut nbdkit) = self.nbdkit.take() {
            let _ = nbdkit.kill();
            let _ = nbdkit.wait();
        }
    }

    pub fn slow(&self, kbit_per_second: u64) -> Result<(), ClusterError> {
        self.rate(&format!("{kbit_per_second}K"))
    }

    pub fn fast(&self) -> Result<(), ClusterError> {
        self.rate(UNLIMITED)
    }

    /// Every write fails from now on.
    pub fn fail(&self) -> Result<(), ClusterError> {
        self.begin("fail")
    }

    /// From now on reads of what is not in memory fail; of these files and folders nothing is.
    pub fn fail_reads(&self, files: &Path) -> Result<(), ClusterError> {
        self.begin("fail-reads")?;
        forget(files).map_err(ClusterError::io(files))
    }

    fn begin(&self, fault: &str) -> Result<(), ClusterError> {
        let file = self.folder.join(fault);
        fs::write(&file, "").map_err(ClusterError::io(&file))
    }

    /// Fills all the free space.
    pub fn fill(&self) -> Result<(), ClusterError> {
        let free = tool::run("df", &["--output=avail", "-k", &self.mount.to_string_lossy()])?;
        let free = free.lines().last().unwrap_or_default().trim().to_owned();
        let ballast = self.mount.join("ballast").to_string_lossy().into_owned();
        // The file system keeps some of the free space for its own tables.
        let _ = tool::run("fallocate", &["-l", &format!("{free}KiB"), &ballast]);
        let rest = format!("of={ballast}.rest");
        match tool::run("dd", &["if=/dev/zero", &rest, "bs=4096", "conv=fsync"]) {
            Err(ClusterError::Tool { why, .. }) if why.contains("No space left") => Ok(()),
            Err(other) => Err(other),
            Ok(_) => Err(ClusterError::Tool { command: format!("dd {rest}"), why: "the disk is not full".to_owned() }),
        }
    }

    pub fn empty(&self) -> Result<(), ClusterError> {
        for name in ["ballast", "ballast.rest"] {
            // One of the files may not have found room.
            let _ = fs::remove_file(self.mount.join(name));
        }
        Ok(())
    }

    /// nbdkit needs the file to be replaced in one step.
    fn rate(&self, rate: &str) -> Result<(), ClusterError> {
        let (new, file) = (self.folder.join("rate.new"), self.folder.join("rate"));
        fs::write(&new, rate).map_err(ClusterError::io(&new))?;
        fs::rename(&new, &file).map_err(ClusterError::io(&file))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.detach();
        let _ = fs::remove_file(self.folder.join("disk.img"));
    }
}

/// Takes the content of these files out of the system's memory.
fn forget(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| forget(&entry?.path()));
    }
    let file = match fs::File::open(path) {
        // The node may be deleting it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    // Pages that are not written yet would stay.
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

fn spawn(program: &str, arguments: &[&str], log: &str) -> Result<Child, ClusterError> {
    let file = fs::File::options().create(true).append(true).open(log).map_err(ClusterError::io(log))?;
    let errors = file.try_clone().map_err(ClusterError::io(log))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(file).stderr(errors);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(ClusterError::io(program))
}

fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<(), ClusterError> {
    let patience = Duration::from_secs(10);
    let give_up = Instant::now() + patience;
    while !condition() {
        if Instant::now() > give_up {
            let why = format!("not there after {patience:?}");
            return Err(ClusterError::Tool { command: format!("waiting for {what}"), why });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
