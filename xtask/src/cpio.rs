//! The "newc" cpio format that the kernel unpacks as its first file system
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Written here rather than by a program or a library: no root is needed for the device nodes, every
//! entry belongs to root and has no time, so that the same content gives the same bytes.

use std::collections::BTreeSet;

const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive in memory. Archives can be put one after the other: the kernel unpacks all of them.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory and those above it, once each.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with the permissions of a program or of data.
    pub(crate) fn file(&mut self, path: &str, executable: bool, content: &[u8]) {
        self.parent_of(path);
        let permissions = if executable { 0o755 } else { 0o644 };
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parent_of(path);
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device, which nobody but root could make on the host.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parent_of(path);
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Ends the archive. Its length is a multiple of four, so that another one may follow.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn parent_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.trim_start_matches('/').rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let path = path.trim_start_matches('/');
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("a file of an initramfs is below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        let fields = [
            self.inode, mode, 0, 0, // owner and group: root
            1, 0, // links, time
            size, 0, 0, // the device that holds the file
            device.0, device.1, name_size, 0, // no checksum in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn layout_is_that_of_the_kernel_documentation() {
        let mut archive = Archive::default();
        archive.file("a/b", true, b"hello");
        let bytes = archive.finish();
        // 110 bytes of header, the name with its end, up to a multiple of four.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(
            &bytes[14..22],
            b"000041ed",
            "a directory comes before what is in it"
        );
        let second = 112;
        assert_eq!(&bytes[second..second + 6], b"070701");
        assert_eq!(&bytes[second + 14..second + 22], b"000081ed");
        assert_eq!(&bytes[second + 54..second + 62], b"00000005");
        assert_eq!(&bytes[second + 110..second + 114], b"a/b\0");
        assert_eq!(&bytes[second + 116..second + 124], b"hello\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_directory_is_written_once() {
        let mut archive = Archive::default();
        archive.file("x/one", false, b"");
        archive.file("/x/two", false, b"");
        let bytes = archive.finish();
        let magic = bytes
            .windows(6)
            .filter(|window| window == b"070701")
            .count();
        assert_eq!(magic, 4, "x, x/one, x/two and the trailer");
    }
}
