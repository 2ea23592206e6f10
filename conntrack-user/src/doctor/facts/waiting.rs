//! Where packets wait, and hold the entries of their connections while they do: NFQUEUE, the queues of interfaces, neighbours that have
//! not answered.

use std::cmp::Reverse;

use super::{Facts, listeners::holder, read_if_there};
use crate::{
    kernel::Root,
    sys::netlink::{NetlinkError, interfaces::Interfaces, queues::InterfaceQueue},
};

/// One queue of NFQUEUE that has packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramQueue {
    pub number: u16,
    /// The program that takes packets out of it; the number of its socket where that is no process.
    pub program: String,
    pub packets: u64,
}

/// All places, the fullest first; `None`: it could not be looked there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub programs: Option<Vec<ProgramQueue>>,
    /// Queues of interfaces that have packets.
    pub interfaces: Option<Vec<InterfaceQueue>>,
    /// Neighbours that were asked for and have not answered.
    pub neighbours: Option<u64>,
}

/// Each line of the file: the queue, the port of its program's socket, packets, ... `program`: who holds that socket.
fn parse(text: &str, program: impl Fn(u32) -> Option<(u32, String)>) -> Vec<ProgramQueue> {
    let queue = |line: &str| {
        let mut numbers = line.split_whitespace();
        let number = numbers.next()?.parse().ok()?;
        let port: u32 = numbers.next()?.parse().ok()?;
        let packets = numbers
            .next()?
            .parse()
            .ok()
            .filter(|packets| *packets > 0)?;
        let program = program(port).map_or_else(
            || format!("a program whose socket has the port {port}"),
            |(process, name)| format!("{name} (process {process})"),
        );
        Some(ProgramQueue {
            number,
            program,
            packets,
        })
    };
    let mut queues: Vec<_> = text.lines().filter_map(queue).collect();
    queues.sort_by_key(|queue| Reverse(queue.packets));
    queues
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    const WHAT: &str = "where packets wait";
    match read_if_there(&root.proc("thread-self/net/netfilter/nfnetlink_queue")) {
        // Not there: nobody has asked the kernel for a queue.
        Ok(text) => {
            let text = text.unwrap_or_default();
            facts.waiting.programs = Some(parse(&text, |port| holder(root, port)));
        }
        Err(error) => facts.could_not(WHAT, &error, "run as root"),
    }
    if !root.is_live() {
        return;
    }
    let interfaces = whole(Interfaces::queues);
    let neighbours = whole(Interfaces::unanswered_neighbours);
    for error in [interfaces.as_ref().err(), neighbours.as_ref().err()]
        .into_iter()
        .flatten()
    {
        facts.could_not(WHAT, error, "ask again");
    }
    facts.waiting.interfaces = interfaces.ok();
    facts.waiting.neighbours = neighbours.ok();
}

/// A list that comes whole within a few tries: interfaces come and go while pods do.
fn whole<T>(list: impl Fn(&mut Interfaces) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    const TRIES: usize = 3;
    let once = || Interfaces::new().and_then(|mut interfaces| list(&mut interfaces));
    let mut listed = once();
    for _ in 1..TRIES {
        if listed.is_ok() {
            break;
        }
        listed = once();
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_programs() {
        let text = "    0   4242     0 2 65531     0     0        7  1\n    \
                    3   4243   980 2 65531     0     0      987  1\n    5 2147485952 12 2 0 0 0 0 1\n";
        let name = |port| (port == 4243).then(|| (77, "snort".to_owned()));
        let queues = parse(text, name);
        assert_eq!(queues.len(), 2, "{queues:?}");
        assert_eq!((queues[0].number, queues[0].packets), (3, 980));
        assert_eq!(queues[0].program, "snort (process 77)");
        assert_eq!(
            queues[1].program,
            "a program whose socket has the port 2147485952"
        );
        assert_eq!(parse("", name), []);
    }
}
