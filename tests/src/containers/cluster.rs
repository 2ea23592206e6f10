//! The pods that the scenarios share: made once in a guest, used by all.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::{
    cri::Cri,
    network::{self, Network, Service},
    pod::{PORT, Pod, Wanted},
    runtime::{self, CgroupDriver, SOCKET},
};
use crate::guest::command::Late;

/// Where it is written down for the next scenario.
const RECORD: &str = "/run/pod-cluster.json";
/// There while the pods are made, and for good when that failed: what is half made is not mended.
const BEGUN: &str = "/run/pod-cluster.begun";

/// There if the kernel enforces profiles of `AppArmor`: then containers have one, as on the nodes of most distributions.
const APPARMOR: &str = "/sys/kernel/security/apparmor";
/// The profile that containerd gives to a container.
const PROFILE: &str = "cri-containerd.apparmor.d (enforce)";

/// Whether any process has that profile.
fn any_is_confined() -> Result<bool> {
    let processes = fs::read_dir("/proc").context("listing /proc")?.flatten();
    Ok(processes
        .filter_map(|process| fs::read_to_string(process.path().join("attr/current")).ok())
        .any(|profile| profile.trim_end() == PROFILE))
}

/// Sandboxes that are made at the same time: more only wait for the CPUs.
const AT_ONCE: usize = 4;

/// The Service that the clients ask.
pub const SERVICE: &str = "10.96.0.1";
/// Its port.
pub const SERVICE_PORT: u16 = 80;

/// Clients of the Service.
pub const CLIENTS: [&str; 5] = ["client-0", "client-1", "client-2", "client-3", "client-4"];
/// Those that serve it.
pub const SERVERS: [&str; 3] = ["server-0", "server-1", "server-2"];
/// A pod with the node's network.
pub const NODE_AGENT: &str = "node-agent";
/// A pod with rules of its own, and so with a table of its own.
pub const FIREWALLED: &str = "firewalled";
/// A pod that has IPv6 addresses only.
pub const SIX: &str = "six";
/// A pod that is asked from outside.
pub const WEB: &str = "web";
/// The port of the node that leads to [`WEB`].
pub const WEB_HOST_PORT: u16 = 8080;
/// A pod that opens many connections.
pub const AGGREGATOR: &str = "aggregator";
/// A pod that has nothing to do with them.
pub const BYSTANDER: &str = "bystander";
/// A pod that floods.
pub const ATTACKER: &str = "attacker";
/// A pod that has a few entries and keeps them.
pub const QUIET: &str = "quiet";

/// All twenty, on the bridge and without one; or only those that have a part in what is exact.
fn wanted(all: bool) -> Vec<Wanted> {
    use Network::{Bridge, Bridge6, Host, Ptp};
    let networks = [Bridge, Bridge, Bridge, Ptp, Ptp];
    let others = [
        (AGGREGATOR, Bridge),
        (BYSTANDER, Ptp),
        (ATTACKER, Bridge),
        (QUIET, Ptp),
        ("idle-0", Bridge),
        ("idle-1", Bridge),
        ("idle-2", Ptp),
        ("idle-3", Bridge6),
    ];
    let mut pods: Vec<Wanted> = CLIENTS
        .into_iter()
        .zip(networks)
        .chain(SERVERS.into_iter().zip([Bridge, Bridge, Ptp]))
        .chain([(NODE_AGENT, Host), (FIREWALLED, Bridge), (SIX, Bridge6)])
        .chain(others.into_iter().filter(|_| all))
        .map(|(name, network)| Wanted::new(name, network))
        .collect();
    pods.push(Wanted {
        host_port: Some(WEB_HOST_PORT),
        ..Wanted::new(WEB, Bridge)
    });
    pods
}

/// All pods of the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Every pod.
    pub pods: Vec<Pod>,
}

/// Makes pods, several at the same time; the result is in their order.
pub fn make(cri: &Cri, wanted: &[Wanted], first_number: u32) -> Result<Vec<Pod>> {
    let queue = Mutex::new((first_number..).zip(wanted));
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next()
    };
    let make_some = || -> Result<Vec<(u32, Pod)>> {
        let mut made = Vec::new();
        while let Some((number, wanted)) = next() {
            made.push((number, wanted.make(cri, number)?));
        }
        Ok(made)
    };
    let mut pods = thread::scope(|scope| {
        let makers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(make_some)).collect();
        let mut pods = Vec::new();
        for maker in makers {
            let made = maker.join();
            pods.extend(made.map_err(|_| anyhow!("a thread that makes pods panicked"))??);
        }
        Ok::<_, anyhow::Error>(pods)
    })?;
    pods.sort_by_key(|(number, _)| *number);
    Ok(pods.into_iter().map(|(_, pod)| pod).collect())
}

impl Cluster {
    /// The cluster of this guest; made by whoever asks first, with `all` pods or just those that `owners_exact` needs.
    /// [`Late`] for those who come after one that failed at it: that one has said why.
    pub fn get(all: bool) -> Result<Self> {
        if Path::new(RECORD).exists() {
            let text = fs::read_to_string(RECORD).context("reading the record of the pods")?;
            return serde_json::from_str(&text).context("reading the record of the pods");
        }
        if Path::new(BEGUN).exists() {
            return Err(Late("an earlier scenario did not finish the pods".to_owned()).into());
        }
        fs::write(BEGUN, "").with_context(|| format!("writing {BEGUN}"))?;
        let start = Instant::now();
        network::prepare()?;
        let networks = Network::CONFIGURED.map(Network::name);
        let cri = runtime::start(&networks, CgroupDriver::Cgroupfs)?;
        println!(
            "containerd ready and images imported at {:.1} s",
            start.elapsed().as_secs_f64()
        );
        let pods = make(&cri, &wanted(all), 1)
            .with_context(|| format!("containerd's last words: {}", runtime::last_words()))?;
        println!(
            "{} pods at {:.1} s",
            pods.len(),
            start.elapsed().as_secs_f64()
        );
        ensure!(
            !Path::new(APPARMOR).exists() || any_is_confined()?,
            "the kernel has AppArmor, and no container has the profile of its runtime"
        );
        let cluster = Self { pods };
        cluster.service()?.apply()?;
        network::own_rules(cluster.pod(FIREWALLED)?.netns()?)?;
        fs::write(RECORD, serde_json::to_string(&cluster)?)?;
        fs::remove_file(BEGUN).with_context(|| format!("removing {BEGUN}"))?;
        Ok(cluster)
    }

    fn service(&self) -> Result<Service> {
        let backends = SERVERS.map(|name| self.pod(name)?.address());
        Ok(Service {
            address: SERVICE.parse()?,
            port: SERVICE_PORT,
            backends: backends.into_iter().collect::<Result<_>>()?,
            backend_port: PORT,
        })
    }

    /// Its runtime.
    pub fn cri(&self) -> Cri {
        Cri::at(Path::new(SOCKET))
    }

    /// The pod of a name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.name == name);
        found.with_context(|| format!("no pod {name}"))
    }

    /// The pod that has an address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.addresses.contains(&address))
    }
}
