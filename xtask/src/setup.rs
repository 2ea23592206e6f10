//! What a fresh machine lacks, brought step by step. A step looks before it does anything, leaves nothing half made, and
//! says what it is for. Nothing is installed into the system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::apt::{self, Apt};
use crate::arch::Arch;
use crate::cache::{Cache, replace};
use crate::command;
use crate::cross;
use crate::files;
use crate::groups::Group;
use crate::guest_tools;
use crate::helm;
use crate::kernels;
use crate::qemu::Qemu;
use crate::report_program::{self, System};

/// The linker is made for the LLVM of the pinned compiler: both move together.
const BPF_LINKER: &str = "0.10.4";
const CARGO_DENY: &str = "0.20.2";
const MDBOOK: &str = "0.5.4";
/// The compiler that rust-toolchain.toml names.
const COMPILER: &str = env!("CARGO_PKG_RUST_VERSION");

/// What `cargo xtask setup` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Kernels to fetch, by version prefix
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = kernels::MATRIX.map(str::to_owned))]
    kernels: Vec<String>,
}

/// One thing that a machine may lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetupStep {
    /// The source of `core`, from which it is built for eBPF.
    RustSource,
    /// The target of the static binaries that run in guests.
    MuslTarget,
    /// The C compiler for another architecture's.
    Cross,
    BpfLinker,
    Qemu,
    /// busybox, ip, nft, conntrack and so on, for guests.
    GuestTools,
    /// bpftrace for guests: the benchmark compares with it.
    Bpftrace,
    /// containerd, runc and CNI plugins for guests: scenarios with pods.
    Containers,
    /// Checks the metrics page.
    Promtool,
    /// Renders and packs the chart.
    Helm,
    /// Packs the container image.
    Umoci,
    /// Checks licences and sources of dependencies.
    CargoDeny,
    /// Makes a site of the documents.
    Mdbook,
    /// Rust's library for the report program on another system.
    ReportTarget(System),
    /// Compiles and links for Windows.
    Mingw,
    /// Compiles and links for macOS.
    Zig,
    /// A kernel by version prefix.
    Kernel(String),
}

impl SetupStep {
    fn name(&self) -> String {
        match self {
            Self::RustSource => "rust-src: the source of core, built for eBPF".into(),
            Self::MuslTarget => "the musl target: static binaries for guests".into(),
            Self::Cross => {
                "clang and musl's headers: C parts of static binaries for another architecture"
                    .into()
            }
            Self::BpfLinker => format!("bpf-linker {BPF_LINKER}: links the eBPF object"),
            Self::Qemu => "QEMU: boots guests".into(),
            Self::GuestTools => {
                "guest tools: busybox, ip, nft, iptables, conntrack, bpftool, apparmor_parser"
                    .into()
            }
            Self::Bpftrace => "bpftrace for guests: the benchmark compares with it".into(),
            Self::Containers => {
                "containerd, runc and CNI plugins for guests: scenarios with pods".into()
            }
            Self::Promtool => "promtool: checks the metrics page, and the rules".into(),
            Self::Helm => "Helm: renders and packs the chart, from which manifests are made".into(),
            Self::Umoci => "umoci: packs the container image".into(),
            Self::CargoDeny => {
                format!("cargo-deny {CARGO_DENY}: licences and sources of dependencies")
            }
            Self::Mdbook => format!("mdbook {MDBOOK}: makes a site of the documents"),
            Self::ReportTarget(system) => {
                format!("{}: Rust's library for the report program", system.target())
            }
            Self::Mingw => "mingw: the report program for Windows".into(),
            Self::Zig => format!("{}: the report program for macOS", report_program::ZIG),
            Self::Kernel(prefix) => format!("kernel {prefix}"),
        }
    }

    /// What is there already.
    fn present(&self, cache: &Cache) -> Result<Option<String>> {
        let path = |path: PathBuf| path.exists().then(|| path.display().to_string());
        let target = |name: &str| anyhow::Ok(path(sysroot()?.join("lib/rustlib").join(name)));
        Ok(match self {
            Self::RustSource => {
                path(sysroot()?.join("lib/rustlib/src/rust/library/core/src/lib.rs"))
            }
            Self::MuslTarget => target(cache.arch().target())?,
            Self::ReportTarget(system) => target(system.target())?,
            Self::Mingw => report_program::mingw(cache).map(|path| path.display().to_string()),
            Self::Zig => report_program::zig(cache).map(|path| path.display().to_string()),
            Self::Cross => cross::present(cache).map(|path| path.display().to_string()),
            Self::BpfLinker => program_of_version(cache, "bpf-linker", BPF_LINKER),
            Self::CargoDeny => program_of_version(cache, "cargo-deny", CARGO_DENY),
            Self::Mdbook => program_of_version(cache, "mdbook", &format!("v{MDBOOK}")),
            Self::Qemu => Qemu::find(cache).map(|qemu| qemu.describe()),
            Self::GuestTools => match guest_tools::present(cache, Group::APPARMOR)? {
                Some(_) => guest_tools::present(cache, Group::BASE)?,
                None => None,
            },
            Self::Bpftrace => guest_tools::present(cache, Group::BPFTRACE)?,
            Self::Containers => guest_tools::present(cache, Group::CONTAINERS)?,
            Self::Promtool => cache
                .program("promtool")
                .map(|path| path.display().to_string()),
            Self::Helm => cache.program("helm").map(|path| path.display().to_string()),
            Self::Umoci => cache
                .program("umoci")
                .map(|path| path.display().to_string()),
            Self::Kernel(prefix) => {
                kernels::newest_cached(cache, prefix)?.map(|kernel| kernel.version)
            }
        })
    }

    fn bring(&self, cache: &Cache) -> Result<()> {
        match self {
            Self::RustSource => bring_rust_source(cache),
            Self::MuslTarget => add_target(cache.arch().target()),
            Self::ReportTarget(system) => add_target(system.target()),
            Self::Mingw => report_program::bring_mingw(cache),
            Self::Zig => report_program::bring_zig(cache),
            Self::Cross => cross::bring(cache),
            Self::BpfLinker => {
                let features = "--no-default-features --features llvm-22,rust-llvm-22";
                cargo_install(cache, "bpf-linker", BPF_LINKER, features)
            }
            // It does little: optimised, it takes more than twice as long to build, the most of what a new machine waits for.
            Self::CargoDeny => cargo_install(cache, "cargo-deny", CARGO_DENY, "--debug"),
            Self::Mdbook => cargo_install(cache, "mdbook", MDBOOK, "--no-default-features --debug"),
            Self::Qemu => bring_qemu(cache),
            Self::GuestTools => {
                guest_tools::fetch(cache, Group::BASE)?;
                guest_tools::fetch(cache, Group::APPARMOR)
            }
            Self::Bpftrace => guest_tools::fetch(cache, Group::BPFTRACE),
            Self::Containers => guest_tools::fetch(cache, Group::CONTAINERS),
            Self::Promtool => bring_program(cache, "prometheus", "promtool"),
            Self::Helm => helm::bring(cache),
            Self::Umoci => bring_program(cache, "umoci", "umoci"),
            Self::Kernel(prefix) => kernels::fetch(cache, prefix).map(|_| ()),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    check_programs()?;
    let mut steps = vec![
        SetupStep::RustSource,
        SetupStep::MuslTarget,
        SetupStep::BpfLinker,
        SetupStep::Qemu,
        SetupStep::GuestTools,
        SetupStep::Bpftrace,
        SetupStep::Containers,
        SetupStep::Promtool,
        SetupStep::Helm,
        SetupStep::CargoDeny,
    ];
    steps.extend(steps_for_reports());
    steps.extend(arguments.kernels.iter().cloned().map(SetupStep::Kernel));
    let _lock = cache.lock()?;
    let mut failures = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let title = format!("[{}/{}] {}", index + 1, steps.len(), step.name());
        // One step's failure does not keep the others from being done: the next run has less to do.
        if let Err(error) = one(step, &title, &cache) {
            eprintln!("xtask: error: {}: {error:#}", step.name());
            failures.push(step.name());
        }
    }
    if failures.is_empty() {
        command::say("everything is there");
        Ok(0)
    } else {
        eprintln!("xtask: error: still missing: {}", failures.join("; "));
        eprintln!("help: what worked is kept; run `cargo xtask setup` again for the rest");
        Ok(1)
    }
}

fn one(step: &SetupStep, title: &str, cache: &Cache) -> Result<()> {
    let present = step.present(cache)?;
    if let (SetupStep::Kernel(prefix), Some(old)) = (step, &present) {
        // A newer one may have come out. Without a network the one that is there does.
        match kernels::fetch(cache, prefix) {
            Ok(kernel) => command::say(&format!("{title}: {}", kernel.version)),
            Err(error) => command::say(&format!("{title}: {old} (not refreshed: {error:#})")),
        }
        return Ok(());
    }
    if let Some(there) = present {
        command::say(&format!("{title}: there already ({there})"));
        return Ok(());
    }
    command::say(title);
    step.bring(cache)
}

/// Brings those of the steps that are missing, and says nothing of the others.
pub(crate) fn ensure(cache: &Cache, steps: &[SetupStep]) -> Result<()> {
    for step in steps {
        if step.present(cache)?.is_some() {
            continue;
        }
        let _lock = cache.lock()?;
        // Another xtask may have brought it while this one waited.
        if step.present(cache)?.is_none() {
            command::say(&step.name());
            step.bring(cache)?;
        }
    }
    Ok(())
}

/// The steps without which no guest boots; with this project's binaries, or without.
pub(crate) fn steps_for_guests(arch: Arch, binaries: bool) -> Vec<SetupStep> {
    let mut steps = vec![
        SetupStep::MuslTarget,
        SetupStep::Qemu,
        SetupStep::GuestTools,
    ];
    if binaries {
        steps.extend(steps_for_binaries(arch));
    }
    steps
}

/// The steps without which no static binary is built.
pub(crate) fn steps_for_binaries(arch: Arch) -> Vec<SetupStep> {
    let mut steps = vec![
        SetupStep::MuslTarget,
        SetupStep::RustSource,
        SetupStep::BpfLinker,
    ];
    if arch != Arch::Amd64 {
        steps.push(SetupStep::Cross);
    }
    steps
}

/// The steps without which tests on this machine are neither built nor run; with those that look at the source, or without.
pub(crate) fn steps_for_tests(checks: bool) -> Vec<SetupStep> {
    let mut steps = vec![
        SetupStep::RustSource,
        SetupStep::BpfLinker,
        SetupStep::Promtool,
        SetupStep::Helm,
    ];
    if checks {
        steps.push(SetupStep::CargoDeny);
        steps.extend(steps_for_reports());
    }
    steps
}

/// The steps without which the report program is not built for a system.
pub(crate) fn steps_for_report(system: System) -> [SetupStep; 2] {
    let compiler = match system {
        System::Windows => SetupStep::Mingw,
        System::Macos => SetupStep::Zig,
    };
    [SetupStep::ReportTarget(system), compiler]
}

fn steps_for_reports() -> impl Iterator<Item = SetupStep> {
    [System::Windows, System::Macos]
        .into_iter()
        .flat_map(steps_for_report)
}

fn check_programs() -> Result<()> {
    for (program, package, purpose) in [
        ("apt-get", "apt", "downloads packages"),
        ("dpkg", "dpkg", "unpacks packages"),
        ("xz", "xz-utils", "unpacks kernel modules"),
        ("setpriv", "util-linux", "ends guests when xtask is killed"),
        (
            "cc",
            "gcc libc6-dev",
            "links programs, and compiles the C parts of `ring`",
        ),
    ] {
        command::required(program, package, purpose)?;
    }
    Ok(())
}

/// Where the compiler and its libraries are.
pub(crate) fn sysroot() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc
        .current_dir(command::repository())
        .args(["--print", "sysroot"]);
    Ok(PathBuf::from(command::output(&mut rustc)?.trim()))
}

fn rustup(purpose: &str) -> Result<Command> {
    let Some(path) = command::find("rustup") else {
        bail!("`rustup` is missing: it {purpose}. Install it: https://rustup.rs");
    };
    let mut command = Command::new(path);
    // There rust-toolchain.toml says which compiler is meant.
    command.current_dir(command::repository());
    Ok(command)
}

fn add_target(target: &str) -> Result<()> {
    let mut rustup = rustup("brings Rust's library for other systems than this one")?;
    command::run(rustup.args(["target", "add", target]))
}

fn bring_rust_source(cache: &Cache) -> Result<()> {
    let by_rustup = rustup("brings the source of the compiler's libraries")
        .and_then(|mut rustup| command::run(rustup.args(["component", "add", "rust-src"])));
    let Err(error) = by_rustup else {
        return Ok(());
    };
    command::say(&format!(
        "{error:#}; trying Debian's package of the same version"
    ));
    let apt = Apt::for_guests(cache)?;
    let version = apt.version("rust-src", COMPILER)?.with_context(|| {
        format!("Debian has no rust-src {COMPILER}. By hand: rustup component add rust-src")
    })?;
    let target = cache.tools().join(format!("rust-src-{COMPILER}"));
    replace(&target, |new| {
        apt.unpack_only(&[format!("rust-src={version}")], new)
    })?;
    let source = target.join("usr/src");
    let library = files::list(&source)?
        .into_iter()
        .find(|path| path.join("library/core").is_dir())
        .with_context(|| format!("no library/core below {}", source.display()))?;
    let link = sysroot()?.join("lib/rustlib/src/rust");
    let parent = link.parent().context("the link has a parent")?;
    let hint = || format!("link {} to {}", link.display(), library.display());
    fs::create_dir_all(parent).with_context(hint)?;
    if link.is_symlink() {
        fs::remove_file(&link).with_context(hint)?;
    }
    symlink(&library, &link).with_context(hint)
}

fn cargo_install(cache: &Cache, name: &str, version: &str, options: &str) -> Result<()> {
    command::say("built from source: this takes some minutes");
    let mut cargo = command::cargo("install --locked --force --root");
    cargo.arg(cache.tools()).args([name, "--version", version]);
    // For what is built by `--debug`.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo
        .args(options.split(' '))
        .args(command::quiet("--quiet"));
    command::run(&mut cargo).with_context(|| {
        format!("by hand: `cargo install {name} --version {version} --locked {options}`")
    })
}

fn program_of_version(cache: &Cache, name: &str, version: &str) -> Option<String> {
    let own = cache.programs().join(name);
    [Some(own), command::find(name)]
        .into_iter()
        .flatten()
        .find_map(|path| {
            let said = command::output(Command::new(&path).arg("--version")).ok()?;
            said.split_whitespace()
                .any(|word| word == version)
                .then(|| path.display().to_string())
        })
}

fn bring_qemu(cache: &Cache) -> Result<()> {
    let (program, package) = cache.arch().qemu();
    let suite = apt::suite_of_this_machine()
        .with_context(|| format!("install QEMU 8 or newer by hand (program {program})"))?;
    // Bookworm's own QEMU 7.2 corrupts guests; its backports have a sound one.
    let from = if suite == "bookworm" {
        "bookworm-backports".to_owned()
    } else {
        suite.clone()
    };
    let apt = Apt::for_this_machine(cache, &suite)?;
    replace(&cache.qemu(), |new| {
        apt.unpack_with_dependencies(&[package], &from, new)
            .with_context(|| {
                format!("by hand: sudo apt-get install -t {from} --no-install-recommends {package}")
            })
    })?;
    match Qemu::find(cache) {
        Some(_) => Ok(()),
        None => bail!(
            "the unpacked QEMU does not start; remove {}",
            cache.qemu().display()
        ),
    }
}

/// Takes one program out of a Debian package.
fn bring_program(cache: &Cache, package: &str, program: &str) -> Result<()> {
    // Of this machine's suite, whose C library it is linked with.
    let suite = apt::suite_of_this_machine()
        .with_context(|| format!("install {program} by hand so that it is on PATH"))?;
    let target = cache.programs().join(program);
    Apt::for_this_machine(cache, &suite)?
        .bring_program(&format!("{package}/{suite}"), program, &target)
        .with_context(|| format!("by hand: sudo apt-get install {package}"))
}
