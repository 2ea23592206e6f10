//! Real programs of Kubernetes, for the tests of `--kube` and of the manifests: no package has them, but Debian has the source with all that
//! they depend on, and the compiler for it. Built once, offline, inside the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::cache::{Cache, replace};
use crate::command;
use crate::files;

/// The suite that has the source, and a compiler old enough for it.
pub(crate) const SUITE: &str = "bookworm";
const SOURCE: &str = "kubernetes";
const COMPILER: &str = "1.19";
/// What the source is a version of; without one the server says v0.0.0, which the chart refuses.
pub(crate) const VERSION: &str = "1.20.2";
const API_SERVER: &str = "kube-apiserver";
const NODE: [&str; 3] = ["kubelet", "kube-controller-manager", "kube-scheduler"];
/// What the API server is made of the source's own generated files by: one of them is not in the source package.
const GENERATOR: &str = "openapi-gen";

/// The API server and what it stores in.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) api_server: PathBuf,
    pub(crate) etcd: PathBuf,
}

impl Programs {
    /// Builds what is not there yet.
    pub(crate) fn get(cache: &Cache) -> Result<Self> {
        let [api_server, etcd] = built(cache, "kubernetes", [API_SERVER, "etcd"], |go, target| {
            command::say("building the API server (some minutes, once)");
            go.generate()?;
            go.build_command(API_SERVER, target)?;
            files::copy(&go.unpacked.join("usr/bin/etcd"), &target.join("etcd"))
        })?;
        Ok(Self { api_server, etcd })
    }
}

/// The programs that make pods of what the API server has: kubelet, controllers, scheduler.
pub(crate) fn node_programs(cache: &Cache) -> Result<[PathBuf; 3]> {
    built(cache, "kubernetes-node", NODE, |go, target| {
        command::say("building kubelet, controllers and scheduler (ten minutes, once)");
        NODE.iter()
            .try_for_each(|name| go.build_command(name, target))
    })
}

/// The programs of these names in a place of the cache; built if one is not there.
fn built<const N: usize>(
    cache: &Cache,
    place: &str,
    names: [&str; N],
    make: impl FnOnce(&Go, &Path) -> Result<()>,
) -> Result<[PathBuf; N]> {
    let folder = cache.place(&format!("{place}-{VERSION}"));
    let programs = names.map(|name| folder.join(name));
    let are_there = || programs.iter().all(|program| program.is_file());
    if !are_there() {
        let _lock = cache.lock()?;
        // Another xtask may have built them while this one waited.
        if !are_there() {
            build(cache, &folder, make)?;
        }
    }
    Ok(programs)
}

/// Brings sources and compiler, and builds; leaves only what `make` puts into the folder that it is given.
fn build(cache: &Cache, folder: &Path, make: impl FnOnce(&Go, &Path) -> Result<()>) -> Result<()> {
    let apt = Apt::with_sources(cache, SUITE)?;
    let scratch = tempfile::Builder::new()
        .prefix(".kubernetes-")
        .tempdir_in(
            folder
                .parent()
                .context("a folder in the cache has a parent")?,
        )
        .context("make a folder to build in")?;
    command::say("downloading the source of Kubernetes, a Go compiler and etcd");
    let root = scratch.path().join("root");
    let packages = [
        format!("golang-{COMPILER}-go"),
        format!("golang-{COMPILER}-src"),
        "etcd-server".to_owned(),
    ];
    apt.unpack_only(&packages, &root)?;
    let tree = scratch.path().join("go/src/k8s.io/kubernetes");
    apt.unpack_source(SOURCE, &tree)?;

    let go = Go {
        root: root.join(format!("usr/lib/go-{COMPILER}")),
        unpacked: root,
        scratch: scratch.path().to_owned(),
        tree,
    };
    replace(folder, |new| {
        files::folder(new)?;
        make(&go, new)
    })
}

/// The compiler with the source tree.
struct Go {
    root: PathBuf,
    /// Packages, unpacked.
    unpacked: PathBuf,
    scratch: PathBuf,
    tree: PathBuf,
}

impl Go {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.tree);
        command
            .env("GOROOT", &self.root)
            .env("GOPATH", self.scratch.join("go"))
            .env("GOCACHE", self.scratch.join("cache"))
            .env("GO111MODULE", "off")
            .env("GOFLAGS", "")
            .env("CGO_ENABLED", "0")
            .env("HOME", &self.scratch);
        command
    }

    /// Builds one of the commands into a folder.
    fn build_command(&self, name: &str, folder: &Path) -> Result<()> {
        self.build(&format!("./cmd/{name}"), &folder.join(name))
    }

    fn build(&self, package: &str, target: &Path) -> Result<()> {
        let mut flags = vec!["-s -w".to_owned()];
        // What is below vendor/ is told by its whole path. `--version` asks the first one, the API's clients are told the other.
        for package in ["component-base/version", "client-go/pkg/version"] {
            for (name, value) in [
                ("gitVersion", &format!("v{VERSION}")[..]),
                ("gitMajor", "1"),
                ("gitMinor", "20"),
            ] {
                flags.push(format!(
                    "-X k8s.io/kubernetes/vendor/k8s.io/{package}.{name}={value}"
                ));
            }
        }
        let mut build = self.command(&self.root.join("bin/go"));
        build.args(["build", "-ldflags", &flags.join(" "), "-o"]);
        command::run(build.arg(target).arg(package))
    }

    /// Makes the description of the API that the server hands out, which it can't be compiled without.
    fn generate(&self) -> Result<()> {
        let generator = self.scratch.join(GENERATOR);
        self.build(
            &format!("./vendor/k8s.io/kube-openapi/cmd/{GENERATOR}"),
            &generator,
        )?;
        let mut packages = Vec::new();
        for (folder, import) in [
            ("staging/src", ""),
            ("vendor/k8s.io", "k8s.io/"),
            ("pkg", "k8s.io/kubernetes/pkg/"),
        ] {
            let folder = self.tree.join(folder);
            let mut found = Vec::new();
            described(&folder, &mut found)?;
            for path in found {
                packages.push(format!("{import}{}", path.strip_prefix(&folder)?.display()));
            }
        }
        packages.sort();
        packages.dedup();
        // It writes into the tree by its import path.
        let mut generate = self.command(&generator);
        let scratch = self.scratch.display();
        generate.args([
            "--output-file-base=zz_generated.openapi",
            "--go-header-file=hack/boilerplate/boilerplate.generatego.txt",
            "--output-package=k8s.io/kubernetes/pkg/generated/openapi",
            &format!("--output-base={scratch}/go/src"),
            &format!("--report-filename={scratch}/violations"),
            &format!("--input-dirs={}", packages.join(",")),
        ]);
        command::run(&mut generate)
    }
}

/// Adds the folders below one whose package is part of the API's description; examples and tests are not.
fn described(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    const LEFT_OUT: &[&str] = &[
        "sample-apiserver",
        "sample-controller",
        "code-generator",
        "testdata",
        "test",
    ];
    let mut marked = false;
    for path in files::list(folder)? {
        // A link is not followed.
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if !LEFT_OUT.iter().any(|left_out| path.ends_with(left_out)) {
                described(&path, found)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "go") {
            let text = files::bytes(&path)?;
            let text = String::from_utf8_lossy(&text);
            marked |= text.lines().any(|line| {
                let comment = line.strip_prefix("//").map(str::trim_start);
                comment.is_some_and(|comment| comment.starts_with("+k8s:openapi-gen="))
            });
        }
    }
    if marked {
        found.push(folder.to_owned());
    }
    Ok(())
}

/// `cargo clippy` of the program with its feature `kube`: of the few lines that are the door to the crate that speaks to the API.
pub(crate) fn lints() -> Command {
    command::cargo(
        "clippy --package conntrack-user --features kube --all-targets --quiet -- -D warnings",
    )
}

/// `cargo test` of what speaks to the API; its servers' files are in the folder, which goes when the value does.
pub(crate) fn api_server_test(cache: &Cache) -> Result<(Command, tempfile::TempDir)> {
    let programs = Programs::get(cache)?;
    let folder = tempfile::tempdir().context("make a folder for the API server")?;
    let mut cargo = command::cargo(
        "test --package ctpressure-kubernetes --test api_server -- --ignored --nocapture",
    );
    cargo
        .env("CTPRESSURE_KUBE_APISERVER", &programs.api_server)
        .env("CTPRESSURE_ETCD", &programs.etcd)
        .env("CTPRESSURE_KUBERNETES_FOLDER", folder.path())
        .env("KUBECONFIG", folder.path().join("kubeconfig"));
    Ok((cargo, folder))
}
