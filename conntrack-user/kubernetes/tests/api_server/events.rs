//! Events as they are in the API server in the end.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use conntrack_user::{
    agent::{Activity, OwnerSample, OwnerTotals, Snapshot, Table, Tables, Tops},
    kube_events::{EventsStatus, Health, KubeEvents},
    limit::{
        Change, Report,
        change::{By, ChangeOutcome, Purpose, Size},
    },
    owners::Owner,
};
use ctpressure_model::{kubernetes::KubeOptions, pressure::state::Pressure, words::time::JsonTime};
use k8s_openapi::api::{core::v1::Namespace, events::v1::Event};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    NODE, PATIENCE,
    cluster::{Cluster, Server},
    create, grant,
};

/// Pods that lose packets all at once, in a namespace of their own.
const LOSERS: usize = 30;
/// Where this version takes Events on nodes.
const NODE_NAMESPACE: &str = "kube-system";
/// Of so many there is an Event at once; see `kube_events`.
const AT_ONCE: usize = 20;

/// What an agent with these pods tells.
struct Agent {
    events: KubeEvents,
    health: Arc<Health>,
    snapshot: Snapshot,
    limit: Option<Report>,
}

impl Agent {
    fn new() -> Self {
        let options = KubeOptions::new(NODE.parse(), &[]).expect("options");
        let events =
            KubeEvents::start(&options, ctpressure_kubernetes::event_writer).expect("a thread");
        let table = Table {
            netns: 1,
            name: "host".to_owned(),
            entries: 2000,
            pressure: Pressure::Full,
            seconds_to_full: None,
            verdicts: Vec::new(),
            stats: None,
            ..Table::default()
        };
        Self {
            health: events.health(),
            events,
            snapshot: Snapshot {
                tables: Tables {
                    limit: Some(2000),
                    list: vec![table],
                    ..Tables::default()
                },
                ..Snapshot::default()
            },
            limit: None,
        }
    }

    /// Goes on by so many seconds.
    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.snapshot.uptime_seconds += 1.0;
            self.events.take(&self.snapshot, self.limit.as_ref());
        }
    }

    /// Waits until nothing waits any more.
    async fn written(&self, what: &str) -> EventsStatus {
        let began = Instant::now();
        loop {
            let status = self.health.status();
            if status.waiting == 0 {
                println!("{:>8.3} s  {what}", began.elapsed().as_secs_f64());
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {status:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn pod(namespace: &str, name: &str, live: u64) -> OwnerSample {
    let uid = format!("7d0f5b1e-52a4-4c0f-9b0e-{namespace}-{name}");
    OwnerSample {
        slot: 2,
        owner: Owner::pod(&uid, Some((namespace, name))),
        present: true,
        egress: OwnerTotals {
            live: Some(live),
            ..OwnerTotals::default()
        },
        ingress: OwnerTotals::default(),
        held_at_most: 0,
        activity: Activity::default(),
        destinations: Tops::default(),
    }
}

/// The Events of a namespace that ctpressure wrote.
async fn events(client: &Client, namespace: &str) -> Vec<Event> {
    let all = Api::<Event>::namespaced(client.clone(), namespace);
    let all = all.list(&ListParams::default()).await.expect("a list");
    let ours = |event: &Event| event.reporting_controller.as_deref() == Some("ctpressure");
    all.items.into_iter().filter(ours).collect()
}

fn count(event: &Event) -> i32 {
    event.series.as_ref().map_or(1, |series| series.count)
}

fn raise(sequence: u64, from: u64, to: u64) -> Change {
    let size = |limit| Size {
        limit,
        buckets: 65_536,
        time_wait: Some(120),
    };
    Change {
        sequence,
        time: JsonTime(SystemTime::now() + Duration::from_hours(24)),
        by: By::Controller,
        who: None,
        purpose: Purpose::Raise,
        before: size(from),
        after: size(to),
        outcome: ChangeOutcome::Applied,
        reason: "the table will be full in 7 s".to_owned(),
    }
}

/// The whole of it; the API server is restarted.
pub(super) async fn are_written(cluster: &Cluster, server: Server, admin: &Client) {
    let spaces = Api::<Namespace>::all(admin.clone());
    for namespace in ["shop", "many"] {
        create(spaces.clone(), json!({"metadata": {"name": namespace}})).await;
    }
    let mut agent = Agent::new();
    agent.snapshot.owners.list = vec![pod("shop", "cart-0", 1500)];
    agent.pass(11);
    let status = agent.written("no right to write Events: a problem that says which");
    let status = status.await;
    assert_eq!((status.written, status.lost), (0, 1));
    let problem = status.problem.expect("it is said");
    assert!(problem.contains("grant create and patch"), "{problem}");

    let rule = json!([{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}]);
    grant(admin, "ctpressure-events", rule).await;
    // The server's caches learn of it within a moment.
    let began = Instant::now();
    while agent.health.status().written == 0 {
        agent.pass(300);
        agent.written("granted").await;
        assert!(began.elapsed() < PATIENCE, "{:?}", agent.health.status());
    }
    one_pod(&mut agent, admin).await;
    many_pods(&mut agent, admin).await;
    the_node(&mut agent, admin).await;

    // An outage.
    let before = agent.health.status();
    drop(server);
    agent.snapshot.owners.list = vec![pod("shop", "late-0", 1500)];
    agent.pass(11);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(agent.health.status().waiting, 1);
    let mut server = cluster.api_server("second");
    let admin = cluster.admin(&mut server).await;
    let status = agent.written("an outage: written when it is over").await;
    assert_eq!(status.lost, before.lost, "{status:?}");
    let late = events(&admin, "shop").await;
    assert!(
        late.iter().any(|event| about(event) == "Pod late-0"),
        "{late:?}"
    );
    let last = Report {
        changes: vec![raise(9, 9000, 9500)],
        ..Report::default()
    };
    agent.events.finish(Some(&last), PATIENCE);
    let notes = events(&admin, NODE_NAMESPACE).await;
    assert!(
        notes.iter().any(|event| event
            .note
            .as_deref()
            .is_some_and(|note| note.contains("9,500"))),
        "what was put back at the end: {notes:?}"
    );
}

/// `Pod cart-0`
fn about(event: &Event) -> String {
    let object = event.regarding.clone().unwrap_or_default();
    format!(
        "{} {}",
        object.kind.unwrap_or_default(),
        object.name.unwrap_or_default()
    )
}

async fn one_pod(agent: &mut Agent, admin: &Client) {
    let [event] = <[Event; 1]>::try_from(events(admin, "shop").await).expect("one Event");
    assert_eq!(about(&event), "Pod cart-0");
    let uid = event.regarding.clone().and_then(|object| object.uid);
    assert_eq!(uid.as_deref(), Some("7d0f5b1e-52a4-4c0f-9b0e-shop-cart-0"));
    assert_eq!(event.reason.as_deref(), Some("ConntrackTableHeld"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.reporting_instance.as_deref(), Some(NODE));
    let note = event.note.as_deref().unwrap_or_default();
    assert!(note.contains("1,500 of the 2,000"), "{note}");
    assert_eq!(count(&event), 1);

    // Said again: the same Event, counted up.
    for times in 2..=4 {
        agent.pass(300);
        agent.written("said again").await;
        let all = events(admin, "shop").await;
        assert_eq!(all.iter().map(count).collect::<Vec<_>>(), [times]);
        assert_eq!(all[0].metadata.name, event.metadata.name);
    }
    // Somebody deletes it.
    let api = Api::<Event>::namespaced(admin.clone(), "shop");
    let name = event.metadata.name.expect("a name");
    let deleted = api.delete(&name, &DeleteParams::default()).await;
    deleted.expect("an Event can be deleted");
    agent.pass(300);
    let status = agent.written("deleted, and written anew").await;
    assert_eq!(
        (status.lost, status.problem),
        (agent.health.status().lost, None)
    );
    let all = events(admin, "shop").await;
    assert_eq!(all.iter().map(count).collect::<Vec<_>>(), [1]);
}

async fn many_pods(agent: &mut Agent, admin: &Client) {
    let losers = (0..LOSERS).map(|number| {
        let mut pod = pod("many", &format!("pod-{number}"), 1);
        pod.egress.drops[0] = 1 + number as u64;
        pod
    });
    agent.snapshot.owners.list = losers.collect();
    // The bucket fills meanwhile.
    let mut quiet = std::mem::take(&mut agent.snapshot.owners.list);
    agent.pass(400);
    agent.snapshot.owners.list.append(&mut quiet);
    agent.pass(12);
    agent.written("thirty pods lose packets at once").await;
    let all = events(admin, "many").await;
    assert_eq!(all.len(), AT_ONCE);
    assert!(
        all.iter().any(|event| about(event) == "Pod pod-29"),
        "the worst"
    );
    for event in &all {
        assert_eq!(event.reason.as_deref(), Some("ConntrackPacketsDropped"));
    }
    agent.pass(15 * 11);
    agent.written("the others, one after another").await;
    assert_eq!(events(admin, "many").await.len(), LOSERS);
}

async fn the_node(agent: &mut Agent, admin: &Client) {
    let changes = vec![raise(1, 2048, 7168), raise(2, 7168, 9000)];
    agent.limit = Some(Report {
        changes,
        ..Report::default()
    });
    agent.pass(60);
    let status = agent.written("two raises of the limit").await;
    assert_eq!(status.problem, None, "{status:?}");
    let mut all = events(admin, NODE_NAMESPACE).await;
    all.sort_by_key(|event| event.note.clone());
    assert_eq!(all.len(), 2, "each is an Event of its own: {all:?}");
    for (event, numbers) in all.iter().zip(["2,048 -> 7,168", "7,168 -> 9,000"]) {
        assert_eq!(about(event), format!("Node {NODE}"));
        let uid = event.regarding.clone().and_then(|object| object.uid);
        assert_eq!(uid.as_deref(), Some(NODE), "as kubectl describe asks for");
        assert_eq!(event.reason.as_deref(), Some("ConntrackLimitRaised"));
        assert_eq!(event.type_.as_deref(), Some("Normal"));
        let note = event.note.as_deref().unwrap_or_default();
        assert!(note.contains(numbers), "{note}");
        assert_eq!(count(event), 1);
    }
}
