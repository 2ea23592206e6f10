//! Builds the eBPF objects and embeds them.
//!
//! Without a BPF toolchain (bpf-linker, rust-src) the objects are left out with a warning, so that
//! clippy, doc and unit tests work anywhere; the program then says at start what to do.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The programs of `conntrack-ebpf`, and what they are compiled for: both processors that ctpressure runs on are little-endian.
const OBJECTS: [&str; 2] = ["conntrack", "walk"];
const TARGET: &str = "bpfel-unknown-none";
const SKIP: &str = "CTPRESSURE_SKIP_EBPF";
const CACHE: &str = "CTPRESSURE_CACHE";
/// Says of which commit a source is that is in no repository of git.
const COMMIT: &str = "CTPRESSURE_COMMIT";
/// What the program is made of, as git takes it.
const SOURCE: [&str; 3] = ["Cargo.lock", "Cargo.toml", "conntrack-*"];

fn main() -> Result<()> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    println!("cargo:rerun-if-env-changed={SKIP}");
    println!("cargo:rerun-if-env-changed={CACHE}");
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-changed=build.rs");
    name_source()?;

    if let Some(reason) = skip_reason() {
        println!("cargo:warning=the eBPF objects are left out: {reason}");
        for object in OBJECTS {
            fs::write(out_dir.join(object), []).context("cannot write an empty eBPF object")?;
        }
        return Ok(());
    }

    build_objects(&out_dir)
}

/// Tells the program what it is made of, for `ctpressure --version`: features, target, and in a release the commit.
///
/// Other builds are of no commit: they are made between commits, and would have to be made again after each.
fn name_source() -> Result<()> {
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let features = if env::var_os("CARGO_FEATURE_KUBE").is_some() {
        "kube"
    } else {
        "none"
    };
    println!("cargo:rustc-env=CTPRESSURE_BUILT_FEATURES={features}");
    let target = env::var("TARGET").context("TARGET is not set")?;
    println!("cargo:rustc-env=CTPRESSURE_BUILT_TARGET={target}");
    let commit = if let Ok(commit) = env::var(COMMIT) {
        commit
    } else if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        commit().unwrap_or_else(|| "unknown: git does not say".to_owned())
    } else {
        "none: a build for development".to_owned()
    };
    println!("cargo:rustc-env=CTPRESSURE_BUILT_COMMIT={commit}");
    Ok(())
}

/// The commit that is checked out, and whether files differ from it; `None` without git or its repository.
fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(&root)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    // Whatever changes a tracked file, the index or the commit makes this run again.
    for name in ["HEAD", "logs/HEAD", "index"] {
        let path = root.join(git(&["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let list = ["ls-files", "--"];
    for file in git(&[&list[..], &SOURCE].concat())?.lines() {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changes = git(&[&status[..], &SOURCE].concat())?;
    Some(if changes.is_empty() {
        commit
    } else {
        format!("{commit}, with changes")
    })
}

/// Builds the objects into the folder that the library embeds it from.
///
/// The other cargo has a folder of its own below `target/`, one for all profiles: `core` is compiled for eBPF once, and an
/// object that a profile has is there for the next one.
fn build_objects(out_dir: &Path) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for input in ["conntrack-ebpf", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        // Registers of 32 bits and their jumps (5.1): without them each number of 32 bits is cut by two shifts.
        "-Ctarget-cpu=v3",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];
    // Cargo marks the folder that it puts everything into, and in that the folder of each `--target`.
    let is_marked = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    let marked = out_dir.ancestors().find(is_marked).unwrap_or(out_dir);
    let target = marked.parent().filter(is_marked).unwrap_or(marked);
    let target = target.join("ebpf").join(arch.as_str());
    let mut cargo = Command::new(env::var_os("CARGO").context("CARGO is not set")?);
    cargo
        .args([
            "build",
            "--release",
            "--package",
            "conntrack-ebpf",
            "--bins",
        ])
        .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // Allows `-Z`.
        .env("RUSTC_BOOTSTRAP", "1")
        // Lints of clippy are for the code of this machine.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        // What somebody sets for the program must not reach the eBPF code: less optimised it
        // does not pass the verifier.
        .env_remove("CARGO_PROFILE_RELEASE_OPT_LEVEL")
        .env_remove("CARGO_PROFILE_RELEASE_DEBUG")
        .env("RUST_BACKTRACE", "0")
        // Only what is wrong is said.
        .env("CARGO_TERM_QUIET", "true")
        .env("PATH", path_with_tools()?);
    let output = cargo.output().context("cannot start cargo")?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo:warning={line}");
    }
    if !output.status.success() {
        bail!("building the eBPF objects failed; `cargo xtask setup` brings what it needs");
    }
    for object in OBJECTS {
        let built = target.join(TARGET).join("release").join(object);
        fs::copy(&built, out_dir.join(object))
            .with_context(|| format!("copy {}", built.display()))?;
    }
    Ok(())
}

/// Why the objects can't or shall not be built; `None` when it can.
fn skip_reason() -> Option<String> {
    if env::var_os(SKIP).is_some_and(|value| value == "1") {
        return Some(format!("{SKIP}=1"));
    }
    let found = env::split_paths(&path_with_tools().ok()?)
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.is_file());
    let Some(path) = found else {
        // A file that is not there makes cargo run this script each time, so that the object is
        // built as soon as the linker is.
        println!("cargo:rerun-if-changed=bpf-linker-is-missing");
        return Some("bpf-linker is not installed (`cargo xtask setup` brings it)".to_owned());
    };
    println!("cargo:rerun-if-changed={}", path.display());
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    if !core.is_dir() {
        println!("cargo:rerun-if-changed=rust-src-is-missing");
        return Some("rust-src is not installed (`cargo xtask setup` brings it)".to_owned());
    }
    None
}

/// `PATH` with the folder in front where `cargo xtask setup` puts bpf-linker.
fn path_with_tools() -> Result<std::ffi::OsString> {
    let cache = env::var_os(CACHE).map(PathBuf::from).or_else(|| {
        let base = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
        Some(base.join("ctpressure"))
    });
    let path = env::var_os("PATH").unwrap_or_default();
    let tools = cache.map(|cache| cache.join("tools/bin"));
    Ok(env::join_paths(
        tools.into_iter().chain(env::split_paths(&path)),
    )?)
}
