//! x
use crate::{
    containers::cluster::Cluster,
    guest::{agent::Mechanism, command::output},
};
use anyhow::Result;

pub(super) fn exact(_mechanism: Option<Mechanism>) -> Result<()> {
    let cluster = Cluster::get();
    println!(
        "{}",
        output(
            "sh",
            &[
                "-c",
                "tail -n 30 /var/log/containerd.log; free -m; ip netns; ip -br addr; find /sys/fs/cgroup/kubepods -type d; ls /var/log/pods/*/*; iptables-save"
            ]
        )?
    );
    let cluster = cluster?;
    println!("{cluster:?}");
    let pod = cluster.pod("client-0")?;
    println!("{:?}", pod.run("send --source 10.88.0.2/32 --flows 1000")?);
    println!("{}", output("conntrack", &["-C"])?);
    Ok(())
}
