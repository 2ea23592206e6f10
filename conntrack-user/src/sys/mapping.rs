//! Array maps in this process's memory (`BPF_F_MMAPABLE`, 5.5): large elements are written without
//! asking the kernel for as much memory in one piece.

use std::{
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
};

use aya::Pod;

/// The elements of an array map, for writing.
#[derive(Debug)]
pub struct MappedArray<T> {
    start: NonNull<u8>,
    elements: usize,
    kind: PhantomData<T>,
}

// SAFETY: it owns its mapping, which any thread may write; `&mut self` keeps writers apart.
unsafe impl<T: Send> Send for MappedArray<T> {}
// SAFETY: shared, it can't be used at all.
unsafe impl<T: Sync> Sync for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// The kernel rounds the size of an element up to this.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps an array of so many `elements`.
    ///
    /// # Errors
    /// If the kernel refuses, as it does for a map that was not made for it.
    pub fn new(map: BorrowedFd<'_>, elements: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                elements * Self::STRIDE,
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

    /// Writes an element; not in one step, so nobody may be reading it.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn write(&mut self, index: usize, value: &T) {
        assert!(
            index < self.elements,
            "element {index} of {}",
            self.elements
        );
        // SAFETY: within the mapping; `T` is plain bytes, and its value can't overlap the mapping.
        unsafe {
            ptr::copy_nonoverlapping(
                ptr::from_ref(value).cast::<u8>(),
                self.start.as_ptr().add(index * Self::STRIDE),
                size_of::<T>(),
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
