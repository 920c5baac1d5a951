//! Accept queues of every listening UNIX socket, in every network namespace.
//!
//! No tracepoint reports that such a socket begins or ends to listen. So `find_unix` walks every
//! open file every ten seconds, and reads the name and queue of each listener; `scan_unix` reads
//! the queues of those that found room in the map. If a socket has closed since and its memory
//! belongs to another, the inode number differs: it is reused only after four billion others.
//! `list_unix_accepted` walks every open file while connections wait at a pool of workers, and
//! reads which of them hold a connection.
//!
//! - Hooks: `iter/task_file`, `int (struct bpf_iter__task_file *ctx)`; `iter/bpf_map_elem`, `int
//!   (struct bpf_iter__bpf_map_elem *ctx)`.
//! - Minimum kernel: 5.9 (iterators over the elements of a map).
//! - Cost: a walk of every open file every ten seconds, and once a second or less often while
//!   connections wait at a pool; a read of each listener a scan.
//! - Does not see: a listener before it is found, and one that no process holds; the age of the
//!   head of a queue, which the kernel does not record.

use core::ffi::c_void;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use spillway_ebpf::{
    KnownUnix, Loss, TCP_ESTABLISHED, TCP_LISTEN, UNIX_LISTENERS_MAX, UNIX_NAME_LEN,
    UnixAcceptedSample, UnixFoundSample, UnixSample,
};

use crate::{
    kernel_read::{Helper, IterMeta, IterTaskFile, Reading as _, emit, offset},
    shares::{self, Shares},
    sock::{inode_of, socket_of, uid_of},
    tcp_listeners::outside,
};

const AF_UNIX: u16 = 1;
const SOCK_STREAM: u16 = 1;
const SOCK_SEQPACKET: u16 = 5;
/// Bytes of a `sockaddr_un` before its path.
const FAMILY_LEN: usize = 2;

/// Known listeners by socket address.
#[map]
static UNIX_LISTENERS: HashMap<u64, KnownUnix> = HashMap::with_max_entries(UNIX_LISTENERS_MAX, 0);

/// Number of known listeners by owner.
#[map]
static UNIX_SHARES: Shares = Shares::with_max_entries(UNIX_LISTENERS_MAX, 0);

/// Number of times that a listener found no room. While it rises, the reader uses `find_unix`
/// too.
#[map]
static UNIX_OUTSIDE: Array<u64> = Array::with_max_entries(1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn find_unix(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) =
        unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file.cast_const()) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if let Some(mut found) = found(task, file) {
        found.is_known = u32::from(admit(found.sock, found.inode));
        emit(meta, &found);
    }
    0
}

/// Adds a listener to the map if there is room; returns whether it is in the map.
#[inline(always)]
fn admit(sock: u64, inode: u64) -> bool {
    if let Some(known) = UNIX_LISTENERS.get_ptr(sock) {
        // SAFETY: the entry lives while the program runs, and passes do not run concurrently.
        let KnownUnix { inode: before, share } = unsafe { *known };
        if before == inode {
            return true;
        }
        if UNIX_LISTENERS.remove(sock).is_ok() {
            shares::give_back(&UNIX_SHARES, share);
        }
    }
    let share = shares::owner_of(sock as *const c_void);
    if !shares::take(&UNIX_SHARES, UNIX_LISTENERS_MAX, share) {
        outside(&UNIX_OUTSIDE, Loss::ListenerShareFull);
        return false;
    }
    if UNIX_LISTENERS.insert(sock, KnownUnix { inode, share }, 0).is_err() {
        shares::give_back(&UNIX_SHARES, share);
        outside(&UNIX_OUTSIDE, Loss::ListenerMapFull);
        return false;
    }
    true
}

#[inline(always)]
fn found(task: *const c_void, file: *const c_void) -> Option<UnixFoundSample> {
    let sock = socket_of(file)?;
    if !listens(sock)? {
        return None;
    }
    let address = Helper::pointer(sock, offset!(unix_addr))?;
    let length = Helper::read::<u32>(address, offset!(unix_address_len))? as usize;
    let net = Helper::pointer(sock, offset!(sock_net))?;
    Some(UnixFoundSample {
        sock: sock as u64,
        inode: inode_of(sock)?,
        address: address as u64,
        netns: Helper::read(net, offset!(net_inum))?,
        pid: Helper::read(task, offset!(task_tgid))?,
        uid: uid_of(sock)?,
        backlog: Helper::read(sock, offset!(sock_receive_queue_len))?,
        backlog_max: Helper::read(sock, offset!(sock_max_ack_backlog))?,
        is_known: 0,
        // The reader cuts off the bytes behind a shorter name.
        name: Helper::read(address, offset!(unix_address_name) + FAMILY_LEN)?,
        name_len: length.saturating_sub(FAMILY_LEN).min(UNIX_NAME_LEN) as u32,
    })
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_unix_accepted(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) =
        unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file.cast_const()) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if let Some(accepted) = accepted(task, file) {
        emit(meta, &accepted);
    }
    0
}

/// Returns the connection behind `file` if it has a name: that of its listener, which accept()
/// gives it, unless a client has bound its own.
#[inline(always)]
fn accepted(task: *const c_void, file: *const c_void) -> Option<UnixAcceptedSample> {
    let sock = socket_of(file)?;
    let state = u16::from(Helper::read::<u8>(sock, offset!(sock_state))?);
    if Helper::read::<u16>(sock, offset!(sock_family))? != AF_UNIX || state != TCP_ESTABLISHED {
        return None;
    }
    Some(UnixAcceptedSample {
        address: Helper::pointer(sock, offset!(unix_addr))? as u64,
        inode: inode_of(sock)?,
        pid: Helper::read(task, offset!(task_tgid))?,
        reserved: 0,
    })
}

/// `struct bpf_iter__bpf_map_elem` over that map.
#[repr(C)]
pub struct IterUnixElem {
    meta: *mut IterMeta,
    map: *mut c_void,
    key: *mut u64,
    value: *mut KnownUnix,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
pub extern "C" fn scan_unix(ctx: *mut IterUnixElem) -> i32 {
    // SAFETY: the kernel passes a valid context; key and value are null after the last element.
    let (meta, key, value) = unsafe { ((*ctx).meta, (*ctx).key, (*ctx).value) };
    if key.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: both point to an element of UNIX_LISTENERS, whose key and value types these are.
    let (sock, known) = unsafe { (*key as *const c_void, *value) };
    let gone = UnixSample { sock: sock as u64, inode: known.inode, ..UnixSample::GONE };
    let sample = sample(sock, &known).unwrap_or(gone);
    emit(meta, &sample);
    0
}

/// Reads a known listener; `None` if its memory now belongs to another socket, or to none.
#[inline(always)]
fn sample(sock: *const c_void, known: &KnownUnix) -> Option<UnixSample> {
    let backlog = Helper::read(sock, offset!(sock_receive_queue_len))?;
    let backlog_max = Helper::read(sock, offset!(sock_max_ack_backlog))?;
    // Last: the values read above are this listener's if it still is the same.
    (listens(sock)? && inode_of(sock)? == known.inode).then_some(UnixSample {
        sock: sock as u64,
        inode: known.inode,
        backlog,
        backlog_max,
        share: known.share,
        listens: 1,
        reserved: 0,
    })
}

#[inline(always)]
fn listens(sock: *const c_void) -> Option<bool> {
    let kind = || Helper::read::<u16>(sock, offset!(sock_type));
    Some(
        Helper::read::<u16>(sock, offset!(sock_family))? == AF_UNIX
            && u16::from(Helper::read::<u8>(sock, offset!(sock_state))?) == TCP_LISTEN
            && matches!(kind()?, SOCK_STREAM | SOCK_SEQPACKET),
    )
}
