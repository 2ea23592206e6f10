//! Array maps in this process's memory (`BPF_F_MMAPABLE`, 5.5): large elements are written without
//! asking the kernel for as much memory in one piece, and counters are read without bpf(2), which
//! keeps every kprobe program of its CPU from running meanwhile (`bpf_disable_instrumentation` in
//! `bpf_map_copy_value`), for as long as the reader is preempted.

use std::{
    io,
    marker::PhantomData,
    mem::{MaybeUninit, align_of, size_of},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::Pod;

/// The elements of an array map.
#[derive(Debug)]
pub(crate) struct MappedArray<T> {
    /// Of a page, so aligned for words.
    start: NonNull<u64>,
    elements: usize,
    kind: PhantomData<T>,
}

// SAFETY: it owns its mapping, which any thread may write; `&mut self` keeps writers of elements apart.
unsafe impl<T: Send> Send for MappedArray<T> {}
// SAFETY: shared, it can only be read and written by words, and that expects others to write meanwhile.
unsafe impl<T: Sync> Sync for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Words of an element, to which the kernel rounds its size up.
    const WORDS: usize = size_of::<T>().div_ceil(8);

    /// Maps an array of so many `elements`.
    ///
    /// # Errors
    /// If the kernel refuses, as it does for a map that was not made for it.
    pub(crate) fn new(map: BorrowedFd<'_>, elements: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                elements * Self::WORDS * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?,
            elements,
            kind: PhantomData,
        })
    }

    /// Reads an element, word by word: the programs may be writing it, but never half of a word.
    ///
    /// # Panics
    /// If there is no such element.
    pub(crate) fn read(&self, index: usize) -> T {
        const {
            assert!(
                size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8,
                "made of words of 8 bytes"
            );
        }
        self.check(index);
        let mut value = MaybeUninit::<T>::uninit();
        for word in 0..Self::WORDS {
            // SAFETY: within the mapping, and within `value`, which is as large and as aligned.
            unsafe {
                let from = self.start.as_ptr().add(index * Self::WORDS + word);
                let read = ptr::read_volatile(from);
                value.as_mut_ptr().cast::<u64>().add(word).write(read);
            }
        }
        // SAFETY: each word of it was written, and any bytes are a value.
        unsafe { value.assume_init() }
    }

    /// All elements, each read as by [`Self::read`].
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.elements).map(|index| self.read(index))
    }

    /// Writes an element; not in one step, so nobody may be reading it.
    ///
    /// # Panics
    /// If there is no such element.
    pub(crate) fn write(&mut self, index: usize, value: &T) {
        self.check(index);
        // SAFETY: within the mapping; `T` is plain bytes, and its value can't overlap the mapping.
        unsafe {
            ptr::copy_nonoverlapping(
                ptr::from_ref(value).cast::<u8>(),
                self.start.as_ptr().add(index * Self::WORDS).cast::<u8>(),
                size_of::<T>(),
            );
        }
    }

    /// Writes one word of an element, at so many bytes, in one step: the programs may be reading it.
    ///
    /// # Panics
    /// If there is no such word.
    pub(crate) fn write_word(&self, index: usize, offset: usize, value: u64) {
        let place = self.word(index, offset);
        // SAFETY: within the mapping.
        unsafe { ptr::write_volatile(place, value) };
    }

    /// Reads one word of an element, at so many bytes.
    ///
    /// # Panics
    /// If there is no such word.
    #[inline]
    pub(crate) fn read_word(&self, index: usize, offset: usize) -> u64 {
        let place = self.word(index, offset);
        // SAFETY: within the mapping.
        unsafe { ptr::read_volatile(place) }
    }

    /// Changes one word of an element, at so many bytes, in one step if it is as it was read; whether it was.
    ///
    /// # Panics
    /// If there is no such word.
    pub(crate) fn exchange_word(
        &self,
        index: usize,
        offset: usize,
        was: u64,
        becomes: u64,
    ) -> bool {
        let place = self.word(index, offset);
        // SAFETY: an aligned word within the mapping, which is only ever accessed as a whole.
        let word = unsafe { AtomicU64::from_ptr(place) };
        word.compare_exchange(was, becomes, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Where a word of an element is.
    #[inline]
    fn word(&self, index: usize, offset: usize) -> *mut u64 {
        self.check(index);
        assert!(
            offset.is_multiple_of(8) && offset / 8 < Self::WORDS,
            "a word of an element"
        );
        // SAFETY: within the mapping.
        unsafe { self.start.as_ptr().add(index * Self::WORDS + offset / 8) }
    }

    /// How many elements there are.
    pub(crate) const fn len(&self) -> usize {
        self.elements
    }

    fn check(&self, index: usize) {
        assert!(
            index < self.elements,
            "element {index} of {}",
            self.elements
        );
    }
}

impl<P: Pod, const N: usize> MappedArray<[P; N]> {
    /// Writes one part of an element; as [`Self::write`].
    ///
    /// # Panics
    /// If there is no such part.
    pub(crate) fn write_part(&mut self, index: usize, part: usize, value: &P) {
        self.check(index);
        assert!(part < N, "part {part} of {N}");
        // SAFETY: within the mapping; `P` is plain bytes, and its value can't overlap the mapping.
        unsafe {
            let element = self.start.as_ptr().add(index * Self::WORDS).cast::<u8>();
            ptr::copy_nonoverlapping(
                ptr::from_ref(value).cast::<u8>(),
                element.add(part * size_of::<P>()),
                size_of::<P>(),
            );
        }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        let bytes = self.elements * size_of::<T>().next_multiple_of(8);
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
    }
}
