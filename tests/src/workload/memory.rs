//! Programs that use memory: one leaks, one fills a cache, one holds exact amounts, one allocates
//! as fast as it can.
//!
//! Growth follows the clock, not the number of turns, so that a busy machine does not change the
//! rate.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::system::{Random, now, pin_to_cpu, ready, say, wait_forever};

const TICK: Duration = Duration::from_millis(100);
const PAGE_BYTES: usize = 4096;
/// Small enough that malloc takes it from its heap, as a leaking program's objects would be.
const LEAKED_OBJECT_BYTES: usize = 16 << 10;
const CACHE_ENTRY_BYTES: usize = 64 << 10;
const LEFT_FILE_BYTES: usize = 64 << 10;
/// Memory that a page of page tables maps.
const TABLE_SPAN_BYTES: usize = 2 << 20;
/// More would show nothing new.
const MOST_THREADS: u32 = 256;

/// Waits, then allocates, touches and forgets memory at a rate, up to a limit.
pub fn leak(rate: u64, limit: u64, after: Duration) -> anyhow::Result<()> {
    ready(None)?;
    std::thread::sleep(after);
    let start = now();
    let mut leaked = 0;
    loop {
        let due = (rate as f64 * start.elapsed().as_secs_f64()) as u64;
        while leaked + LEAKED_OBJECT_BYTES as u64 <= due.min(limit) {
            forget_object()?;
            leaked += LEAKED_OBJECT_BYTES as u64;
        }
        std::thread::sleep(TICK);
    }
}

/// Leaks.
#[inline(never)]
fn forget_object() -> anyhow::Result<()> {
    // SAFETY: malloc takes a size; what it returns is checked before use.
    let object = unsafe { libc::malloc(LEAKED_OBJECT_BYTES) }.cast::<u8>();
    if object.is_null() {
        bail!("malloc of {LEAKED_OBJECT_BYTES} bytes failed");
    }
    // SAFETY: malloc returned that many bytes, which nothing else uses.
    unsafe { touch_pages(object, LEAKED_OBJECT_BYTES, true) };
    Ok(())
}

/// Grows to a size at a rate, then reads and writes its memory.
pub fn cache(rate: u64, size: u64) -> anyhow::Result<()> {
    ready(None)?;
    let start = now();
    let mut random = Random(0x5EED);
    let mut entries: Vec<Box<[u8]>> = Vec::new();
    loop {
        let due = ((rate as f64 * start.elapsed().as_secs_f64()) as u64).min(size)
            / CACHE_ENTRY_BYTES as u64;
        while (entries.len() as u64) < due {
            entries.push(vec![1; CACHE_ENTRY_BYTES].into_boxed_slice());
        }
        for _ in 0..entries.len().min(32) {
            let chosen = random.below(entries.len());
            let byte = random.below(CACHE_ENTRY_BYTES);
            entries[chosen][byte] = entries[chosen][byte].wrapping_add(1);
        }
        std::thread::sleep(TICK);
    }
}

/// Leaves files behind in a tmpfs at a rate, up to a limit. The tmpfs is in a mount namespace of its
/// own, so that it is gone with the process.
pub fn leave_files(rate: u64, limit: u64) -> anyhow::Result<()> {
    let check = |result: i32, what: &str| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).with_context(|| format!("{what} failed")),
    };
    // SAFETY: unshare takes a number alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }, "a mount namespace of its own")?;
    let (root, tmp, tmpfs) = (c"/".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: mount reads NUL-terminated literals, and no data.
    check(unsafe { libc::mount(ptr::null(), root, ptr::null(), private, ptr::null()) }, "mount /")?;
    // SAFETY: as above.
    check(unsafe { libc::mount(tmpfs, tmp, tmpfs, 0, ptr::null()) }, "mount /tmp")?;
    ready(None)?;
    let file = vec![1; LEFT_FILE_BYTES];
    let start = now();
    let mut left = 0;
    loop {
        let due = (rate as f64 * start.elapsed().as_secs_f64()) as u64;
        while left + LEFT_FILE_BYTES as u64 <= due.min(limit) {
            fs::write(format!("/tmp/{left}"), &file).context("cannot leave a file")?;
            left += LEFT_FILE_BYTES as u64;
        }
        std::thread::sleep(TICK);
    }
}

/// Reads a byte of each part of a mapping for which the kernel needs a page of page tables, so that
/// it fills that many bytes of these, and maps nothing but its page of zeroes.
pub fn fill_tables(bytes: u64) -> anyhow::Result<()> {
    let pages = usize::try_from(bytes)?.div_ceil(PAGE_BYTES);
    if pages == 0 {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let length = pages * TABLE_SPAN_BYTES;
    let start = map(length, libc::PROT_READ, flags, None)?;
    // SAFETY: the mapping is that long and readable. A kernel without huge pages, of which one
    // would do for each part, refuses the advice.
    unsafe {
        libc::madvise(start.cast(), length, libc::MADV_NOHUGEPAGE);
        for offset in (0..length).step_by(TABLE_SPAN_BYTES) {
            start.add(offset).read_volatile();
        }
    }
    Ok(())
}

/// Holds exactly that many bytes of each kind, rounded up to whole pages. The anonymous ones are
/// touched by that many threads, and are one mapping with the untouched rest.
pub fn touch(anon: u64, mapped: u64, file: u64, shmem: u64, threads: u32) -> anyhow::Result<()> {
    let mapped = usize::try_from(mapped.max(anon))?;
    if mapped > 0 {
        let start = map_anonymous(mapped)?;
        // SAFETY: the mapping is that long, ours and writable. A kernel without huge pages refuses
        // the advice, which is then not needed.
        unsafe {
            libc::madvise(start.cast(), mapped, libc::MADV_NOHUGEPAGE);
        }
        match threads.min(MOST_THREADS) {
            // SAFETY: the mapping is at least that long, ours and writable.
            0 | 1 => unsafe { touch_pages(start, usize::try_from(anon)?, true) },
            threads => touch_from_threads(start, usize::try_from(anon)?, threads),
        }
    }
    if file > 0 {
        let backing = unlinked_file()?;
        backing.set_len(file).context("cannot grow the temporary file")?;
        let start = map(
            usize::try_from(file)?,
            libc::PROT_READ,
            libc::MAP_SHARED,
            Some(backing.as_raw_fd()),
        )?;
        // SAFETY: the mapping is that long and readable, and the file is that long.
        unsafe { touch_pages(start, usize::try_from(file)?, false) };
    }
    if shmem > 0 {
        // SAFETY: memfd_create reads a NUL-terminated literal.
        let fd = unsafe { libc::memfd_create(c"workload".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("memfd_create failed");
        }
        // SAFETY: the descriptor was just made, is open, and nothing else owns it.
        let memory = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        memory.set_len(shmem).context("cannot grow the memfd")?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let start =
            map(usize::try_from(shmem)?, protection, libc::MAP_SHARED, Some(memory.as_raw_fd()))?;
        // SAFETY: the mapping is that long and writable, and the memfd is that long.
        unsafe { touch_pages(start, usize::try_from(shmem)?, true) };
    }
    ready(None)?;
    wait_forever()
}

/// Touches an equal part from each thread, the rest from the last. The threads stay: if the kernel
/// keeps a count for each CPU or thread, each then holds a part of the truth.
fn touch_from_threads(start: *mut u8, length: usize, threads: u32) {
    let threads = threads as usize;
    let part = length.div_ceil(PAGE_BYTES) / threads * PAGE_BYTES;
    let address = start.expose_provenance();
    let touched = Arc::new(Barrier::new(threads + 1));
    for number in 0..threads {
        let own = if number + 1 == threads { length - part * number } else { part };
        let touched = Arc::clone(&touched);
        std::thread::spawn(move || {
            pin_to_cpu(number);
            let start = ptr::with_exposed_provenance_mut::<u8>(address + part * number);
            // SAFETY: the mapping is `length` bytes long, ours and writable, and no part overlaps
            // another.
            unsafe { touch_pages(start, own, true) };
            touched.wait();
            wait_forever();
        });
    }
    touched.wait();
}

/// Allocates and frees mixed sizes, and now and then enough to need new pages, then prints the
/// speed.
pub fn alloc_loop(lasting: Duration, grow_every: u64) -> anyhow::Result<()> {
    const SLOTS: usize = 1024;
    const GROWTH_BYTES: usize = 1 << 20;
    ready(None)?;
    let mut random = Random(0x5EED);
    let mut slots: Vec<Vec<u8>> = vec![Vec::new(); SLOTS];
    let mut grown: Vec<Vec<u8>> = Vec::new();
    let mut operations = 0u64;
    let start = now();
    while start.elapsed() < lasting {
        for _ in 0..grow_every {
            let size = 16 + random.below(4080);
            let mut block = Vec::with_capacity(size);
            block.push(1);
            slots[random.below(SLOTS)] = std::hint::black_box(block);
        }
        operations += grow_every;
        if grown.len() == 8 {
            grown.clear();
        }
        grown.push(std::hint::black_box(vec![1; GROWTH_BYTES]));
    }
    let secs = start.elapsed().as_secs_f64();
    say(&json!({"ops": operations, "secs": secs, "ops_per_sec": operations as f64 / secs}))
}

/// Maps that many private bytes, which are not touched yet.
fn map_anonymous(length: usize) -> anyhow::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    map(length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
}

/// Maps memory for the rest of the process's life.
fn map(length: usize, protection: i32, flags: i32, fd: Option<i32>) -> anyhow::Result<*mut u8> {
    // SAFETY: the kernel picks the address, so no memory in use is replaced; the result is checked.
    let start =
        unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd.unwrap_or(-1), 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("mmap of {length} bytes failed"));
    }
    Ok(start.cast())
}

/// Writes to random pages of this much memory, from several threads and without end: if there is
/// less, they wait for pages that were swapped out.
pub fn roam(size: u64, threads: u32) -> anyhow::Result<()> {
    let length = usize::try_from(size)?.next_multiple_of(PAGE_BYTES);
    let start = map_anonymous(length)?;
    let address = start.expose_provenance();
    ready(None)?;
    for seed in 0..threads.clamp(1, MOST_THREADS) {
        std::thread::spawn(move || {
            let mut random = Random(u64::from(seed) + 1);
            loop {
                let page = random.below(length / PAGE_BYTES) * PAGE_BYTES;
                let start = ptr::with_exposed_provenance_mut::<u8>(address + page);
                // SAFETY: the mapping is `length` bytes long, ours and writable, and nobody reads
                // what is written.
                unsafe { touch_pages(start, PAGE_BYTES, true) };
            }
        });
    }
    wait_forever()
}

/// Takes a random amount of memory at a time, touches it and gives it back.
pub fn swell(most: u64, seed: u64) -> anyhow::Result<()> {
    let most_pages = usize::try_from(most)? / PAGE_BYTES;
    ready(None)?;
    let mut random = Random(seed.max(1));
    loop {
        touch_and_give_back((random.below(most_pages.max(1)) + 1) * PAGE_BYTES)?;
    }
}

/// Takes that many bytes, touches them and gives them back.
pub fn touch_and_give_back(length: usize) -> anyhow::Result<()> {
    let start = map_anonymous(length)?;
    // SAFETY: the mapping is that long, ours and writable, and nothing points to it once it is
    // touched.
    unsafe {
        touch_pages(start, length, true);
        libc::munmap(start.cast(), length);
    }
    Ok(())
}

/// Reads or writes one byte of each page, so that the kernel maps it.
///
/// # Safety
/// `start` must be valid for `length` bytes, for writing if `write`.
unsafe fn touch_pages(start: *mut u8, length: usize, write: bool) {
    for offset in (0..length).step_by(PAGE_BYTES) {
        // SAFETY: the offset is below the length, for which the caller vouches.
        unsafe {
            if write {
                start.add(offset).write_volatile(1);
            } else {
                start.add(offset).read_volatile();
            }
        }
    }
}

/// Creates an unnamed file on a disk: on tmpfs its pages would count as shared memory.
fn unlinked_file() -> anyhow::Result<File> {
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from));
    let places = [Some(PathBuf::from("/var/tmp")), Some(std::env::temp_dir()), own];
    for place in places.into_iter().flatten() {
        let path = place.join(format!(".spillway-workload-{}", std::process::id()));
        let Ok(file) = File::options().read(true).write(true).create_new(true).open(&path) else {
            continue;
        };
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        if !on_tmpfs(&file) {
            return Ok(file);
        }
    }
    bail!("no place on a disk for a temporary file\n  hint: make /var/tmp writable, on a disk")
}

fn on_tmpfs(file: &File) -> bool {
    // SAFETY: statfs is plain data, for which all zeroes is a valid value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: fstatfs writes one statfs through the pointer, which lives until the call returns.
    let read = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) };
    read == 0 && stat.f_type == libc::TMPFS_MAGIC
}
