//! What the API says of one node's pods, followed.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ctpressure_model::kubernetes::{KubeOptions, Latest, NodeName, Pace};
use futures_util::{
    FutureExt as _, TryStreamExt as _,
    future::{BoxFuture, OptionFuture},
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod as ApiPod};
use kube::{
    Api, Client, Config,
    core::PartialObjectMeta,
    runtime::watcher::{self, DefaultBackoff, watcher},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout, timeout_at},
};

use crate::causes::causes;

mod index;
mod jobs;
mod metadata;

use index::Index;
use jobs::Wanted;

/// The list has to come within this time: a server that accepts and says nothing is an outage too.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one request watches. Five seconds later at most a connection that silently broke is noticed.
const WATCH_SECONDS: u32 = 120;
/// How long one Job may take.
const JOB_PATIENCE: Duration = Duration::from_secs(10);
/// When to ask for Jobs again after that was refused.
const REFUSED: Duration = Duration::from_mins(10);

/// Why the watch ended.
struct Ended {
    what: String,
    /// What to do about it.
    help: &'static str,
}

/// What to do when there is no way to the API.
const CONFIGURE: &str = "run in a pod with a service account, or set KUBECONFIG";
/// What to do when it does not answer.
const REACH: &str = "check that the API server runs and that this node reaches it";

impl Ended {
    fn new(what: impl Into<String>, help: &'static str) -> Self {
        let what = what.into();
        Self { what, help }
    }

    /// The API refused or could not be reached.
    fn by(error: &watcher::Error) -> Self {
        let help = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => match status.code {
                401 => {
                    "its token or certificate is not accepted: is the service account still there?"
                }
                403 => "grant list and watch on pods to its service account by a cluster-wide role",
                _ => REACH,
            },
            _ => REACH,
        };
        Self::new(causes(error), help)
    }
}

/// A way to the API.
async fn connect() -> Result<Client, String> {
    let config = Config::infer().await;
    let config =
        config.map_err(|error| format!("no way to it is configured: {}", causes(&error)))?;
    Client::try_from(config)
        .map_err(|error| format!("its configuration can't be used: {}", causes(&error)))
}

/// Follows the pods of `node` until nobody listens: tells `latest` what is known of them, and what is wrong. An outage ends
/// nothing: it is tried again, with pauses of up to half a minute.
pub async fn watch_pods(node: NodeName, options: KubeOptions, latest: watch::Sender<Latest>) {
    Watch::new(node, &options, latest).follow().await;
}

/// What came of asking for a Job.
enum JobAnswer {
    /// Its `CronJob`, or that it has none.
    Is(Option<String>),
    /// It may not be looked at.
    Refused,
    /// No answer that helps.
    Failed,
}

/// Looks at the Job of a pod; one that is gone will not tell any more.
async fn look_at(jobs: Api<PartialObjectMeta<Job>>, wanted: Wanted) -> (Wanted, JobAnswer) {
    let seen = match timeout(JOB_PATIENCE, jobs.get_opt(&wanted.name)).await {
        Ok(Ok(job)) => {
            let same = job
                .as_ref()
                .filter(|job| job.metadata.uid.as_deref() == Some(&*wanted.uid));
            let cron_job = same.and_then(|job| metadata::cron_job(&job.metadata));
            JobAnswer::Is(cron_job.map(str::to_owned))
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => JobAnswer::Refused,
        Ok(Err(_)) | Err(_) => JobAnswer::Failed,
    };
    (wanted, seen)
}

struct Watch {
    node: NodeName,
    pace: Pace,
    index: Index,
    latest: watch::Sender<Latest>,
    /// When it first went wrong since the watch last held.
    failing: Option<Instant>,
    /// It held at least once.
    held: bool,
    /// When looking at Jobs was refused.
    refused: Option<Instant>,
    /// The kind of what was last said to be wrong: an outage is one line, in however many words it comes.
    said: Option<Kind>,
}

/// What can be wrong, by what is to be done about it.
type Kind = &'static str;

impl Watch {
    fn new(node: NodeName, options: &KubeOptions, latest: watch::Sender<Latest>) -> Self {
        Self {
            node,
            pace: options.pace,
            index: Index::new(options.labels()),
            latest,
            failing: None,
            held: false,
            refused: None,
            said: None,
        }
    }

    /// Watches, and after each failure again, until nobody wants to know.
    async fn follow(mut self) {
        let mut pauses = DefaultBackoff::default();
        loop {
            let Some(Ended { what, help }) = self.attempt().await else {
                return;
            };
            tracing::debug!("the watch of this node's pods ended: {what}");
            self.latest
                .send_if_modified(|latest| std::mem::take(&mut latest.watching));
            let since = *self.failing.get_or_insert_with(Instant::now);
            if !self.held || since.elapsed() >= self.pace.steady {
                let problem = format!(
                    "the Kubernetes API can't be watched: {what} (names and workloads known so far are kept, new ones come \
                     when it can; {help})"
                );
                self.say(Some((help, problem)));
            }
            tokio::select! {
                () = sleep(pauses.next().unwrap_or(self.pace.pause).min(self.pace.pause)) => {}
                () = self.latest.closed() => return,
            }
        }
    }

    /// Watches until something goes wrong, or (`None`) nobody wants to know any more. All is read anew: configuration,
    /// authorities, token.
    async fn attempt(&mut self) -> Option<Ended> {
        let client = match connect().await {
            Ok(client) => client,
            Err(what) => return Some(Ended::new(what, CONFIGURE)),
        };
        let pods: Api<PartialObjectMeta<ApiPod>> = Api::all(client.clone());
        // From the server's cache: a list that goes to etcd reads every pod of the cluster there.
        let wanted = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node.as_str()))
            .any_semantic()
            .timeout(WATCH_SECONDS);
        let mut events = pin!(watcher(pods, wanted));
        let impatient = tokio::time::Instant::now() + PATIENCE;
        let mut listed = None::<tokio::time::Instant>;
        let mut job = None;
        loop {
            if job.is_none() && listed.is_some() {
                job = self.next_job(&client);
            }
            let steady = listed.map(|at| at + self.pace.steady);
            let wait_for = steady.unwrap_or(impatient);
            let waits = steady.is_none() || self.failing.is_some() || !self.held;
            let next = async {
                if waits {
                    timeout_at(wait_for, events.try_next()).await
                } else {
                    Ok(events.try_next().await)
                }
            };
            let closed = self.latest.clone();
            let event = tokio::select! {
                event = next => event,
                Some((wanted, seen)) = OptionFuture::from(job.as_mut()) => {
                    job = None;
                    self.job_seen(&wanted, seen);
                    continue;
                }
                () = closed.closed() => return None,
            };
            match event {
                Ok(Ok(Some(event))) => {
                    let outcome = self.index.take(event);
                    if outcome.changed {
                        self.hand_on();
                    }
                    if outcome.listed {
                        listed.get_or_insert_with(tokio::time::Instant::now);
                        self.latest.send_if_modified(|latest| {
                            !std::mem::replace(&mut latest.watching, true)
                        });
                    }
                    // Pods may come and go faster than the watch gets steady.
                    if steady.is_some_and(|steady| tokio::time::Instant::now() >= steady) {
                        self.holds();
                    }
                }
                Ok(Ok(None)) => return Some(Ended::new("the watch ended", REACH)),
                Ok(Err(error)) => return Some(Ended::by(&error)),
                Err(_) if listed.is_some() => self.holds(),
                Err(_) => {
                    let what = format!("no answer within {} s", PATIENCE.as_secs());
                    return Some(Ended::new(what, REACH));
                }
            }
        }
    }

    /// Hands on the pods that are known.
    fn hand_on(&self) {
        let pods = Arc::clone(self.index.pods());
        self.latest.send_modify(|latest| latest.pods = pods);
    }

    /// Begins to look at a Job if there is one to look at: one at a time.
    fn next_job(&self, client: &Client) -> Option<BoxFuture<'static, (Wanted, JobAnswer)>> {
        if self.refused.is_some_and(|since| since.elapsed() < REFUSED) {
            return None;
        }
        let wanted = self.index.wanted_job()?;
        let jobs = Api::namespaced(client.clone(), &wanted.namespace);
        Some(look_at(jobs, wanted).boxed())
    }

    /// Takes over what a Job says.
    fn job_seen(&mut self, wanted: &Wanted, seen: JobAnswer) {
        match seen {
            JobAnswer::Is(cron_job) => {
                if self.index.learn_job(&wanted.uid, cron_job) {
                    self.hand_on();
                }
            }
            JobAnswer::Refused => {
                if self.refused.is_none() {
                    tracing::info!(
                        "pods of a CronJob show its Jobs as their workload: granting get on jobs (apiGroup batch) to the service \
                         account would tell which CronJob that is"
                    );
                }
                self.refused = Some(Instant::now());
            }
            JobAnswer::Failed => self.index.fail_job(&wanted.uid),
        }
    }

    /// The watch has been there for a while.
    fn holds(&mut self) {
        self.failing = None;
        if !self.held {
            let pods = self.index.pods().len();
            tracing::info!(
                node = self.node.as_str(),
                pods,
                "watching this node's pods by the Kubernetes API"
            );
        }
        self.held = true;
        let node = self.node.as_str();
        let problem = if self.index.is_full() {
            Some((
                "too many pods",
                format!(
                    "the Kubernetes API knows more pods of node {node} than are kept: some have no workload here"
                ),
            ))
        } else if self.index.pods().is_empty() {
            Some((
                "no such node",
                format!(
                    "the Kubernetes API knows no pod on a node called {node}: give the node's name with --node, or NODE_NAME from \
                     the downward API (spec.nodeName)"
                ),
            ))
        } else {
            None
        };
        self.say(problem);
    }

    /// Takes over what is wrong, or that nothing is any more, and logs it if it is of a new kind; whether it did.
    fn say(&mut self, problem: Option<(Kind, String)>) -> bool {
        let (kind, problem) = problem.unzip();
        let is_new = self.said != kind;
        if is_new {
            if let Some(problem) = &problem {
                tracing::warn!("{problem}");
            } else {
                tracing::info!("the Kubernetes API answers as it should again");
            }
        }
        self.said = kind;
        self.latest.send_if_modified(|latest| {
            let changed = latest.problem != problem;
            latest.problem = problem;
            changed
        });
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_once_in_however_many_words_it_comes() {
        let (sender, latest) = watch::channel(Latest::default());
        let node: NodeName = "n1".parse().unwrap();
        let options = KubeOptions::new(Ok(node.clone()), &[]).unwrap();
        let mut watch = Watch::new(node, &options, sender);
        let wrong = |kind: Kind, words: &str| Some((kind, words.to_owned()));
        assert!(!watch.say(None), "nothing was wrong");
        assert!(watch.say(wrong(REACH, "connection refused")));
        assert!(!watch.say(wrong(REACH, "no answer within 60 s")));
        assert!(!watch.say(wrong(REACH, "connection refused")));
        let known = latest.borrow().problem.clone();
        assert_eq!(known.as_deref(), Some("connection refused"));
        assert!(
            watch.say(wrong(CONFIGURE, "no token")),
            "this is another thing to do"
        );
        assert!(watch.say(None));
        assert!(latest.borrow().problem.is_none());
    }
}
