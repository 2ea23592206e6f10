//! The pods that the scenarios share: made once in a guest, used by all.

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::{
    cri::Cri,
    network::{self, Network, Service},
    pod::{PORT, Pod, Wanted},
    runtime::{self, SOCKET},
};

/// Where it is written down for the next scenario.
const RECORD: &str = "/run/pod-cluster.json";

/// Sandboxes that are made at the same time: more only wait for the CPUs.
const AT_ONCE: usize = 4;

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
    /// The cluster of this guest; made by whoever asks first.
    pub fn get() -> Result<Self> {
        if Path::new(RECORD).exists() {
            let text = fs::read_to_string(RECORD).context("reading the record of the pods")?;
            return serde_json::from_str(&text).context("reading the record of the pods");
        }
        let start = Instant::now();
        network::prepare()?;
        let networks = Network::CONFIGURED.map(Network::name);
        let cri = runtime::start(&networks)?;
        println!(
            "containerd ready and images imported at {:.1} s",
            start.elapsed().as_secs_f64()
        );
        let pods = make(&cri, &wanted(), 1)
            .with_context(|| format!("containerd's last words: {}", runtime::last_words()))?;
        println!(
            "{} pods at {:.1} s",
            pods.len(),
            start.elapsed().as_secs_f64()
        );
        let cluster = Self { pods };
        fs::write(RECORD, serde_json::to_string(&cluster)?)?;
        Ok(cluster)
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
}

fn wanted() -> Vec<Wanted> {
    vec![Wanted::new("client-0", Network::Bridge)]
}
