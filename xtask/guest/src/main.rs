//! The first process of a guest machine: prepares the system, runs the script, hands its output and
//! exit status to the host, powers off.
//!
//! A program rather than a shell script: a script's background processes may hold its output open for
//! ever, and only PID 1 can tell when the script itself has ended.
//!
//! In a guest that has systemd, that is the first process once the system is prepared, and this program goes on as its child.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{chroot, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use frame::Kind;

mod frame;

/// Where this program is.
const OWN: &str = "/init";
/// The first process of a guest that has it.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
/// The argument of this program when systemd is the first process.
const BESIDE_SYSTEMD: &str = "beside-systemd";
/// What systemd begins: nothing. The guest's script does.
const DEFAULT_TARGET: &str = "[Unit]\nDescription=Guest\nDefaultDependencies=no\n";

const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin";

/// How many files a process of the guest may have open.
const OPEN_FILES: u64 = 1 << 16;

/// Type, place, and whether the guest is of no use without it.
const MOUNTS: &[(&str, &str, bool)] = &[
    ("proc", "/proc", true),
    ("sysfs", "/sys", true),
    ("devtmpfs", "/dev", true),
    ("devpts", "/dev/pts", false),
    ("tmpfs", "/dev/shm", false),
    ("tmpfs", "/run", true),
    ("tmpfs", "/tmp", true),
    ("cgroup2", "/sys/fs/cgroup", false),
    ("bpf", "/sys/fs/bpf", false),
    ("tracefs", "/sys/kernel/tracing", false),
    ("debugfs", "/sys/kernel/debug", false),
    ("securityfs", "/sys/kernel/security", false),
];

/// What udev makes on other systems.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

fn main() {
    if let Err(error) = run() {
        // On the console, which the host shows when a guest ends without a status.
        eprintln!("guest init: {error:#}");
        // The console is slow, and what it has not written when the power goes is lost.
        thread::sleep(Duration::from_secs(1));
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    // Returning from PID 1 is a kernel panic, which ends the guest as well.
    eprintln!("guest init: power off: {error}");
}

fn run() -> Result<()> {
    if std::env::args().nth(1).as_deref() != Some(BESIDE_SYSTEMD) {
        prepare()?;
        if Path::new(SYSTEMD).exists() {
            hand_over()?;
        }
    }
    let job = Path::new(frame::JOB_FOLDER);
    load_modules(&job.join(frame::JOB_MODULES))?;
    let port = Arc::new(Mutex::new(open_port()?));

    bring_loopback_up()?;

    let status = run_script(&job.join(frame::JOB_SCRIPT), &port)?;
    send_files(&job.join(frame::JOB_FETCH), &port)?;
    send(&port, Kind::Status, &status.to_le_bytes())
}

/// What every process of the guest finds: limits, file systems, devices.
fn prepare() -> Result<()> {
    cover_root()?;
    // As systemd has it for services with many connections; the kernel's own is 4096 at most.
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).context("raise RLIMIT_NOFILE")?;
    for (kind, place, needed) in MOUNTS {
        let mounted = fs::create_dir_all(place)
            .map_err(anyhow::Error::from)
            .and_then(|()| {
                mount(
                    Some(*kind),
                    *place,
                    Some(*kind),
                    MsFlags::empty(),
                    None::<&str>,
                )
                .map_err(anyhow::Error::from)
            });
        match mounted {
            Ok(()) => {}
            Err(error) if *needed => return Err(error).context(format!("mount {kind} on {place}")),
            Err(error) => eprintln!("guest init: mount {kind} on {place}: {error}"),
        }
    }
    for (link, target) in DEVICE_LINKS {
        symlink(target, link).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}

/// Puts a mount over the kernel's first file system: out of that one itself nobody can `pivot_root`,
/// which is how container runtimes enter a container.
fn cover_root() -> Result<()> {
    const OVER: &str = "/run";
    let mount_as = |from: &str, to: &str, flags| {
        mount(Some(from), to, None::<&str>, flags, None::<&str>)
            .with_context(|| format!("mount {from} on {to}"))
    };
    mount_as("/", OVER, MsFlags::MS_BIND)?;
    std::env::set_current_dir(OVER).with_context(|| format!("enter {OVER}"))?;
    mount_as(".", "/", MsFlags::MS_MOVE)?;
    chroot(".").context("enter the new root")?;
    std::env::set_current_dir("/").context("enter the new root")
}

/// Begins this program once more, beside systemd, and becomes systemd.
fn hand_over() -> Result<()> {
    let units = Path::new("/etc/systemd/system");
    fs::create_dir_all(units).with_context(|| format!("make {}", units.display()))?;
    fs::write(units.join("default.target"), DEFAULT_TARGET).context("write default.target")?;
    Command::new(OWN)
        .arg(BESIDE_SYSTEMD)
        .spawn()
        .context("begin this program once more")?;
    Err(Command::new(SYSTEMD).env_clear().exec()).context("become systemd")
}

fn load_modules(list: &Path) -> Result<()> {
    let list = fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
    for path in list.lines() {
        let module = File::open(path).with_context(|| format!("open {path}"))?;
        match finit_module(module, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => bail!("load {path}: {error}"),
        }
    }
    Ok(())
}

fn bring_loopback_up() -> Result<()> {
    let mut ip = Command::new("/bin/sh");
    let status = ip
        .args(["-c", "ip link set lo up"])
        .env("PATH", PATH)
        .status();
    ensure!(
        status.context("start ip")?.success(),
        "could not bring lo up"
    );
    Ok(())
}

/// Finds the port by its name. The device may appear a moment after its driver; on a host with other
/// work that was more than 20 s.
fn open_port() -> Result<File> {
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        if let Some(device) = find_port() {
            return File::options()
                .write(true)
                .open(&device)
                .with_context(|| format!("open {}", device.display()));
        }
        if Instant::now() > deadline {
            bail!("no virtio port named {}", frame::PORT_NAME);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        let device = Path::new("/dev").join(port.file_name());
        (name.trim_end() == frame::PORT_NAME && device.exists()).then_some(device)
    })
}

fn run_script(script: &Path, port: &Arc<Mutex<File>>) -> Result<i32> {
    let mut child = Command::new("/bin/sh")
        .arg(script)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("TERM", "dumb")
        .current_dir("/root")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start /bin/sh")?;
    let forwarders = [
        child
            .stdout
            .take()
            .map(|pipe| forward(pipe, Kind::Stdout, port)),
        child
            .stderr
            .take()
            .map(|pipe| forward(pipe, Kind::Stderr, port)),
    ];
    let status = wait_and_reap(&mut child)?;
    // What the script left running would keep the pipes open. Everything but PID 1 ends.
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => eprintln!("guest init: kill what the script left: {error}"),
    }
    for forwarder in forwarders.into_iter().flatten() {
        match forwarder.join() {
            Ok(result) => result?,
            Err(_) => bail!("a forwarder of the script's output panicked"),
        }
    }
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Waits for the script, and for every orphan that becomes a child of PID 1 meanwhile.
fn wait_and_reap(child: &mut std::process::Child) -> Result<ExitStatus> {
    use nix::sys::wait::{WaitStatus, wait};
    let script = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == script => {
                return Ok(ExitStatus::from_raw((code & 0xff) << 8));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == script => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("wait for the script: {error}"),
        }
    }
}

fn forward(
    mut pipe: impl Read + Send + 'static,
    kind: Kind,
    port: &Arc<Mutex<File>>,
) -> thread::JoinHandle<Result<()>> {
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut buffer = vec![0; 30 << 10];
        loop {
            let length = pipe.read(&mut buffer).context("read the script's output")?;
            if length == 0 {
                return Ok(());
            }
            send(&port, kind, &buffer[..length])?;
        }
    })
}

fn send_files(list: &Path, port: &Arc<Mutex<File>>) -> Result<()> {
    let list = fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
    for (index, path) in (0_u32..).zip(list.lines()) {
        if let Err(error) = send_file(index, Path::new(path), port) {
            let message = [&index.to_le_bytes(), format!("{error:#}").as_bytes()].concat();
            send(port, Kind::FileMissing, &message)?;
        }
    }
    Ok(())
}

fn send_file(index: u32, path: &Path, port: &Arc<Mutex<File>>) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut buffer = vec![0; 30 << 10];
    loop {
        let length = file
            .read(&mut buffer)
            .with_context(|| format!("read {}", path.display()))?;
        // The empty piece too: it is how the host learns of an empty file.
        send(
            port,
            Kind::File,
            &[&index.to_le_bytes(), &buffer[..length]].concat(),
        )?;
        if length == 0 {
            return Ok(());
        }
    }
}

fn send(port: &Arc<Mutex<File>>, kind: Kind, payload: &[u8]) -> Result<()> {
    let mut port = port
        .lock()
        .map_err(|_| anyhow::anyhow!("the port's lock is poisoned"))?;
    let length = u32::try_from(payload.len()).context("a frame's length")?;
    ensure!(
        length <= frame::LONGEST,
        "a frame of {length} bytes is too long"
    );
    let frame = [&[kind as u8], length.to_le_bytes().as_slice(), payload].concat();
    port.write_all(&frame).context("write to the host")
}
