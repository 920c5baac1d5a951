//! Samples from the bytes that BPF programs write.

use std::{
    fs::File,
    io::{self, Read as _},
};

use aya::Pod;
use spillway_ebpf::Plain;

use super::IterHandle;

/// A struct shared with the BPF side, in the form that aya's loader and maps accept.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct SharedStruct<T>(pub T);

// SAFETY: `Plain` types have no padding and are valid for any bytes, and the wrapper adds nothing.
unsafe impl<T: Plain + 'static> Pod for SharedStruct<T> {}

/// Maximum bytes of one read. The kernel fills at most 32 KiB; twice that leaves room for a larger
/// page size.
const READ_BYTES: usize = 64 << 10;

/// Makes one pass, and calls `each` with each sample as soon as it is read, while it is in the
/// cache. `buffer` is reused by the next pass. Returns the number of bytes at the end that were not
/// a complete sample: zero, unless something is wrong.
///
/// # Errors
///
/// Returns an error if the pass could not begin or ended early; samples read until then have been
/// passed on.
pub fn pass<T: Plain>(
    iter: &IterHandle,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(T),
) -> io::Result<usize> {
    let mut pass = OpenPass::begin(iter)?;
    loop {
        if let Some(rest) = pass.read(buffer, &mut each)? {
            return Ok(rest);
        }
    }
}

/// A pass that is made by one read at a time. Between them the kernel keeps its place, and nothing
/// is locked.
#[derive(Debug)]
pub struct OpenPass {
    file: File,
    /// Bytes in the buffer of a sample that is not complete.
    filled: usize,
}

impl OpenPass {
    /// Begins a pass.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses it.
    pub fn begin(iter: &IterHandle) -> io::Result<Self> {
        Ok(Self { file: iter.open()?, filled: 0 })
    }

    /// Reads once, and calls `each` with each sample. `buffer` is the same until the end. Returns
    /// the number of bytes that were not a complete sample at the end of the pass, and `None`
    /// before.
    ///
    /// # Errors
    ///
    /// Returns an error if the pass ended early.
    pub fn read<T: Plain>(
        &mut self,
        buffer: &mut Vec<u8>,
        each: impl FnMut(T),
    ) -> io::Result<Option<usize>> {
        buffer.resize(READ_BYTES, 0);
        match self.file.read(&mut buffer[self.filled..]) {
            Ok(0) => return Ok(Some(self.filled)),
            Ok(count) => {
                let filled = self.filled + count;
                decode(&buffer[..filled]).for_each(each);
                // The kernel writes complete samples; if one is cut, the next read has its rest.
                self.filled = filled % size_of::<T>();
                buffer.copy_within(filled - self.filled..filled, 0);
            }
            // The kernel yields after a million elements, and some programs end a read much sooner:
            // both expect another one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}

/// Decodes the complete samples in `bytes`, and ignores a rest at the end.
pub fn decode<T: Plain>(bytes: &[u8]) -> impl Iterator<Item = T> + '_ {
    // SAFETY: the chunk has the size of `T`, which is valid for any bytes; the read needs no
    // alignment.
    bytes
        .chunks_exact(size_of::<T>())
        .map(|chunk| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use spillway_ebpf::LifeSample;

    use super::*;

    #[test]
    fn rest_shorter_than_a_sample_is_ignored() {
        let bytes = [1u8; size_of::<LifeSample>() * 2 + 5];
        let samples: Vec<LifeSample> = decode(&bytes).collect();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[1].pid, 0x0101_0101);
    }
}
