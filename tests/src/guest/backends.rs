//! Servers at every address of some networks, without adding any address.

use std::process::{Child, Command, Stdio};

use anyhow::Result;

use super::{
    command::{self, HANG, wait_for},
    net::ip,
};

/// `ctgen keep` in a network namespace; ended when dropped.
#[derive(Debug)]
pub struct Backends(Child);

impl Backends {
    /// Starts it at `port` of all addresses in `networks` by a local route, and waits until it listens.
    pub fn start(namespace: &str, networks: &str, port: u16) -> Result<Self> {
        let route = format!("route replace local {networks} dev lo");
        ip(Some(namespace), &route)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "ctgen", "keep", "--listen"]);
        command.arg(format!("[::]:{port}")).stdout(Stdio::null());
        let backends = Self(command::spawn(&mut command)?);
        wait_for("the backends to listen", HANG, || {
            let words = ["netns", "exec", namespace, "ss", "-Hltn"];
            let listening = command::output("ip", &words)?;
            Ok(listening.contains(&format!(":{port}")).then_some(()))
        })?;
        Ok(backends)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
