//! The thread that answers. It holds no capability: whoever found a fault in the reading of requests would have none either.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::{net::TcpListener, runtime, sync::oneshot, task::LocalSet};

use super::{
    access::{Access, AccessError, AccessFiles},
    connections,
    health::PortHealth,
    pages::Pages,
    talk::Site,
};
use crate::{probes::privileges, sys::priority};

/// What the thread is called.
pub(super) const THREAD: &str = "http";

/// The port can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The kernel gives no thread, or refuses the listening socket.
    #[error("cannot answer requests on {address}: {source}")]
    Thread {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// Certificates or tokens can't be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It has ended, by a fault of its own.
    #[error("the thread that answers HTTP has ended")]
    Ended,
}

impl ServeError {
    /// What to do about it, for a person.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Thread { .. } => {
                "see whether the agent may have more threads and files (`ulimit -u`, `ulimit -n`, TasksMax)"
            }
            Self::Access(error) => error.help(),
            Self::Ended => "start the agent again, and report what its log says before this",
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Server {
    ended: oneshot::Receiver<Infallible>,
}

impl Server {
    /// Begins to answer what comes to `listener`. Connections are kept for so long between two requests.
    ///
    /// # Errors
    /// If there can be no such thread, or certificates and tokens can't be used.
    pub(crate) fn start(
        listener: StdListener,
        pages: Pages,
        files: AccessFiles,
        health: Arc<PortHealth>,
        idle: Duration,
    ) -> Result<Self, ServeError> {
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
        let (began, result) = mpsc::sync_channel(1);
        let (alive, ended) = oneshot::channel::<Infallible>();
        let work = move || {
            // Dropped when the thread ends, also by a panic.
            let _alive = alive;
            privileges::drop_all(THREAD);
            // What it reads later it can read now.
            let access = Access::new(files).map_err(ServeError::from);
            let prepared = access.and_then(|access| {
                let (runtime, listener) =
                    prepare(listener).map_err(|source| ServeError::Thread { address, source })?;
                Ok((runtime, listener, access))
            });
            match prepared {
                Ok((runtime, listener, access)) => {
                    drop(began.send(Ok(())));
                    let site = Rc::new(Site {
                        pages,
                        access,
                        health,
                        idle,
                    });
                    match LocalSet::new().block_on(&runtime, connections::serve(listener, site)) {}
                }
                Err(error) => drop(began.send(Err(error))),
            }
        };
        priority::thread(THREAD, work).map_err(|source| ServeError::Thread { address, source })?;
        match result.recv() {
            Ok(began) => began.map(|()| Self { ended }),
            Err(_) => Err(ServeError::Ended),
        }
    }

    /// Waits until it ends, which it never should.
    pub(crate) async fn ended(self) -> ServeError {
        match self.ended.await {
            Ok(never) => match never {},
            Err(_) => ServeError::Ended,
        }
    }
}

fn prepare(listener: StdListener) -> io::Result<(runtime::Runtime, TcpListener)> {
    connections::bound(&listener)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    Ok((runtime, listener))
}
