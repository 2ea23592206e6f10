use std::time::Duration;

use std::{sync::Arc, time::Instant};

use ctpressure_model::kubernetes::Pod;

use super::*;
use conntrack_ebpf::owner::Party;

use crate::{
    agent::census::CensusResult,
    owners::{FoundOwner as There, Workload},
};

const UID: &str = "3f1c6a52-9d0e-4b7a-8a57-0d9c2e4b1f60";

/// A node where this pod is, of which nothing but the UID is known.
fn nameless() -> Discovery {
    let mut found = Discovery::empty(Instant::now());
    found.owners.push(There {
        owner: Owner::pod(UID, None),
        cgroups: vec![7],
        netns: None,
        addresses: Vec::new(),
    });
    found
}

fn pods(uid: &str) -> Arc<Pods> {
    let workload = Workload {
        kind: "Deployment".to_owned(),
        name: "cart".to_owned(),
    };
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "cart-1".to_owned(),
        workload: Some(workload),
        job: None,
        labels: [("tier".to_owned(), "x".to_owned())].into(),
    };
    Arc::new([(uid.into(), Arc::new(pod))].into())
}

fn the_pod(ownership: &mut Ownership) -> Owner {
    let now = ownership.now(Duration::from_secs(1), None);
    let mut pods = now
        .owners
        .list
        .into_iter()
        .filter(|sample| sample.owner.kind == OwnerKind::Pod);
    pods.next().expect("a pod").owner
}

#[test]
fn the_api_gives_a_name_where_the_node_has_none() {
    let mut ownership = Ownership::new(16, Arc::default());
    ownership.take(&nameless(), None).unwrap();
    assert_eq!(the_pod(&mut ownership).name(), format!("pod {UID}"));
    ownership.know(pods(UID));
    let known = the_pod(&mut ownership);
    assert_eq!(
        (known.name().as_str(), known.workload_name()),
        ("shop/cart-1", "cart")
    );
    assert_eq!(known.labels["tier"], "x");
    // Neither the next look around nor an outage of the API takes it away.
    ownership.take(&nameless(), None).unwrap();
    ownership.know(Arc::default());
    ownership.take(&nameless(), None).unwrap();
    assert_eq!(the_pod(&mut ownership), known);
}

#[test]
fn the_api_may_know_a_pod_before_it_is_found() {
    let mut ownership = Ownership::new(16, Arc::default());
    ownership.know(pods(UID));
    ownership.take(&nameless(), None).unwrap();
    assert_eq!(the_pod(&mut ownership).name(), "shop/cart-1");
    let mut other = Ownership::new(16, Arc::default());
    other.know(pods("another"));
    other.take(&nameless(), None).unwrap();
    assert_eq!(the_pod(&mut other).name(), format!("pod {UID}"));
}

#[test]
fn without_probes_a_census_tells_what_each_owner_has() {
    let mut ownership = Ownership::new(16, Arc::default());
    ownership.take(&nameless(), None).unwrap();
    let order = ownership.census(None, 1, HashSet::new()).unwrap();
    assert!(order.tags.is_none());
    let found = CensusResult {
        entries: [(Party::new(FIRST, Direction::Egress), 7)].into(),
        whole: true,
        ..CensusResult::default()
    };
    ownership.counted(found, None).unwrap();
    let of_pod = |ownership: &mut Ownership| {
        let now = ownership.now(Duration::from_secs(1), None);
        let mut owners = now.owners.list.into_iter();
        owners.find(|sample| sample.slot == FIRST).expect("the pod")
    };
    let pod = of_pod(&mut ownership);
    assert_eq!((pod.egress.found, pod.ingress.found), (Some(7), Some(0)));
    assert_eq!(
        (pod.egress.live, pod.egress.bounds),
        (None, None),
        "it is of a moment ago"
    );
    assert_eq!(pod.live(), 7);
    // It has a table that the census had no time for.
    ownership.census(None, 1, HashSet::new()).unwrap();
    let found = CensusResult {
        elsewhere: [(FIRST, 5)].into(),
        whole: true,
        ..CensusResult::default()
    };
    ownership.counted(found, None).unwrap();
    assert_eq!(of_pod(&mut ownership).egress.found, None);
    // Probes count from here on.
    ownership.forget_censuses();
    assert_eq!(of_pod(&mut ownership).egress.found, None);
}
