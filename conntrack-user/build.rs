//! Builds the eBPF object and embeds it.
//!
//! Without a BPF toolchain (bpf-linker, rust-src) the object is left out with a warning, so that
//! clippy, doc and unit tests work anywhere; the program then says at start what to do.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const BOOTSTRAP: &str = "RUSTC_BOOTSTRAP";
/// Set for the second, real run; see [`main`]. (Not told by [`BOOTSTRAP`]: some people always have that set.)
const SECOND_RUN: &str = "CTPRESSURE_BUILDS_EBPF";
const SKIP: &str = "CTPRESSURE_SKIP_EBPF";
const CACHE: &str = "CTPRESSURE_CACHE";

fn main() -> Result<()> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let object = out_dir.join("conntrack");
    println!("cargo:rerun-if-env-changed={SKIP}");
    println!("cargo:rerun-if-env-changed={CACHE}");
    println!("cargo:rerun-if-env-changed=PATH");
    println!("cargo:rerun-if-changed=build.rs");

    if let Some(reason) = skip_reason() {
        println!("cargo:warning=the eBPF object is left out: {reason}");
        std::fs::write(&object, []).context("cannot write an empty eBPF object")?;
        return Ok(());
    }

    // aya-build asks for `-Z build-std=core` only under RUSTC_BOOTSTRAP=1, and cargo hands that
    // to every crate when it is set from outside. So it is set for this script alone.
    if env::var_os(SECOND_RUN).is_none() {
        let status = Command::new(env::current_exe()?)
            .env(BOOTSTRAP, "1")
            .env(SECOND_RUN, "1")
            // What somebody sets for the program must not reach the eBPF code: less optimised it
            // does not pass the verifier.
            .env_remove("CARGO_PROFILE_RELEASE_OPT_LEVEL")
            .env_remove("CARGO_PROFILE_RELEASE_DEBUG")
            .env("RUST_BACKTRACE", "0")
            // Each line of the inner build would come out as a warning of this one.
            .env("CARGO_TERM_QUIET", "true")
            .env("PATH", path_with_tools()?)
            .status()
            .context("cannot run the build script again")?;
        if !status.success() {
            bail!("building the eBPF object failed; `cargo xtask setup` brings what it needs");
        }
        return Ok(());
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conntrack-ebpf");
    let root = root
        .to_str()
        .context("the path of the checkout is not UTF-8")?;
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "1.95.0".to_owned());
    aya_build::build_ebpf(
        [Package {
            name: "conntrack-ebpf",
            root_dir: root,
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )
}

/// Why the object can't or shall not be built; `None` when it can.
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
