//! tcp(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Bytes that were written and that the other side has not confirmed; its end (FIN) counts as one.
///
/// # Errors
/// If it is not a TCP socket.
pub(crate) fn unconfirmed(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int to where the pointer says; the descriptor is open as long as it is
    // borrowed.
    if unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &raw mut bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_nobody_takes_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut sender = TcpStream::connect(address).expect("a connection");
        let (_receiver, _) = listener.accept().expect("a connection");
        assert_eq!(unconfirmed(&sender).expect("a number"), 0);
        sender.set_nonblocking(true).expect("it can be set");
        let much = vec![0; 65_536];
        while sender.write(&much).is_ok() {}
        std::thread::sleep(Duration::from_millis(50));
        assert!(unconfirmed(&sender).expect("a number") > 1000);
    }
}
