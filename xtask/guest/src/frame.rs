//! How a guest and the host talk: frames on one virtio-serial port, guest to host only.
//!
//! One port keeps the order of everything that is said, so that the last frame, the exit status, means
//! that all output has arrived. A frame is its kind (one byte), the length of what follows (four bytes,
//! little endian) and that many bytes.

/// The name of the virtio-serial port.
pub(crate) const PORT_NAME: &str = "ctpressure";
/// Where the host puts the script and what it wants from the guest.
pub(crate) const JOB_FOLDER: &str = "/job";
/// The script, in [`JOB_FOLDER`].
pub(crate) const JOB_SCRIPT: &str = "script";
/// The guest paths that the host wants when the script has ended, one a line, in [`JOB_FOLDER`].
pub(crate) const JOB_FETCH: &str = "fetch";
/// The modules that carry the port itself, one path a line in load order, in [`JOB_FOLDER`].
pub(crate) const JOB_MODULES: &str = "modules";

/// Longest payload: far more than a guest sends at once, far less than memory.
pub(crate) const LONGEST: u32 = 1 << 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Bytes that the script wrote to standard output.
    Stdout = 1,
    /// Bytes that the script wrote to standard error.
    Stderr = 2,
    /// The index of a fetched file (four bytes, little endian), then the next piece of it.
    File = 3,
    /// The same index, then why that file can't be had.
    FileMissing = 4,
    /// The exit status of the script (four bytes, little endian): always the last frame.
    Status = 5,
}
