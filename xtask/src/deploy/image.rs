//! `cargo xtask image`: one static program on nothing, as an archive that container runtimes import. The same
//! source in the same folder, by the same toolchain, gives the same digest: no time is written anywhere, and packing adds nothing of its own.
//! (The folder counts: the eBPF object names its source files by it.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::arch::Arch;
use crate::cache::Cache;
use crate::setup::{self, SetupStep};
use crate::{command, cross, files};

mod attest;
mod provenance;
mod sbom;

use attest::Predicate;

const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(super) const PACKAGE: &str = "conntrack-user";
/// Features that the program has in the image, if it has them at all: with `kube` it can ask the Kubernetes API.
const FEATURES: &[&str] = &["kube"];
/// The time of everything in the image.
const TIME: &str = "1970-01-01T00:00:00Z";
/// An image that is larger is a mistake.
const MOST_BYTES: u64 = 20 << 20;

/// What `cargo xtask image` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where the archive goes [default: target/image/ctpressure.tar, with another architecture's name before the dot]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name of the image in the archive, with registry and tag
    #[arg(long, value_name = "NAME", default_value_t = default_name())]
    name: String,
    /// Architecture of the nodes that it is for
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Take this program instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Pack twice and compare the digests
    #[arg(long)]
    check: bool,
}

/// What the image is called unless told otherwise.
pub(super) fn default_name() -> String {
    format!("docker.io/library/ctpressure:{VERSION}")
}

pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let arch = arguments.arch;
    let cache = Cache::open()?.of(arch);
    let mut steps = vec![SetupStep::Umoci];
    if arguments.program.is_none() {
        steps.extend(setup::steps_for_binaries(arch));
    }
    setup::ensure(&cache, &steps)?;
    let umoci = cache
        .program("umoci")
        .context("umoci is missing: run `cargo xtask setup`")?;
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => build(&cache)?,
    };
    let features = features()?;
    let bill = bill(arch)?;
    let said = [
        Predicate {
            kind: "https://cyclonedx.org/bom",
            content: serde_json::from_str(&bill).context("read the bill of materials")?,
        },
        Predicate {
            kind: "https://slsa.dev/provenance/v1",
            content: provenance::of(arch.target(), &features)?,
        },
    ];
    let image = Image {
        arch,
        program: &program,
        bill: &bill,
        said: &said,
        name: &arguments.name,
    };
    let pack = |target: &Path| pack(&umoci, &image, target);
    let default = || format!("target/image/ctpressure{}.tar", arch.suffix()).into();
    let named = arguments.output.clone().unwrap_or_else(default);
    let output = command::repository().join(&named);
    let digest = pack(&output)?;
    fs::write(output.with_extension("cdx.json"), &bill).context("write the bill of materials")?;
    if arguments.check {
        let folder = tempfile::tempdir().context("make a folder")?;
        let second = folder.path().join("image.tar");
        let again = pack(&second)?;
        if again != digest || fs::read(&second)? != fs::read(&output)? {
            bail!("the same program was packed as {digest} and as {again}");
        }
        command::say("packed twice: the same digest, the same archive");
    }
    let bytes = fs::metadata(&output)?.len();
    if bytes > MOST_BYTES {
        bail!("the image has {bytes} bytes, more than {MOST_BYTES}");
    }
    println!("{} {digest} {bytes} bytes", named.display());
    Ok(0)
}

/// What the program is made of.
pub(super) fn bill(arch: Arch) -> Result<String> {
    sbom::of(PACKAGE, arch.target(), &features()?)
}

/// The arguments that switch on what the image is to have.
pub(super) fn features() -> Result<Vec<String>> {
    let metadata = command::metadata(&["--no-deps", "--locked"])?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let package = packages.iter().find(|package| package["name"] == PACKAGE);
    let there = &package.context("the package")?["features"];
    Ok(FEATURES
        .iter()
        .filter(|name| !there[**name].is_null())
        .map(|name| format!("--features={PACKAGE}/{name}"))
        .collect())
}

/// Builds the program with the folders of this machine left out as far as the compiler can: not in the eBPF object, which another
/// cargo builds.
pub(super) fn build(cache: &Cache) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let folder = command::repository().join("target/image/build");
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [
        map(&command::repository(), "/src"),
        map(&home, "/cargo"),
        map(&setup::sysroot()?, "/rust"),
    ];
    let target = cache.arch().target();
    let mut cargo = command::cargo("build --release --locked --bin ctpressure --target-dir");
    // Separated as cargo wants them, so that a path may have spaces.
    cargo
        .arg(&folder)
        .args(["--package", PACKAGE, "--target", target])
        .args(features()?)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    cross::prepare(cache, &mut cargo)?;
    command::run(&mut cargo)?;
    Ok(folder.join(target).join("release/ctpressure"))
}

/// What an image is made of.
struct Image<'a> {
    arch: Arch,
    program: &'a Path,
    /// The bill of materials, which is in the image too.
    bill: &'a str,
    /// What is attached to it.
    said: &'a [Predicate],
    name: &'a str,
}

/// Makes the archive; the result is the digest of the index that has the image and what is attached to it.
fn pack(umoci: &Path, image: &Image<'_>, target: &Path) -> Result<String> {
    let Image {
        arch,
        program,
        bill,
        said,
        name,
    } = *image;
    let (_, tag) = name
        .rsplit_once(':')
        .with_context(|| format!("{name} has no tag"))?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let layout = folder.path().join("layout");
    let bundle = folder.path().join("bundle");
    let image = format!("{}:{tag}", layout.display());
    let umoci = |arguments: &[&str]| {
        let mut command = Command::new(umoci);
        command.arg("--log=error").args(arguments);
        command::output(&mut command)
    };
    let layout_path = layout.to_string_lossy().into_owned();
    let bundle_path = bundle.to_string_lossy().into_owned();
    umoci(&["init", "--layout", &layout_path])?;
    umoci(&["new", "--image", &image])?;
    umoci(&["unpack", "--rootless", "--image", &image, &bundle_path])?;
    fill(&bundle.join("rootfs"), program, bill)?;
    let by = [
        "--history.created",
        TIME,
        "--history.created_by",
        "cargo xtask image",
    ];
    umoci(&[&["repack", "--image", &image], &by[..], &[&bundle_path]].concat())?;
    configure(&umoci, arch, &image)?;
    umoci(&["gc", "--layout", &layout_path])?;
    let platform = json!({ "os": "linux", "architecture": arch.name() });
    attest::attach(&layout, &platform, said)?;
    let digest = name_it(&layout, name)?;
    archive(&layout, target)?;
    Ok(digest)
}

/// What is in the image: the program, and what it is made of.
fn fill(root: &Path, program: &Path, bill: &str) -> Result<()> {
    let inside = root.join("ctpressure");
    fs::copy(program, &inside).with_context(|| format!("copy {}", program.display()))?;
    let list = root.join("ctpressure.cdx.json");
    fs::write(&list, bill).context("write the bill of materials")?;
    for (path, mode) in [(&inside, 0o755), (&list, 0o644), (&root.to_owned(), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        let file = fs::File::open(path)?;
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .with_context(|| format!("set the time of {}", path.display()))?;
    }
    Ok(())
}

fn configure(umoci: &impl Fn(&[&str]) -> Result<String>, arch: Arch, image: &str) -> Result<()> {
    let labels = [
        ("title", "ctpressure"),
        (
            "description",
            "Watches the conntrack tables of a node with eBPF",
        ),
        ("version", VERSION),
        ("licenses", env!("CARGO_PKG_LICENSE")),
    ]
    .map(|(name, value)| format!("org.opencontainers.image.{name}={value}"));
    let mut arguments = vec![
        "config",
        "--no-history",
        "--image",
        image,
        "--created",
        TIME,
    ];
    arguments.extend(["--os", "linux", "--architecture", arch.name()]);
    arguments.extend(["--config.user", "0:0", "--config.entrypoint", "/ctpressure"]);
    arguments.extend(["--config.cmd", "run", "--config.exposedports", "9743/tcp"]);
    arguments.extend(["--config.stopsignal", "SIGTERM"]);
    for label in &labels {
        arguments.extend(["--config.label", label]);
    }
    umoci(&arguments).map(drop)
}

/// Names the image for runtimes that import the archive; the result is its digest.
fn name_it(layout: &Path, name: &str) -> Result<String> {
    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path)?).context("read index.json")?;
    let manifest = &mut index["manifests"][0];
    manifest["annotations"]["io.containerd.image.name"] = name.into();
    let digest = manifest["digest"].as_str().context("a digest")?.to_owned();
    fs::write(&path, index.to_string()).context("write index.json")?;
    Ok(digest)
}

fn archive(layout: &Path, target: &Path) -> Result<()> {
    let parent = target.parent().context("the archive is in a folder")?;
    files::folder(parent)?;
    let mut tar = command::required("tar", "tar", "makes the archive")?;
    tar.args("--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner".split(' '));
    tar.args(["--mode=u=rwX,go=rX", "--format=ustar", "-cf"]);
    tar.arg(target).arg("-C").arg(layout);
    command::output(tar.args(["oci-layout", "index.json", "blobs"])).map(drop)
}
