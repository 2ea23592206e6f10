//! Where packets wait, and hold the entries of their connections while they do: NFQUEUE, the queues of interfaces, neighbours that have
//! not answered.

use std::cmp::Reverse;

use super::{Facts, read_if_there};
use crate::{
    kernel::Root,
    sys::netlink::{interfaces::Interfaces, queues::InterfaceQueue},
};

/// One queue of NFQUEUE that has packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramQueue {
    pub number: u16,
    /// The program that takes packets out of it; the number of its socket where that is no process.
    pub program: String,
    pub packets: u64,
}

/// All places, the fullest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub programs: Vec<ProgramQueue>,
    /// Queues of interfaces that have packets.
    pub interfaces: Vec<InterfaceQueue>,
    /// Neighbours that were asked for and have not answered.
    pub neighbours: u64,
}

/// Each line of the file: the queue, the socket of its program (most often the process), packets, ...
fn parse(text: &str, program: impl Fn(u32) -> Option<String>) -> Vec<ProgramQueue> {
    let queue = |line: &str| {
        let mut numbers = line.split_whitespace();
        let number = numbers.next()?.parse().ok()?;
        let socket: u32 = numbers.next()?.parse().ok()?;
        let packets = numbers
            .next()?
            .parse()
            .ok()
            .filter(|packets| *packets > 0)?;
        let program = program(socket).map_or_else(
            || format!("a program whose socket is {socket}"),
            |name| format!("{name} (process {socket})"),
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
    let program = |process: u32| {
        let name = read_if_there(&root.proc(format!("{process}/comm"))).ok()??;
        Some(name.trim().to_owned())
    };
    // Not there: nobody has asked the kernel for a queue.
    if let Ok(Some(text)) = read_if_there(&root.proc("thread-self/net/netfilter/nfnetlink_queue")) {
        facts.waiting.programs = parse(&text, program);
    }
    if !root.is_live() {
        return;
    }
    let listed = Interfaces::new().and_then(|mut interfaces| {
        facts.waiting.interfaces = interfaces.queues()?;
        facts.waiting.neighbours = interfaces.unanswered_neighbours()?;
        Ok(())
    });
    if let Err(error) = listed {
        facts.could_not("where packets wait", &error, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_programs() {
        let text = "    0   4242     0 2 65531     0     0        7  1\n    \
                    3   4243   980 2 65531     0     0      987  1\n    5 2147485952 12 2 0 0 0 0 1\n";
        let name = |process| (process == 4243).then(|| "snort".to_owned());
        let queues = parse(text, name);
        assert_eq!(queues.len(), 2, "{queues:?}");
        assert_eq!((queues[0].number, queues[0].packets), (3, 980));
        assert_eq!(queues[0].program, "snort (process 4243)");
        assert_eq!(queues[1].program, "a program whose socket is 2147485952");
        assert_eq!(parse("", name), []);
    }
}
