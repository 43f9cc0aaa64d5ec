//! The machine loses its power: what the disk was never told to keep is lost, and what it kept anyway is kept by chance.
//!
//! A real ext4 lies on a disk of nbdkit (disk.py), reached through FUSE and a loop device.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tokio::runtime::Runtime;

use crate::{
    Folder, Moments,
    kills::{address, forgetful, runtime, watch},
    ledger::Ledger,
    load::{Extent, Load, check},
    node::Node,
    rounds,
};

const DISK_BYTES: u64 = 512 << 20;
/// Rounds on one disk, from which nothing is ever removed.
const LIFE: u64 = 50;

#[test]
#[ignore = "needs root, nbdkit with Python, nbdfuse and a mount namespace of its own: run .ci/crash power"]
fn power_cuts_lose_nothing_acknowledged() {
    let (runtime, mut moments, mut left) = (runtime(), Moments::new(), rounds(5));
    while left > 0 {
        let rounds = left.min(LIFE);
        cut_power(&runtime, &mut moments, rounds);
        left -= rounds;
    }
}

fn cut_power(runtime: &Runtime, moments: &mut Moments, rounds: u64) {
    let folder = Folder::new("power");
    let image = folder.0.join("image");
    fs::File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("an image");
    run("mkfs.ext4", &["-q", path(&image)]);
    let mount = folder.0.join("mount");
    let mut node = Node::new(mount.join("node"), address(20), forgetful);
    node.log = folder.0.join("node.log");
    let mut ledger = Ledger::new(6, moments.next(), 1500);
    for round in 1..=rounds {
        // From a disk that writes nothing without a flush to one that writes nearly everything.
        let early = [0, 50, 90, 10][round as usize % 4];
        let disk = Disk::up(&folder.0, &mount, moments.next(), early);
        node.wrapper = another_boot(&folder.0, round);
        node.start();
        node.wait_ready();
        let extent = if round % 10 == 1 { Extent::Whole } else { Extent::Recent };
        runtime.block_on(check(&[node.address()], &ledger, extent));
        let load = Load::start(runtime, node.address(), ledger);
        load.wait_for(100);
        thread::sleep(moments.below(Duration::from_millis(600)));
        disk.cut(&mut node);
        ledger = load.stop(runtime);
    }
    let disk = Disk::up(&folder.0, &mount, 0, 0);
    node.wrapper = another_boot(&folder.0, rounds + 1);
    node.start();
    node.wait_ready();
    runtime.block_on(check(&[node.address()], &ledger, Extent::Whole));
    println!("{rounds} power cuts, {} writes acknowledged, all there", ledger.acknowledged());
    disk.cut(&mut node);
    assert!(ledger.acknowledged() > 0, "nothing was written");
}

/// A restarted kernel has a new boot id. Only the node sees it, in a mount namespace of its own.
fn another_boot(folder: &Path, round: u64) -> Vec<String> {
    let id = folder.join("boot_id");
    fs::write(&id, format!("00000000-0000-4000-8000-{round:012}\n")).expect("written");
    let script = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", id.display());
    ["unshare", "--mount", "sh", "-ec", &script, "sh"].map(str::to_owned).to_vec()
}

struct Disk {
    nbdkit: Child,
    nbdfuse: Child,
    fuse: PathBuf,
    device: String,
    mount: PathBuf,
}

impl Disk {
    fn up(folder: &Path, mount: &Path, seed: u64, early: u64) -> Self {
        let (socket, listens, fuse) = (folder.join("socket"), folder.join("listens"), folder.join("fuse"));
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/disk.py");
        let _ = (fs::remove_file(&socket), fs::remove_file(&listens));
        fs::create_dir_all(&fuse).expect("a folder");
        fs::create_dir_all(mount).expect("a folder");
        let nbdkit = Command::new("nbdkit")
            .args(["-f", "-U", path(&socket), "-P", path(&listens), "python", path(&plugin)])
            .arg(format!("image={}", folder.join("image").display()))
            .args([format!("seed={seed}"), format!("early={early}")])
            .spawn()
            .expect("nbdkit starts");
        // The process id is written when nbdkit listens.
        watch("nbdkit's socket", || listens.metadata().is_ok_and(|meta| meta.len() > 0));
        let nbdfuse = Command::new("nbdfuse")
            .args([path(&fuse), &format!("nbd+unix:///?socket={}", socket.display())])
            // nbdkit reports that its client has gone, which is the purpose.
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdfuse starts");
        let file = fuse.join("nbd");
        watch("nbdfuse's file", || file.exists());
        let device = run("losetup", &["--direct-io=on", "--find", "--show", path(&file)]);
        // A commit by time would keep data that was never flushed.
        run("mount", &["-o", "commit=300", &device, path(mount)]);
        Self { nbdkit, nbdfuse, fuse, device, mount: mount.to_owned() }
    }

    /// Ends the disk first, then the node that writes to it.
    fn cut(mut self, node: &mut Node) {
        self.nbdkit.kill().expect("kills");
        self.nbdkit.wait().expect("ends");
        node.kill();
        self.down();
    }

    fn down(&mut self) {
        // Each layer may have gone with the one below it.
        let _ = Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
        let _ = Command::new("umount").arg(&self.fuse).stderr(Stdio::null()).status();
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if matches!(self.nbdkit.try_wait(), Ok(None)) {
            let _ = self.nbdkit.kill();
            let _ = self.nbdkit.wait();
            self.down();
        }
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
