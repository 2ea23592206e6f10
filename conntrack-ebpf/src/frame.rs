//! Which new flow made the kernel evict: the contexts of `early_drop` that are open in a task.
//!
//! `early_drop` runs in process context with softirqs enabled, so one context can be interrupted
//! by a softirq that opens another one. A softirq ends before the task that it interrupted goes
//! on, and a preempted task keeps its number, so the contexts of one task are a stack: the
//! innermost open one is the cause. A probe can be skipped by the kernel's recursion guard; each
//! context therefore has an id, and an end that does not fit makes the innermost one tainted:
//! what it evicted since is "cause unknown", never somebody else's.

use crate::{
    owner::Party,
    record::{Origin, Tuple},
};

/// One call of `early_drop` that has not returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// Names the call: same value at begin and end, differs between calls open at once.
    pub id: u64,
    /// `struct net *` of the table that is full.
    pub net: u64,
    /// Tick (jiffies) at the begin.
    pub tick: u64,
    /// The new flow; valid if `known` is not 0.
    pub cause: Tuple,
    /// Where its packet came from.
    pub origin: Origin,
    /// Whose flow it is.
    pub party: Party,
    /// Entries evicted so far.
    pub evicted: u32,
    /// 1: `cause` is filled in.
    pub known: u8,
    /// 1: another context's end was seen here, so `cause` may be wrong.
    pub tainted: u8,
    /// 1: the flow came from ctnetlink or BPF, not from a packet.
    pub request: u8,
    /// `FLAG_*` for records about this flow.
    pub flags: u8,
    /// Always 0, so that no byte is undefined.
    reserved: u32,
}

/// The open contexts of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frames {
    depth: u32,
    reserved: u32,
    outer: Frame,
    inner: Frame,
}

impl Frames {
    /// How many contexts are open.
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// No context; what a task's element begins with.
    // SAFETY: `repr(C)` integers, and arrays of them: all zero is a value.
    pub const EMPTY: Self = unsafe { core::mem::zeroed() };

    /// Where the next context is written before [`Frames::open`].
    ///
    /// In place, because the stack of a program is small. There can't be more than two contexts
    /// (process context and the softirq inside it), so with that many open the end of the inner
    /// one was missed: it makes room.
    #[inline(always)]
    pub fn vacant(&mut self, tick: u64, max_age: u64) -> &mut Frame {
        if self.depth == 1 && tick.wrapping_sub(self.outer.tick) > max_age {
            // Its end was missed, long ago.
            self.depth = 0;
        }
        if self.depth == 0 {
            return &mut self.outer;
        }
        self.depth = 1;
        &mut self.inner
    }

    /// Opens the context that was written to [`Frames::vacant`].
    #[inline(always)]
    pub fn open(&mut self) {
        self.depth += 1;
    }

    /// The innermost open context, unless it is older than `max_age` ticks (its end was missed).
    #[inline(always)]
    pub fn top(&mut self, tick: u64, max_age: u64) -> Option<&mut Frame> {
        let frame = match self.depth {
            1 => &mut self.outer,
            2 => &mut self.inner,
            _ => return None,
        };
        (tick.wrapping_sub(frame.tick) <= max_age).then_some(frame)
    }

    /// Closes the context `id` and, with it, whatever was left open inside it.
    ///
    /// If there is no such context its begin was missed: the innermost one becomes tainted.
    #[inline(always)]
    pub fn pop(&mut self, id: u64) -> Option<&Frame> {
        if self.depth >= 2 && self.inner.id == id {
            self.depth = 1;
            return Some(&self.inner);
        }
        if self.depth >= 1 && self.outer.id == id {
            if self.depth == 2 {
                // The inner end was missed; its evictions may have been charged here.
                self.outer.tainted = 1;
            }
            self.depth = 0;
            return Some(&self.outer);
        }
        match self.depth {
            1 => self.outer.tainted = 1,
            2 => self.inner.tainted = 1,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push_at(frames: &mut Frames, id: u64, tick: u64) {
        *frames.vacant(tick, 50) = Frame {
            id,
            tick,
            ..Frame::default()
        };
        frames.open();
    }

    fn push(frames: &mut Frames, id: u64) {
        push_at(frames, id, 100);
    }

    #[test]
    fn the_softirq_inside_is_the_cause_while_it_lasts() {
        let mut frames = Frames::default();
        push(&mut frames, 1);
        push(&mut frames, 2);
        assert_eq!(frames.top(100, 50).map(|frame| frame.id), Some(2));
        assert_eq!(frames.pop(2).map(|frame| frame.id), Some(2));
        assert_eq!(frames.top(100, 50).map(|frame| frame.id), Some(1));
        assert_eq!(frames.pop(1).map(|frame| frame.tainted), Some(0));
        assert_eq!(frames.depth(), 0);
        assert_eq!(frames.top(100, 50), None);
    }

    #[test]
    fn a_missed_begin_taints_whom_it_could_be_charged_to() {
        let mut frames = Frames::default();
        push(&mut frames, 1);
        assert_eq!(frames.pop(2), None);
        assert_eq!(frames.top(100, 50).map(|frame| frame.tainted), Some(1));
        assert_eq!(frames.pop(1).map(|frame| frame.id), Some(1));
        assert_eq!(frames.depth(), 0);
    }

    #[test]
    fn a_missed_end_is_swept_by_the_outer_one() {
        let mut frames = Frames::default();
        push(&mut frames, 1);
        push(&mut frames, 2);
        assert_eq!(frames.pop(1).map(|frame| frame.tainted), Some(1));
        assert_eq!(frames.depth(), 0);
    }

    #[test]
    fn missed_ends_do_not_block_what_comes_after() {
        let mut frames = Frames::default();
        for id in 1..100 {
            push(&mut frames, id);
            assert_eq!(frames.top(100, 50).map(|frame| frame.id), Some(id));
        }
        assert_eq!(frames.depth(), 2);
        assert_eq!(frames.pop(99).map(|frame| frame.id), Some(99));
        push(&mut frames, 200);
        assert_eq!(frames.pop(200).map(|frame| frame.tainted), Some(0));
    }

    #[test]
    fn a_stale_outer_context_makes_room() {
        let mut frames = Frames::default();
        push(&mut frames, 1);
        push_at(&mut frames, 2, 151);
        assert_eq!(frames.depth(), 1);
        assert_eq!(frames.pop(2).map(|frame| frame.tainted), Some(0));
        assert_eq!(frames.depth(), 0);
    }

    #[test]
    fn a_stale_context_is_nobodys_cause() {
        let mut frames = Frames::default();
        push(&mut frames, 1);
        assert_eq!(frames.top(151, 50), None);
        assert_eq!(frames.top(150, 50).map(|frame| frame.id), Some(1));
    }
}
