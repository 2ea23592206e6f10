//! The program that copies entries out of the kernel's hash table, and its runs.

use std::{
    fs, io,
    mem::offset_of,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, ProgramArray},
    programs::RawTracePoint,
};
use conntrack_ebpf::walk::{
    AGAIN_MAP, CT_NET, CopiedEntry, ENTRIES, ENTRIES_MAP, NET_INUM, PROGRAM, RunEnd, STEPS,
    WALK_MAP, Walk,
};

use super::{
    NoHashWalk,
    decode::Layout,
    error::{no_walk, not_loaded},
    hertz::{self, Moment, hertz},
    symbols::HashSymbols,
};
use crate::{
    kernel::{Root, btf::Btf, entries::TableEntry},
    sys::{bpf, mapping::MappedArray, netns::Inode},
};

/// The object that the build script made; empty if it had no BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/walk"));

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

/// An entry as the walk finds it.
pub(crate) struct FoundEntry<'a> {
    pub(crate) netns: Inode,
    pub(crate) entry: &'a TableEntry,
    /// It lost a clash, and is in the table in the reply direction only.
    pub(crate) is_clash: bool,
    /// Its time is over; the kernel removes it when it next comes by.
    pub(crate) has_expired: bool,
}

/// The program, ready to run.
pub(crate) struct HashWalk {
    /// Keeps the maps: one of programs is emptied when nobody has it open.
    _ebpf: Ebpf,
    program: OwnedFd,
    walk: MappedArray<Walk>,
    entries: MappedArray<CopiedEntry>,
    layout: Layout,
    hertz: u64,
    symbols: HashSymbols,
    steps: u64,
}

fn array<T: aya::Pod>(
    ebpf: &Ebpf,
    name: &str,
    elements: u32,
) -> Result<MappedArray<T>, NoHashWalk> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        let what = format!("the object has no map {name}");
        return Err(NoHashWalk::NotLoaded(what));
    };
    MappedArray::new(map.fd().as_fd(), elements as usize).map_err(not_loaded)
}

impl HashWalk {
    /// Loads the program. Conntrack has to be loaded; when it is loaded anew another one is needed.
    ///
    /// # Errors
    /// Why there can be none.
    pub(crate) fn new(root: &Root) -> Result<Self, NoHashWalk> {
        if OBJECT.is_empty() {
            return Err(NoHashWalk::LeftOut);
        }
        let symbols = HashSymbols::read(root)?;
        let path = root.sys("kernel/btf/vmlinux");
        let no_btf = |error: &dyn std::fmt::Display| {
            NoHashWalk::Layout(format!("{}: {error}", path.display()))
        };
        let bytes = fs::read(&path).map_err(|error| no_btf(&error))?;
        let vmlinux = Btf::parse(&bytes, None).map_err(|error| no_btf(&error))?;
        let layout = Layout::find(&vmlinux)?;
        let mut ebpf = EbpfLoader::new()
            .override_global(CT_NET, &layout.net, true)
            .override_global(NET_INUM, &layout.inum, true)
            .load(OBJECT)
            .map_err(not_loaded)?;
        let missing = || NoHashWalk::NotLoaded("the object is not complete".to_owned());
        let program: &mut RawTracePoint = ebpf
            .program_mut(PROGRAM)
            .ok_or_else(missing)?
            .try_into()
            .map_err(not_loaded)?;
        program.load().map_err(not_loaded)?;
        let fd = program.fd().map_err(not_loaded)?;
        let program = fd.as_fd().try_clone_to_owned().map_err(not_loaded)?;
        let fd = fd.try_clone().map_err(not_loaded)?;
        let again = ebpf.map_mut(AGAIN_MAP).ok_or_else(missing)?;
        let mut again = ProgramArray::try_from(again).map_err(not_loaded)?;
        again.set(0, &fd, 0).map_err(not_loaded)?;
        let mut made = Self {
            program,
            walk: array(&ebpf, WALK_MAP, 1)?,
            entries: array(&ebpf, ENTRIES_MAP, ENTRIES)?,
            layout,
            hertz: 0,
            symbols,
            steps: FEWEST_STEPS,
            _ebpf: ebpf,
        };
        let first = made.moment()?;
        thread::sleep(hertz::APART);
        made.hertz = hertz(first, made.moment()?).ok_or(NoHashWalk::Jiffies)?;
        Ok(made)
    }

    /// What the clocks show.
    fn moment(&mut self) -> Result<Moment, NoHashWalk> {
        self.begin(None);
        let walk = self.run()?;
        Ok(Moment {
            jiffies: walk.jiffies,
            nanoseconds: walk.began_ns,
        })
    }

    /// How often the kernel has begun another hash table; `None`: it is making one, or it can't be told.
    pub(super) fn generation(&mut self) -> Option<u64> {
        self.begin(None);
        let walk = self.run().ok()?;
        (RunEnd::of(walk.end) == RunEnd::Begun).then_some(walk.generation)
    }

    fn begin(&mut self, only: Option<Inode>) {
        let walk = Walk {
            hash_at: self.symbols.hash,
            size_at: self.symbols.size,
            generation_at: self.symbols.generation,
            only: only.unwrap_or(0).into(),
            steps: self.steps,
            ..Walk::default()
        };
        self.walk.write(0, &walk);
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
        ];
        for (offset, value) in words {
            self.walk.write_word(0, offset, value);
        }
    }

    fn run(&self) -> Result<Walk, NoHashWalk> {
        self.walk
            .write_word(0, offset_of!(Walk, end), RunEnd::NotRun as u64);
        let not_run = |error: io::Error| NoHashWalk::NotRun(error.to_string());
        bpf::run_once(self.program.as_fd()).map_err(not_run)?;
        Ok(self.walk.read(0))
    }

    /// Calls `each` with every entry of this network namespace's table, or of all, until it says that it has enough.
    ///
    /// # Errors
    /// When the walk could not come to its end: what `each` got is not all then.
    pub(crate) fn walk(
        &mut self,
        only: Option<Inode>,
        mut each: impl FnMut(&FoundEntry<'_>) -> bool,
    ) -> Result<HashWalked, NoHashWalk> {
        let mut walked = HashWalked::default();
        self.begin(only);
        match RunEnd::of(self.run()?.end) {
            RunEnd::Begun => {}
            end => return Err(no_walk(end)),
        }
        // Where the bucket of the entries that come next begins.
        let mut bucket: Vec<u64> = Vec::new();
        loop {
            self.make_ready();
            let walk = self.run()?;
            match RunEnd::of(walk.end) {
                RunEnd::Copied => {}
                end => return Err(no_walk(end)),
            }
            let held = walk.ended_ns.saturating_sub(walk.began_ns);
            walked.held_ns = walked.held_ns.max(held);
            walked.torn = walk.torn;
            let mut number = None;
            for index in 0..usize::try_from(walk.copied)
                .unwrap_or(0)
                .min(self.entries.len())
            {
                let copied = self.entries.read(index);
                if number.replace(copied.bucket) != Some(copied.bucket) {
                    bucket.clear();
                }
                // An entry that went and came back to the same bucket leads to those behind it once more.
                if bucket.contains(&copied.address) {
                    continue;
                }
                bucket.push(copied.address);
                let Some(entry) = self.layout.decode(&copied, walk.jiffies, self.hertz) else {
                    walked.unreadable += 1;
                    continue;
                };
                let found = FoundEntry {
                    netns: copied.netns,
                    entry: &entry,
                    is_clash: entry.status.lost_clash(),
                    has_expired: self.layout.has_expired(&copied, walk.jiffies),
                };
                if !each(&found) {
                    return Ok(walked);
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
