//! Arguments that several subcommands have.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser as _};
use ctpressure_model::events::{parse_network, parse_protocol};
use ipnet::IpNet;

use super::logging::LogFormat;
use crate::{
    probes::{ArmMode, InsertBudget, Mechanism, Options},
    recorder::{Bounds, JournalOptions},
    serve::socket,
};

/// The agent's socket.
#[derive(Args, Debug)]
pub(super) struct SocketArgs {
    /// Unix socket of the running agent
    #[arg(long, env = "CTPRESSURE_SOCKET", value_name = "PATH", default_value = socket::DEFAULT_PATH)]
    pub(super) socket: PathBuf,
}

/// Which flows are meant, by their tuples.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct FlowArgs {
    /// Only these protocols, by name or number
    #[arg(long, env = "CTPRESSURE_PROTOCOL", value_delimiter = ',', value_parser = parse_protocol)]
    pub(super) protocol: Vec<u8>,
    /// Only these addresses or prefixes, as source or destination, before or after NAT
    #[arg(long, env = "CTPRESSURE_ADDRESS", value_delimiter = ',', value_parser = parse_network)]
    pub(super) address: Vec<IpNet>,
    /// Only these ports, as source or destination, before or after NAT
    #[arg(long, env = "CTPRESSURE_PORT", value_delimiter = ',')]
    pub(super) port: Vec<u16>,
}

#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// Format of the messages on stderr
    #[arg(
        long,
        env = "CTPRESSURE_LOG",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub(super) log: LogFormat,
    /// Log more; give it twice for still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Journal")]
pub(super) struct JournalArgs {
    /// Record to a database in this folder, for `ctpressure report`; the folder is created if missing [default: no journal]
    #[arg(long, env = "CTPRESSURE_JOURNAL", value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Maximum size, e.g. 64MiB. Older data is downsampled, then deleted
    #[arg(
        long,
        env = "CTPRESSURE_JOURNAL_SIZE",
        value_name = "SIZE",
        default_value = "64MiB",
        value_parser = bytes
    )]
    journal_size: u64,
    /// Maximum age of the data, e.g. 24h or 3days
    #[arg(
        long,
        env = "CTPRESSURE_JOURNAL_KEEP",
        value_name = "TIME",
        default_value = "24h",
        value_parser = humantime::parse_duration
    )]
    journal_keep: Duration,
}

impl JournalArgs {
    /// The journal that was asked for.
    pub(super) fn options(&self) -> Option<JournalOptions> {
        Some(JournalOptions {
            folder: self.journal.clone()?,
            bounds: Bounds {
                bytes: self.journal_size,
                keep: self.journal_keep,
            },
        })
    }
}

/// Reads `64MiB`, `1GiB`, `8000000`: bytes, or binary multiples of them.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        other => return Err(format!("unit {other:?}: it can be KiB, MiB or GiB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a size is a number, e.g. 64MiB".to_owned())?;
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())?;
    if bytes < Bounds::LEAST {
        return Err(format!("at least {} MiB", Bounds::LEAST >> 20));
    }
    Ok(bytes)
}

/// How the probes are made.
#[derive(Args, Debug)]
#[command(next_help_heading = "Probes")]
pub(super) struct ProbeArgs {
    /// Use only this mechanism [default: for each event the first that the kernel supports]
    #[arg(
        long,
        env = "CTPRESSURE_MECHANISM",
        value_parser = PossibleValuesParser::new(["fentry", "kprobe"])
            .map(|text| match text.as_str() {
                "fentry" => Mechanism::Fentry,
                _ => Mechanism::Kprobe,
            })
    )]
    mechanism: Option<Mechanism>,
    /// Insert records per second and CPU before sampling begins [default: 10; 500 while `watch --inserts` runs]
    #[arg(long, env = "CTPRESSURE_INSERT_BUDGET", value_name = "N")]
    insert_budget: Option<u32>,
    /// Beyond the budget, record one insert in N; 0: none
    #[arg(long, env = "CTPRESSURE_INSERT_ONE_IN", value_name = "N")]
    insert_one_in: Option<u32>,
    /// Drop records per second and CPU
    #[arg(long, env = "CTPRESSURE_DROP_BUDGET", value_name = "N")]
    drop_budget: Option<u32>,
    /// Eviction records per second and CPU
    #[arg(long, env = "CTPRESSURE_EVICTION_BUDGET", value_name = "N")]
    eviction_budget: Option<u32>,
    /// Size of the ring buffer in bytes
    #[arg(long, env = "CTPRESSURE_RING_SIZE", value_name = "BYTES")]
    ring_size: Option<u32>,
    /// Maximum number of owners (pods, units) at a time
    #[arg(
        long,
        env = "CTPRESSURE_OWNER_SLOTS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(2..=65_536)
    )]
    owner_slots: Option<u32>,
    /// When to attach the probes that are needed only while a table fills; each costs time per new connection
    #[arg(
        long,
        env = "CTPRESSURE_ARM",
        value_name = "WHEN",
        value_enum,
        default_value_t
    )]
    arm: ArmMode,
    /// Treat the kernel as if it did not have these functions
    #[arg(
        long,
        env = "CTPRESSURE_WITHOUT_FUNCTION",
        value_name = "NAME",
        value_delimiter = ',',
        num_args = 1..,
        hide = true
    )]
    without_function: Vec<String>,
    /// What the eBPF programs log, for debugging them: 0 nothing to 5 everything
    #[arg(
        long,
        env = "CTPRESSURE_EBPF_LOG",
        value_name = "LEVEL",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=5),
        hide = true
    )]
    ebpf_log: u8,
    /// Where the kernel's BTF is
    #[arg(long, env = "CTPRESSURE_BTF", value_name = "PATH", hide = true)]
    btf: Option<PathBuf>,
}

impl ProbeArgs {
    /// What was asked for; the rest by default, where inserts have no records unless somebody
    /// wants them.
    pub(super) fn options(&self, inserts: bool) -> Options {
        let default = Options::default();
        let (insert_budget, insert_one_in) = if inserts {
            (default.insert_budget, default.insert_one_in)
        } else {
            (InsertBudget::always(0), 0)
        };
        Options {
            mechanism: self.mechanism,
            insert_budget: self
                .insert_budget
                .map_or(insert_budget, InsertBudget::always),
            insert_one_in: self.insert_one_in.unwrap_or(insert_one_in),
            drop_budget: self.drop_budget.unwrap_or(default.drop_budget),
            eviction_budget: self.eviction_budget.unwrap_or(default.eviction_budget),
            ring_bytes: self.ring_size.unwrap_or(default.ring_bytes),
            owner_slots: self.owner_slots.unwrap_or(default.owner_slots),
            arm: self.arm,
            ebpf_log_level: self.ebpf_log,
            without_functions: self.without_function.clone(),
            btf: self.btf.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64MiB", Some(64 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("8000000", Some(8_000_000)),
            ("1MiB", None),
            ("", None),
            ("MiB", None),
            ("12 parsecs", None),
            ("99999999999999999999", None),
            ("18446744073709551615G", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }
}
