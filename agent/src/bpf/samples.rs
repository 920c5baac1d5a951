//! Bytes from an iterator's pass, as samples.

use std::{io, io::Read as _};

use spillway_ebpf::{
    CpuSlotSample, HandleSample, LifeSample, ListenerSample, OutboundConnect, OutboundCount,
    OutboundKey, SocketOwnerSample, TaskSample, UnixFoundSample, UnixSample,
};

use super::IterHandle;

/// A sample type that any bytes of its size are a value of.
///
/// # Safety
///
/// The type must be `repr(C)` without padding, and valid for every bit pattern.
pub unsafe trait Plain: Copy {}

// SAFETY: `repr(C)`, integers and byte arrays alone, laid out without padding.
unsafe impl Plain for TaskSample {}
// SAFETY: as above.
unsafe impl Plain for LifeSample {}
// SAFETY: as above.
unsafe impl Plain for ListenerSample {}
// SAFETY: as above.
unsafe impl Plain for SocketOwnerSample {}
// SAFETY: as above.
unsafe impl Plain for CpuSlotSample {}
// SAFETY: as above.
unsafe impl Plain for HandleSample {}
// SAFETY: as above.
unsafe impl Plain for OutboundKey {}
// SAFETY: as above.
unsafe impl Plain for OutboundCount {}
// SAFETY: as above.
unsafe impl Plain for OutboundConnect {}
// SAFETY: as above.
unsafe impl Plain for UnixFoundSample {}
// SAFETY: as above.
unsafe impl Plain for UnixSample {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}

/// The kernel fills at most 32 KiB a read; twice that leaves it room for a larger page size.
const READ_BYTES: usize = 64 << 10;

/// Makes one pass and hands each sample to `each` as soon as it is read, while it is in the cache.
/// `buffer` is used again by the next pass. Returns how many bytes at the end were no whole sample:
/// none, unless something is wrong.
///
/// # Errors
///
/// Where the pass could not begin, or ended early; what was read until then was handed on.
pub fn pass<T: Plain>(
    iter: &IterHandle,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(T),
) -> io::Result<usize> {
    let mut file = iter.open()?;
    buffer.resize(READ_BYTES, 0);
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(filled),
            Ok(count) => {
                filled += count;
                decode(&buffer[..filled]).for_each(&mut each);
                // The kernel hands out whole samples; should one be cut, the next read has the rest
                // of it.
                let rest = filled % size_of::<T>();
                buffer.copy_within(filled - rest..filled, 0);
                filled = rest;
            }
            // The kernel gives up its turn after a million elements and is asked again.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whole samples in `bytes`; a rest at the end is left out.
pub fn decode<T: Plain>(bytes: &[u8]) -> impl Iterator<Item = T> + '_ {
    // SAFETY: the chunk has the size of `T`, which is valid for any bytes; the read asks for no
    // alignment.
    bytes
        .chunks_exact(size_of::<T>())
        .map(|chunk| unsafe { chunk.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_no_padding() {
        assert_eq!(size_of::<TaskSample>(), 8 * 8 + 2 * 4 + 16);
        assert_eq!(size_of::<LifeSample>(), 8 + 2 * 4);
        assert_eq!(size_of::<ListenerSample>(), 9 * 8 + 16 + 6 * 4 + 4 * 2);
        assert_eq!(size_of::<SocketOwnerSample>(), 8 + 2 * 4);
        assert_eq!(size_of::<HandleSample>(), 2 * 8 + 4 * 4);
        assert_eq!(size_of::<OutboundKey>(), 6 * 4 + 2 * 2);
        assert_eq!(size_of::<OutboundCount>(), 6 * 8);
        assert_eq!(size_of::<UnixFoundSample>(), 2 * 8 + 3 * 4 + 108);
        assert_eq!(size_of::<UnixSample>(), 3 * 8 + 4 * 4);
        assert_eq!(size_of::<OutboundConnect>(), 2 * 8 + size_of::<OutboundKey>() + 4);
    }

    #[test]
    fn a_rest_shorter_than_a_sample_is_left_out() {
        let bytes = [1u8; size_of::<LifeSample>() * 2 + 5];
        let samples: Vec<LifeSample> = decode(&bytes).collect();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[1].pid, 0x0101_0101);
    }
}
