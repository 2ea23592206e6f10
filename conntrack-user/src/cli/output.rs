//! Standard output that is written at once where that can't block.

use std::{io, os::fd::AsFd};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::{SFlag, fstat},
};
use tokio::io::{AsyncWriteExt as _, Stdout};

/// `PIPE_BUF`: a pipe that says that it is writable takes this much without blocking (pipe(7)).
const PIPE_BYTES: usize = 4096;

/// Standard output.
///
/// Tokio's writes on another thread, since a write may block for as long as nobody reads: each line
/// pays for two wake-ups. A pipe with room is written directly instead.
pub(super) struct StandardOutput {
    patient: Stdout,
    is_pipe: bool,
}

impl StandardOutput {
    pub(super) fn new() -> Self {
        Self {
            patient: tokio::io::stdout(),
            is_pipe: is_pipe(io::stdout()),
        }
    }

    /// Writes all of it; false when nobody reads any more. When this is cancelled, some may be written and some not.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<bool> {
        match self.write(bytes).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = if self.is_pipe {
            write_while_there_is_room(&mut io::stdout().lock(), bytes)?
        } else {
            0
        };
        if written < bytes.len() {
            self.patient.write_all(&bytes[written..]).await?;
            self.patient.flush().await?;
        }
        Ok(())
    }
}

fn is_pipe(file: impl AsFd) -> bool {
    fstat(file)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
}

/// Writes to a pipe for as long as it takes more without blocking; how much that was.
fn write_while_there_is_room(
    pipe: &mut (impl io::Write + AsFd),
    bytes: &[u8],
) -> io::Result<usize> {
    let mut written = 0;
    for piece in bytes.chunks(PIPE_BYTES) {
        let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        // An error in `revents` (nobody reads) is reported by the write.
        if poll(&mut ready, PollTimeout::ZERO)? == 0 {
            break;
        }
        pipe.write_all(piece)?;
        pipe.flush()?;
        written += piece.len();
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, pipe};

    use super::*;

    #[test]
    fn a_full_pipe_is_not_waited_for_and_a_closed_one_is_an_error() {
        let (mut reader, mut writer) = pipe().expect("a pipe");
        assert!(is_pipe(&writer) && !is_pipe(tempfile::tempfile().expect("a file")));
        let bytes: Vec<u8> = (0..1_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
        let first = write_while_there_is_room(&mut writer, &bytes).expect("room");
        // 64 KiB, or less for a user who has many pipes.
        assert!((PIPE_BYTES..bytes.len()).contains(&first), "{first}");
        assert_eq!(
            write_while_there_is_room(&mut writer, &bytes).expect("no room is no error"),
            0
        );
        let mut read = vec![0; PIPE_BYTES];
        reader.read_exact(&mut read).expect("what was written");
        let more = write_while_there_is_room(&mut writer, &bytes[first..]).expect("room again");
        assert_eq!(more, PIPE_BYTES);
        let rest = first + more - PIPE_BYTES;
        read.resize(PIPE_BYTES + rest, 0);
        reader
            .read_exact(&mut read[PIPE_BYTES..])
            .expect("the rest");
        assert!(read == bytes[..first + more], "in order");
        drop(reader);
        let error = write_while_there_is_room(&mut writer, &bytes).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
