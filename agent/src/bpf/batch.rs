//! BPF hash maps that are read in batches: a thousand entries a system call, in place of two calls
//! an entry.
//!
//! Minimum kernel: 5.6. An entry that is written during a read may be seen or not, as in any walk
//! of a hash map.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;

use spillway_ebpf::Plain;

/// `enum bpf_cmd` of include/uapi/linux/bpf.h; user-space ABI, never renumbered.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// The kernel's internal number for an unsupported operation (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

/// Entries a call. Most reads take one call; the kernel returns complete buckets, which are much
/// smaller.
const BATCH: usize = 1_024;

/// The part of `union bpf_attr` that batch commands read.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part that commands on one element read.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Makes the system call `bpf`, for commands that aya lacks. `attr` is the part of `union bpf_attr`
/// that the command reads, in the kernel's layout; some commands write to it.
pub(super) fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a plain struct of the size given, and what it points to lives until the
    // call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// A hash map of the BPF side, for reads of all its entries.
#[derive(Debug)]
pub struct BatchMap<K, V> {
    map: MapData,
    keys: Vec<K>,
    values: Vec<V>,
    of: PhantomData<(K, V)>,
}

impl<K: Plain + Default, V: Plain + Default> BatchMap<K, V> {
    /// Wraps a map; `None` if its keys or values have other sizes.
    pub(super) fn over(map: MapData) -> Option<Self> {
        let fits = map.info().is_ok_and(|info| {
            (info.key_size() as usize, info.value_size() as usize)
                == (size_of::<K>(), size_of::<V>())
        });
        fits.then(|| Self { map, keys: Vec::new(), values: Vec::new(), of: PhantomData })
    }

    /// Reads every entry once.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel stops the read; entries until then have been passed on.
    pub fn read(&mut self, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
        self.keys.resize(BATCH, K::default());
        self.values.resize(BATCH, V::default());
        let (mut from, mut next) = (0u32, 0u32);
        let mut first = true;
        loop {
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { (&raw const from) as u64 },
                out_batch: (&raw mut next) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: BATCH as u32,
                map_fd: self.fd(),
                ..BatchAttr::default()
            };
            let outcome = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
            let ended = match &outcome {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(_) => return outcome.map(drop),
            };
            let count = (attr.count as usize).min(BATCH);
            self.keys
                .iter()
                .zip(&self.values)
                .take(count)
                .for_each(|(key, value)| each(key, value));
            if ended {
                return Ok(());
            }
            (from, first) = (next, false);
        }
    }

    /// Removes an entry and returns its value; `None` if there is none. Before Linux 5.14 these are
    /// two calls, and an update between them is lost.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses.
    pub fn take(&mut self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let mut attr = ElementAttr {
            map_fd: self.fd(),
            key: std::ptr::from_ref(key) as u64,
            value: (&raw mut value) as u64,
            ..ElementAttr::default()
        };
        let mut taken = bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr);
        if taken.as_ref().is_err_and(|error| error.raw_os_error() == Some(ENOTSUPP)) {
            taken = bpf(BPF_MAP_LOOKUP_ELEM, &mut attr).and_then(|_| {
                attr.value = 0;
                bpf(BPF_MAP_DELETE_ELEM, &mut attr)
            });
        }
        match taken {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an entry.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses, for example because the map is full.
    pub fn put(&mut self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = ElementAttr {
            map_fd: self.fd(),
            key: std::ptr::from_ref(key) as u64,
            value: std::ptr::from_ref(value) as u64,
            ..ElementAttr::default()
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    fn fd(&self) -> u32 {
        self.map.fd().as_fd().as_raw_fd() as u32
    }
}
