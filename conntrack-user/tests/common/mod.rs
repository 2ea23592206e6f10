//! What several test programs need.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use conntrack_ebpf::record::{
    DropReason, DropRecord, FLAG_CAUSE_KNOWN, Header, Kind, Origin, Tuple, VERSION, View,
};
use conntrack_user::{
    agent::{self, AgentState, Snapshot, Table, Tables},
    serve::{Companions, socket::LocalSocket},
};
use ctpressure_model::pressure::state::Pressure;
use tempfile::TempDir;
use tokio::{task::LocalSet, time::sleep};

/// The program, without what the environment may say to it.
pub(crate) fn ctpressure() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctpressure"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CTPRESSURE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// An agent's socket without a kernel behind it: drops come at a steady rate, numbered by
/// their source port.
pub(crate) struct Agent {
    folder: TempDir,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let (end, ended) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            LocalSet::new().block_on(&runtime, async move {
                let socket = LocalSocket::bind(&path).await.expect("a socket");
                let (publisher, handle) = agent::channel();
                publisher.publish(snapshot());
                ready.send(()).expect("the test waits");
                let drops = async {
                    let mut sink = publisher.sink();
                    let mut number = 0_u16;
                    loop {
                        number = number.wrapping_add(1);
                        sink(&drop_of(number));
                        sleep(Duration::from_millis(2)).await;
                    }
                };
                tokio::select! {
                    never = socket.serve(handle, Companions::default()) => match never {},
                    () = drops => {}
                    _ = ended => {}
                }
            });
        });
        is_ready.recv().expect("the agent starts");
        Self {
            folder,
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the agent ends");
        }
    }
}

fn drop_of(source_port: u16) -> View {
    let tuple = Tuple {
        src: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0],
        src_port: source_port.to_be(),
        l3num: 2,
        dst: [u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0],
        dst_port: 53_u16.to_be(),
        protonum: if source_port.is_multiple_of(2) { 17 } else { 6 },
        dir: 0,
    };
    let header = Header {
        version: VERSION,
        kind: Kind::Drop as u8,
        reason: DropReason::TableFull as u8,
        flags: FLAG_CAUSE_KNOWN,
        netns: 4_026_531_840,
        time_ns: 1,
        weight: 1,
        cpu: 0,
    };
    View::Drop(DropRecord {
        header,
        original: tuple,
        reply: Tuple::default(),
        origin: Origin::default(),
    })
}

/// A table that is half full, and nothing else.
fn snapshot() -> Snapshot {
    Snapshot {
        uptime_seconds: 1.0,
        state: AgentState::Attached,
        reason: None,
        tables: Tables {
            limit: Some(2_000),
            list: vec![Table {
                netns: 4_026_531_840,
                name: "host".to_owned(),
                entries: 1_000,
                pressure: Pressure::Rising,
                seconds_to_full: Some(20.0),
                ..Table::default()
            }],
            ..Tables::default()
        },
        ..Snapshot::default()
    }
}
