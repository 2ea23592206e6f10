//! The entries of a table, one by one, as `conntrack -L` prints them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::{command::output, kernel};

/// One direction of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Where packets of this direction come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// Source port; none for ICMP and the like.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the first packet had it.
    pub original: Tuple,
    /// As answers have it.
    pub reply: Tuple,
}

/// All entries of the table of a named network namespace (`None`: this one). A listing during which the hash is rebuilt has entries
/// twice, and lacks others: it is made again.
pub fn list(namespace: Option<&str>) -> Result<Vec<Entry>> {
    let words = ["conntrack", "-L", "-o", "extended"];
    loop {
        let buckets = kernel::sysctl("nf_conntrack_buckets")?;
        let text = match namespace {
            Some(name) => output("ip", &[&["netns", "exec", name], words.as_slice()].concat())?,
            None => output(words[0], &words[1..])?,
        };
        if kernel::sysctl("nf_conntrack_buckets")? == buckets {
            return parse(&text);
        }
    }
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    text.lines()
        .map(|line| entry(line).with_context(|| format!("conntrack printed `{line}`")))
        .collect()
}

fn entry(line: &str) -> Result<Entry> {
    Ok(Entry {
        original: tuple(line, 0)?,
        reply: tuple(line, 1)?,
    })
}

/// The names of a tuple come twice: of the original direction first.
fn tuple(line: &str, turn: usize) -> Result<Tuple> {
    let value = |name: &str| {
        line.split_whitespace()
            .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .nth(turn)
    };
    let address = |name: &str| -> Result<IpAddr> {
        let text = value(name).with_context(|| format!("no {name}"))?;
        text.parse().with_context(|| format!("{name}={text}"))
    };
    Ok(Tuple {
        source: address("src")?,
        destination: address("dst")?,
        source_port: value("sport").and_then(|text| text.parse().ok()),
        destination_port: value("dport").and_then(|text| text.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_read() {
        let text = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.88.0.2 dst=10.96.0.1 sport=40000 dport=80 \
                    src=10.88.0.9 dst=10.88.0.2 sport=7000 dport=40000 [ASSURED] mark=0 use=1\n\
                    ipv6     10 icmpv6   58 29 src=fd00::1 dst=fd00::2 type=128 code=0 id=7 [UNREPLIED] \
                    src=fd00::2 dst=fd00::1 type=129 code=0 id=7 mark=0 use=1\n";
        let entries = parse(text).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].original.destination_port, Some(80));
        assert_eq!(entries[0].reply.source.to_string(), "10.88.0.9");
        assert_eq!(entries[0].reply.source_port, Some(7000));
        assert_eq!(entries[1].original.source.to_string(), "fd00::1");
        assert_eq!(entries[1].original.source_port, None);
        assert!(parse("tcp 6 src=10.0.0.1\n").is_err());
    }
}
