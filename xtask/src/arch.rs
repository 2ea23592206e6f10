//! Processor architectures of guests and of what is built for nodes: all that differs between them.

use clap::ValueEnum;

/// One of them, as Debian and OCI call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// `x86_64`, as this machine.
    #[default]
    Amd64,
    /// `aarch64`, which is emulated, and for which a C compiler is fetched.
    Arm64,
}

impl Arch {
    /// As Debian calls it, and OCI.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What is added to the name of a folder that is of this one only.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Amd64 => "",
            Self::Arm64 => "-arm64",
        }
    }

    /// The target of static binaries: guests and images have no C library that these could rely on.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Folder of a Debian system's libraries below `usr/lib`.
    pub(crate) const fn libraries(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// The loader of programs, and the folder below `usr` where programs look for it.
    pub(crate) const fn loader(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("ld-linux-x86-64.so.2", "lib64"),
            Self::Arm64 => ("ld-linux-aarch64.so.1", "lib"),
        }
    }

    /// QEMU's program, and Debian's package of it.
    pub(crate) const fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// QEMU's machine, and the kernel's name of its serial port.
    pub(crate) const fn machine(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("q35", "ttyS0"),
            Self::Arm64 => ("virt", "ttyAMA0"),
        }
    }

    /// The flavour of Debian's kernels without drivers for real hardware: small, and it has all that a guest needs.
    pub(crate) fn flavour(self) -> String {
        format!("-cloud-{}", self.name())
    }
}
