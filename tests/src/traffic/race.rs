//! Two packets of one new flow at the same moment, on two CPUs: both are given an entry, and one of these is already in the table
//! when the other comes to it. The kernel resolves that clash for UDP.

use std::{
    hint::spin_loop,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;

use super::{send::pin_to_cpu, tally::Tally};

/// Sends `flows` flows from one socket to the addresses of `destination` and the ports from 1024 on, each from two CPUs at once. Counts
/// packets: two for each flow.
///
/// # Errors
///
/// When there are no two CPUs, or no socket. What the kernel says to a packet is counted.
pub fn race(source: SocketAddr, destination: IpNet, flows: u64) -> Result<Tally> {
    let socket = UdpSocket::bind(source).with_context(|| format!("binding to {source}"))?;
    let addresses: Vec<_> = destination.hosts().collect();
    let turn = AtomicU64::new(0);
    let began = Instant::now();
    let send = |cpu: usize| -> Result<Tally> {
        pin_to_cpu(cpu)?;
        let mut tally = Tally::default();
        for (flow, address) in (0..flows).zip(addresses.iter().cycle()) {
            let port = 1024 + flow / addresses.len() as u64;
            let port = u16::try_from(port).context("there are not so many flows")?;
            // Both have come here, and neither goes on before the other.
            turn.fetch_add(1, Ordering::SeqCst);
            while turn.load(Ordering::SeqCst) < 2 * (flow + 1) {
                spin_loop();
            }
            tally.count("udp4", socket.send_to(b"x", (*address, port)).map(drop));
        }
        Ok(tally)
    };
    let parts = thread::scope(|scope| {
        let other = scope.spawn(|| send(1));
        let own = send(0);
        let other = other
            .join()
            .map_err(|_| anyhow!("the other thread panicked"))?;
        Ok::<_, anyhow::Error>([own?, other?])
    })?;
    let mut tally = Tally::default();
    for part in &parts {
        tally.add(part);
    }
    tally.seconds = began.elapsed().as_secs_f64();
    Ok(tally)
}
