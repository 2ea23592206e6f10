//! The program that copies entries out of the kernel's hash table, and its runs.

use std::{fs, mem::offset_of, thread};

use conntrack_ebpf::walk::{RunEnd, STEPS, Walk};

use super::{
    NoHashWalk,
    copied::{CopiedFound, CopiedPlace},
    decode::{JiffyClock, Layout},
    error::no_walk,
    hertz::{self, Moment, hertz},
    program::WalkProgram,
    symbols::HashSymbols,
};
use crate::{
    kernel::{Root, btf::Btf},
    sys::netns::Inode,
};

/// How long a run may hold a CPU, nanoseconds: it takes half of it, as far as that can be told from the last one.
const HELD_NS: u64 = 200_000;
/// Steps of a run at least, and at most: enough are left, so that it comes to the end of a chain.
const FEWEST_STEPS: u64 = 16;
const MOST_STEPS: u64 = STEPS as u64 / 2;

/// What one walk came to, besides entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HashWalked {
    /// Buckets that were gone over again, since entries had moved meanwhile.
    pub torn: u64,
    /// Entries whose memory held no entry any more when it was copied.
    pub unreadable: u64,
    /// The longest time that a CPU was held, nanoseconds.
    pub held_ns: u64,
}

/// The program, ready to run.
pub(crate) struct HashWalk {
    program: WalkProgram,
    layout: Layout,
    hertz: u64,
    symbols: HashSymbols,
    steps: u64,
}

impl HashWalk {
    /// Loads the program. Conntrack has to be loaded; when it is loaded anew another one is needed.
    ///
    /// # Errors
    /// Why there can be none.
    pub(crate) fn new(root: &Root) -> Result<Self, NoHashWalk> {
        let program = WalkProgram::load()?;
        let symbols = HashSymbols::find(root)?;
        let path = root.sys("kernel/btf/vmlinux");
        let no_btf = |error: &dyn std::fmt::Display| {
            NoHashWalk::Layout(format!("{}: {error}", path.display()))
        };
        let bytes = fs::read(&path).map_err(|error| no_btf(&error))?;
        let vmlinux = Btf::parse(&bytes, None).map_err(|error| no_btf(&error))?;
        let mut made = Self {
            program,
            layout: Layout::find(&vmlinux)?,
            hertz: 0,
            symbols,
            steps: FEWEST_STEPS,
        };
        let first = made.moment()?;
        thread::sleep(hertz::APART);
        made.hertz = hertz(first, made.moment()?).ok_or(NoHashWalk::Jiffies)?;
        Ok(made)
    }

    /// What the clocks show.
    fn moment(&mut self) -> Result<Moment, NoHashWalk> {
        self.begin(None);
        let walk = self.program.run()?;
        Ok(Moment {
            jiffies: walk.jiffies,
            nanoseconds: walk.began_ns,
        })
    }

    /// How often the kernel has begun another hash table; `None`: it is making one, or it can't be told.
    pub(super) fn generation(&mut self) -> Option<u64> {
        self.begin(None);
        let walk = self.program.run().ok()?;
        (RunEnd::of(walk.end) == RunEnd::Begun).then_some(walk.generation)
    }

    fn begin(&mut self, only: Option<Inode>) {
        let walk = Walk {
            hash_at: self.symbols.hash,
            size_at: self.symbols.size,
            generation_at: self.symbols.generation,
            net_at: self.layout.net.into(),
            inum_at: self.layout.inum.into(),
            only: only.unwrap_or(0).into(),
            steps: self.steps,
            ..Walk::default()
        };
        self.program.walk.write(0, &walk);
    }

    /// For the next run: what the last one was in the middle of begins anew.
    fn make_ready(&self) {
        let words = [
            (offset_of!(Walk, steps), self.steps),
            (offset_of!(Walk, copied), 0),
            (offset_of!(Walk, node), 0),
            (offset_of!(Walk, found), 0),
            (offset_of!(Walk, found_others), 0),
            (offset_of!(Walk, stepped), 0),
            // A namespace may be gone since, and another one have its address.
            (offset_of!(Walk, net), 0),
        ];
        for (offset, value) in words {
            self.program.walk.write_word(0, offset, value);
        }
    }

    /// Calls `each` with every entry of this network namespace's table, or of all.
    ///
    /// # Errors
    /// When the walk could not come to its end: what `each` got is not all then.
    pub(crate) fn walk(
        &mut self,
        only: Option<Inode>,
        mut each: impl FnMut(Inode, &CopiedFound<'_, CopiedPlace<'_>>),
    ) -> Result<HashWalked, NoHashWalk> {
        let mut walked = HashWalked::default();
        self.begin(only);
        match RunEnd::of(self.program.run()?.end) {
            RunEnd::Begun => {}
            end => return Err(no_walk(end)),
        }
        // The first bucket of a run.
        let mut first = 0;
        // Where the bucket of the entries that come next begins.
        let mut bucket: Vec<u64> = Vec::new();
        loop {
            self.make_ready();
            let walk = self.program.run()?;
            match RunEnd::of(walk.end) {
                // What makes no headway would go on for ever.
                RunEnd::Copied if walk.bucket > first => first = walk.bucket,
                RunEnd::Copied => return Err(NoHashWalk::Unreadable),
                end => return Err(no_walk(end)),
            }
            let held = walk.ended_ns.saturating_sub(walk.began_ns);
            walked.held_ns = walked.held_ns.max(held);
            walked.torn = walk.torn;
            let clock = JiffyClock {
                now: walk.jiffies,
                hertz: self.hertz,
            };
            let mut number = None;
            let copied = usize::try_from(walk.copied).unwrap_or(0);
            for index in 0..copied.min(self.program.entries.len()) {
                let place = CopiedPlace {
                    entries: &self.program.entries,
                    index,
                };
                let (netns, of_bucket) = place.netns_and_bucket();
                if number.replace(of_bucket) != Some(of_bucket) {
                    bucket.clear();
                }
                // An entry that went and came back to the same bucket leads to those behind it once more.
                let address = place.address();
                if bucket.contains(&address) {
                    continue;
                }
                bucket.push(address);
                match CopiedFound::new(place, &self.layout, clock) {
                    Some(found) => each(netns, &found),
                    None => walked.unreadable += 1,
                }
            }
            if walk.bucket >= walk.buckets {
                return Ok(walked);
            }
            self.adjust(held);
        }
    }

    /// Sets how many steps the next run has, by how long the last one held its CPU.
    fn adjust(&mut self, held_ns: u64) {
        let next = if held_ns > HELD_NS / 2 {
            self.steps / 2
        } else if held_ns < HELD_NS / 4 {
            self.steps * 2
        } else {
            self.steps
        };
        self.steps = next.clamp(FEWEST_STEPS, MOST_STEPS);
    }
}
