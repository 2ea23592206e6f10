//! Events on pods and on the node, written.

use std::time::{Duration, Instant};

use ctpressure_model::kubernetes::{About, EventLoss, NodeName, Notice, Severity};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    core::Status,
    runtime::{
        events::{Event as Repeated, EventType, Recorder, Reporter},
        watcher::DefaultBackoff,
    },
};
use tokio::time::{sleep, timeout};

use crate::causes::causes;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// An Event has the time at which it is written; one that waited longer would be about another time.
const STALE: Duration = Duration::from_mins(5);
/// The longest pause between two tries.
const PAUSE: Duration = Duration::from_secs(30);
/// How often a missing right is asked for again.
const FORBIDDEN: u32 = 2;
/// Who says it, in the Event.
const CONTROLLER: &str = "ctpressure";
/// The longest name that the API takes for where that runs.
const INSTANCE_BYTES: usize = 128;

/// Writes Events of the agent on `node`, one after another: each is given with the time since when it waits, and is tried
/// until it is written, refused, or older than five minutes.
pub fn event_writer(node: NodeName) -> impl AsyncFnMut(&Notice, Instant) -> Result<(), EventLoss> {
    let mut writer = Writer::new(node);
    async move |notice: &Notice, since| writer.deliver(notice, since).await
}

/// Where Events on what has no namespace are by convention ...
const NODE_NAMESPACE: &str = "default";
/// ... and where they have to be before Kubernetes 1.21, whose API takes new ones in no other; `kubectl describe node` looks
/// everywhere.
const OLD_NODE_NAMESPACE: &str = "kube-system";
/// How these say so.
const NAMESPACE_REFUSED: &str = "does not match event.namespace";

/// What a service account without the right is told.
const MAY_NOT: &str = "Kubernetes Events can't be written, the service account may not: grant create and patch on events of the \
                       API group events.k8s.io to it by a cluster-wide role, or give --no-kube-events";

/// Why an Event was not written.
#[derive(Debug)]
enum Failure {
    /// The service account has no right to it; or the server is starting and does not know yet.
    Forbidden,
    /// It would be no better next time.
    Refused(EventLoss),
    /// It may be.
    Later(String),
    /// It may be, at once: the Event that was to be counted up is gone, or the place was wrong.
    Gone,
}

/// What the API's refusal means.
fn refusal(status: &Status) -> Failure {
    // Refused as well: in a namespace that is being deleted, or whose quota is used up.
    let may_not = ["cannot create resource", "cannot patch resource"];
    match status.code {
        // The message names the namespace: it would be news for each.
        403 if may_not.iter().any(|text| status.message.contains(text)) => Failure::Forbidden,
        401 | 429 | 500.. => Failure::Later(causes(status)),
        404 => Failure::Gone,
        code => Failure::Refused(EventLoss {
            what: format!("a Kubernetes Event was refused ({code} {})", status.reason),
            details: causes(status),
        }),
    }
}

/// A way to the API.
struct Way {
    client: Client,
    /// Remembers the Events that it wrote.
    recorder: Recorder,
}

struct Writer {
    node: NodeName,
    reporter: Reporter,
    /// Where Events on the node go.
    node_namespace: &'static str,
    way: Option<Way>,
}

impl Writer {
    fn new(node: NodeName) -> Self {
        Self {
            reporter: Reporter {
                controller: CONTROLLER.to_owned(),
                instance: Some(instance(node.as_str())),
            },
            node,
            node_namespace: NODE_NAMESPACE,
            way: None,
        }
    }

    /// Tries until it is written, refused or stale.
    async fn deliver(&mut self, notice: &Notice, since: Instant) -> Result<(), EventLoss> {
        let mut pauses = DefaultBackoff::default();
        let mut anew = false;
        let mut forbidden = 0;
        loop {
            let said = match timeout(PATIENCE, self.publish(notice)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Failure::Forbidden)) if forbidden == FORBIDDEN => return Err(MAY_NOT.into()),
                Ok(Err(Failure::Forbidden)) => {
                    forbidden += 1;
                    MAY_NOT.to_owned()
                }
                Ok(Err(Failure::Refused(problem))) => return Err(problem),
                Ok(Err(Failure::Gone)) if !anew => {
                    // Somebody deleted it; or its namespace is not there.
                    anew = true;
                    self.way = None;
                    continue;
                }
                Ok(Err(Failure::Gone)) => {
                    return Err("a Kubernetes Event was refused, its namespace is gone".into());
                }
                Ok(Err(Failure::Later(said))) => said,
                Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
            };
            // All is read anew: configuration, authorities, token.
            self.way = None;
            tracing::debug!("a Kubernetes Event could not be written: {said}");
            let pause = pauses.next().unwrap_or(PAUSE).min(PAUSE);
            if since.elapsed() + pause > STALE {
                return Err(EventLoss {
                    what: format!(
                        "Kubernetes Events are lost, they could not be written for {} minutes",
                        STALE.as_secs() / 60
                    ),
                    details: said,
                });
            }
            sleep(pause).await;
        }
    }

    async fn publish(&mut self, notice: &Notice) -> Result<(), Failure> {
        let way = if let Some(way) = &self.way {
            way
        } else {
            let way = connect(&self.reporter).await?;
            self.way.insert(way)
        };
        let regarding = regarding(&notice.about, self.node.as_str());
        let published = match &notice.about {
            About::Pod { .. } => way.recorder.publish(&repeated(notice), &regarding).await,
            About::Node => {
                let event = single(notice, regarding, self.node.as_str());
                let events = Api::<Event>::namespaced(way.client.clone(), self.node_namespace);
                let created = events.create(&PostParams::default(), &event).await;
                created.map(drop)
            }
        };
        published.map_err(|error| match &error {
            kube::Error::Api(status)
                if status.code == 422
                    && status.message.contains(NAMESPACE_REFUSED)
                    && self.node_namespace != OLD_NODE_NAMESPACE =>
            {
                self.node_namespace = OLD_NODE_NAMESPACE;
                Failure::Gone
            }
            kube::Error::Api(status) => refusal(status),
            _ => Failure::Later(causes(&error)),
        })
    }
}

async fn connect(reporter: &Reporter) -> Result<Way, Failure> {
    let config = Config::infer().await;
    let config = config.map_err(|error| Failure::Later(causes(&error)))?;
    let client = Client::try_from(config).map_err(|error| Failure::Later(causes(&error)))?;
    Ok(Way {
        recorder: Recorder::new(client.clone(), reporter.clone()),
        client,
    })
}

fn repeated(notice: &Notice) -> Repeated {
    Repeated {
        type_: match notice.severity {
            Severity::Warning => EventType::Warning,
            Severity::Normal => EventType::Normal,
        },
        reason: notice.reason.to_owned(),
        note: Some(notice.note.clone()),
        action: notice.action.to_owned(),
        secondary: None,
    }
}

/// An Event of its own, which a [`Recorder`] would count up with the note of the one before.
fn single(notice: &Notice, regarding: ObjectReference, node: &str) -> Event {
    let now = Timestamp::now();
    let kind = match notice.severity {
        Severity::Warning => "Warning",
        Severity::Normal => "Normal",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{node}.{:x}", now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(kind.to_owned()),
        reason: Some(notice.reason.to_owned()),
        action: Some(notice.action.to_owned()),
        note: Some(notice.note.clone()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance(node)),
        ..Event::default()
    }
}

/// Where the agent runs, as the API takes it. Names of nodes are ASCII.
fn instance(node: &str) -> String {
    node[..node.len().min(INSTANCE_BYTES)].to_owned()
}

/// The object as the kubelet refers to it in its own Events, so that `kubectl describe` shows these too: a node by its name
/// in place of its UID.
fn regarding(about: &About, node: &str) -> ObjectReference {
    let (kind, namespace, name, uid) = match about {
        About::Pod {
            namespace,
            name,
            uid,
        } => ("Pod", Some(namespace.clone()), name.as_str(), uid.as_str()),
        About::Node => ("Node", None, node, node),
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace,
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> Status {
        Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        }
    }

    #[test]
    fn a_missing_right_is_told_from_other_refusals() {
        let rbac = r#"events.events.k8s.io is forbidden: User "agent" cannot create resource "events" in API group "events.k8s.io" in the namespace "shop""#;
        assert!(matches!(refusal(&status(403, rbac)), Failure::Forbidden));
        let ends = "unable to create new content in namespace shop because it is being terminated";
        let Failure::Refused(problem) = refusal(&status(403, ends)) else {
            panic!("no use to try again");
        };
        assert!(!problem.to_string().contains("grant"), "{problem}");
        for code in [401, 429, 500, 503] {
            assert!(
                matches!(refusal(&status(code, "x")), Failure::Later(_)),
                "{code}"
            );
        }
        assert!(matches!(refusal(&status(404, "x")), Failure::Gone));
        assert!(matches!(refusal(&status(422, "x")), Failure::Refused(_)));
    }
}
