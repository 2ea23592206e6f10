//! `ctpressure contain`: a limit on what one owner opens, and its entries deleted; by hand only.

use std::time::Duration;

use clap::Args;
use ctpressure_model::{
    command_line::{self, Output, OutputArgs},
    containment::{ContainAction, ContainNote},
    words::{grouped, seconds},
};
use serde::Serialize;

use super::{
    Failure,
    args::{LogArgs, SocketArgs},
    limit::user,
    logging,
    owners::KnownOwners,
    thread,
};
use crate::{
    contain::{ContainPlan, Contained, Deletion, Wanted, delete_entries, lift, limit, list, plan},
    kernel::{Root, confinement::as_root, entries::EntriesError, host},
    serve::{containments::ContainNoted, socket::Remote},
    sys::netlink::{NetlinkError, NetlinkSocket},
};

mod text;

/// Stop one owner that fills the table: limit what it opens, delete its entries
///
/// Says what it would do; does it with --yes. The limit is on new entries that OWNER opens, of all its addresses together; flows that are in the table go on. It
/// ends by itself in the kernel, whatever becomes of this program. Entries that others opened to OWNER are left alone.
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct Contain {
    /// Who: NAMESPACE/POD, or a container, as `ctpressure table --by owner` has it
    #[arg(required_unless_present = "list")]
    owner: Option<String>,
    /// New entries that it may still make, e.g. 10/s; 0/s: none
    #[arg(long, value_name = "N/s", value_parser = rate, default_value = "10/s")]
    rate: u32,
    /// How long
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "10m")]
    time: Duration,
    /// Delete the entries that it has opened, too: they go one by one, and its answered connections with them
    #[arg(long)]
    delete_entries: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Also what a node needs: the host, its agents, what is in kube-system
    #[arg(long)]
    force: bool,
    /// Say who is contained, and for how long yet; remove what is left of those whose time is over
    #[arg(long, conflicts_with_all = ["owner", "yes", "delete_entries", "lift", "force"])]
    list: bool,
    /// End it now; entries that were deleted stay so
    #[arg(long, conflicts_with_all = ["delete_entries", "force"])]
    lift: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What `ctpressure contain -o json` prints.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ContainDocument {
    /// What is done, or would be; null with `--list` and `--lift`.
    plan: Option<ContainPlan>,
    /// It was done. False: it was only said (`--yes` does it).
    done: bool,
    /// The owner's entries: those that were deleted, or those that would be; null unless that was asked for.
    entries: Option<Deletion>,
    /// Whose limit was ended by hand.
    lifted: Option<String>,
    /// Who is contained now.
    contained: Vec<Contained>,
    /// Where what was done is noted; null: nothing was done, or no agent runs to note it.
    noted: Option<ContainNoted>,
}

/// The most at a time: each has a hook of its own, which all packets pass.
const MOST: usize = 16;
/// How long it may be: what somebody forgets must not last.
const LONGEST: Duration = Duration::from_hours(24);

/// Reads `10/s`, or `10`.
fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).trim();
    let number: u32 = number
        .parse()
        .map_err(|_| "a rate is a number of entries a second, e.g. 10/s".to_owned())?;
    if number > 1_000_000 {
        return Err("at most 1000000/s: more is no limit".to_owned());
    }
    Ok(number)
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) || time > LONGEST {
        return Err("from 1s to 24h".to_owned());
    }
    Ok(time)
}

impl Contain {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::WARN);
        let root = Root::system();
        let document = match &self.owner {
            Some(owner) if self.lift => self.noted(end(&root, owner)?),
            Some(owner) => self.noted(self.contain(&root, owner)?),
            None => ContainDocument::of(in_host(&root, || Ok(list(&mut socket()?)?))?),
        };
        let printed = match self.output.output {
            Output::Json => format!("{}\n", serde_json::to_string(&document)?),
            Output::Text => text::of(&document),
        };
        Ok(command_line::print(&printed)?)
    }

    /// Tells the running agent what was done. That nobody notes it is said, and no error: it is done.
    fn noted(&self, mut document: ContainDocument) -> ContainDocument {
        for note in document.notes() {
            let ask = async { Ok(Remote::contain(&self.socket.socket, note).await?) };
            match thread::block_on(Duration::ZERO, ask) {
                Ok(noted) => document.noted = noted,
                Err(error) => {
                    tracing::warn!(%error, "the running agent does not note what was done");
                }
            }
        }
        document
    }

    fn contain(&self, root: &Root, owner: &str) -> anyhow::Result<ContainDocument> {
        let owners = KnownOwners::find(root, &self.socket.socket);
        let wanted = Wanted {
            owner,
            rate: self.rate,
            time: self.time,
            delete_entries: self.delete_entries,
            force: self.force,
        };
        let plan = plan(&owners.charging, owners.of_agent, &wanted).map_err(|refusal| Failure {
            what: refusal.to_string(),
            help: refusal.help().to_owned(),
        })?;
        let (contained, entries) = in_host(root, || {
            let mut socket = socket()?;
            if self.yes && !plan.addresses.is_empty() {
                let others = list(&mut socket)?;
                let others = others.iter().filter(|known| known.owner != owner).count();
                if others >= MOST {
                    return Err(Refused::TooMany);
                }
                limit(&mut socket, &plan)?;
            }
            // Behind the limit, so that they don't come back at once.
            let entries = self.delete_entries.then(|| {
                let tag_of = |key: &_| owners.tags.as_ref()?.tag(key);
                delete_entries(root, &owners.charging, plan.slot, tag_of, !self.yes)
            });
            let entries = entries.transpose()?;
            Ok((list(&mut socket)?, entries))
        })?;
        Ok(ContainDocument {
            plan: Some(plan),
            done: self.yes,
            entries,
            ..ContainDocument::of(contained)
        })
    }
}

/// Ends the limit of an owner.
fn end(root: &Root, owner: &str) -> anyhow::Result<ContainDocument> {
    let (lifted, contained) = in_host(root, || {
        let mut socket = socket()?;
        let before = list(&mut socket)?;
        let lifted = before.iter().any(|known| known.owner == owner) && lift(&mut socket, owner)?;
        Ok((lifted, list(&mut socket)?))
    })?;
    if !lifted {
        return Err(Failure {
            what: format!("{owner} is not contained"),
            help: "`ctpressure contain --list` says who is".to_owned(),
        }
        .into());
    }
    Ok(ContainDocument {
        done: true,
        lifted: Some(owner.to_owned()),
        ..ContainDocument::of(contained)
    })
}

impl ContainDocument {
    /// What was done, for the record.
    fn notes(&self) -> Vec<ContainNote> {
        let by = user().map_or_else(String::new, |who| format!(", by hand ({who})"));
        let note = |action, text: String| ContainNote {
            action,
            text: format!("{text}{by}"),
        };
        let lifted = self.lifted.as_ref().map(|owner| {
            let text = format!("the limit on new entries of {owner} was ended");
            note(ContainAction::Lift, text)
        });
        let plan = self.plan.as_ref().filter(|_| self.done);
        let limited = plan.filter(|plan| !plan.addresses.is_empty()).map(|plan| {
            let text = format!(
                "{} is limited to {} new entries a second for {}",
                plan.owner,
                grouped(plan.rate.into()),
                seconds(plan.seconds)
            );
            note(ContainAction::Limit, text)
        });
        let deleted = plan.zip(self.entries.as_ref()).map(|(plan, entries)| {
            let number = grouped(entries.deleted);
            let text = format!("{number} entries of {} were deleted", plan.owner);
            note(ContainAction::Delete, text)
        });
        limited.into_iter().chain(deleted).chain(lifted).collect()
    }

    fn of(contained: Vec<Contained>) -> Self {
        Self {
            plan: None,
            done: false,
            entries: None,
            lifted: None,
            contained,
            noted: None,
        }
    }
}

/// Why the kernel did not do it.
enum Refused {
    Netlink(NetlinkError),
    Entries(EntriesError),
    TooMany,
}

impl From<NetlinkError> for Refused {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

impl From<EntriesError> for Refused {
    fn from(error: EntriesError) -> Self {
        Self::Entries(error)
    }
}

fn socket() -> Result<NetlinkSocket, Refused> {
    Ok(NetlinkSocket::netfilter()?)
}

/// What is done in the host's network namespace, through which the packets of pods pass.
fn in_host<T: Send>(root: &Root, act: impl Fn() -> Result<T, Refused> + Sync) -> anyhow::Result<T> {
    let host = host::find(root).map_err(|unseen| Failure {
        what: format!("the host's network namespace is not known: {unseen}"),
        help: unseen.help(),
    })?;
    let done = host.inside(root, || Some(act().map_err(explained)));
    done.unwrap_or_else(|| {
        Err(Failure {
            what: "the host's network namespace can't be entered".to_owned(),
            help: as_root("run as root, or with CAP_SYS_ADMIN").to_owned(),
        }
        .into())
    })
}

fn explained(refused: Refused) -> anyhow::Error {
    let error = match refused {
        Refused::Entries(error) => return error.into(),
        Refused::Netlink(error) => error,
        Refused::TooMany => {
            return Failure {
                what: format!("{MOST} owners are contained already"),
                help: "end one by `ctpressure contain OWNER --lift`; this many at once are no single culprit: `ctpressure doctor`"
                    .to_owned(),
            }
            .into();
        }
    };
    let help = match &error {
        NetlinkError::Refused(nix::errno::Errno::EPERM) => {
            as_root("run as root, or with CAP_NET_ADMIN")
        }
        NetlinkError::Refused(_) => {
            "it takes nf_tables with `ct`, `limit` and `counter`: `modprobe -a nf_tables nft_ct nft_limit`"
        }
        _ => "try again",
    };
    Failure {
        what: format!("the limit could not be read or set by nf_tables: {error}"),
        help: help.to_owned(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_are_bounded() {
        assert_eq!(rate("10/s"), Ok(10));
        assert_eq!(rate("0"), Ok(0));
        for wrong in ["", "ten/s", "-1/s", "10/m", "2000000/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["0s", "500ms", "25h", "soon"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
