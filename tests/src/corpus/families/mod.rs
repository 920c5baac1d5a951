//! The families: every mechanism by which a process grows, healthy or not, each with its part of
//! the corpus.
//!
//! The split was made by mechanism, before anything was scored: each mechanism has two variants
//! that differ in how growth comes about, and one of them, alternately, is held out. The held-out
//! part therefore covers every kind of growth, and none of its families has been seen while tuning.
//! Changing a family's part invalidates published figures.
//!
//! Growth that is byte for byte a leak's until it stops by itself cannot be distinguished by its
//! memory. The runs contain the signs that distinguish real growth: warm-ups follow a start, and
//! growth with load comes with connections. Families without any such sign are a part of their own:
//! scored and shown, without targets.

mod broad;
mod cgroups;
mod growth;
mod kernel;
mod leaks;
mod load;
mod multi;

use super::{manifest::Part, rng::Rng, run::Plan};

/// Mechanism of growth.
pub struct Family {
    /// Name of the family.
    pub name: &'static str,
    /// Part that its runs belong to.
    pub part: Part,
    /// Number of runs in the corpus; seeds count from 0.
    pub runs: u64,
    /// Description in one sentence.
    pub why: &'static str,
    pub(super) plan: fn(&mut Rng) -> Plan,
}

/// Runs of a leaking family: eight families make about 350 held-out leaks, enough to distinguish
/// 0.95 from 0.92. Rare failures of one mechanism would not show in ten runs of it.
const LEAKS: u64 = 44;

/// Runs of a healthy family. There are more healthy families, so well over half of all runs are
/// negatives.
const HEALTHY: u64 = 40;

/// Runs of a family on hosts of any size: there are 31, and each run is of hours.
const BROAD: u64 = 20;

const fn broad(name: &'static str, plan: fn(&mut Rng) -> Plan, why: &'static str) -> Family {
    Family { name, part: Broad, runs: BROAD, why, plan }
}

const fn leak(
    name: &'static str,
    part: Part,
    plan: fn(&mut Rng) -> Plan,
    why: &'static str,
) -> Family {
    Family { name, part, runs: LEAKS, why, plan }
}

const fn healthy(
    name: &'static str,
    part: Part,
    plan: fn(&mut Rng) -> Plan,
    why: &'static str,
) -> Family {
    Family { name, part, runs: HEALTHY, why, plan }
}

use Part::{Broad, HeldOut, Tuning, Untellable};

/// Families in pairs: the two variants of a mechanism are adjacent.
pub const FAMILIES: &[Family] = &[
    leak(
        "constant-leak-plain",
        Tuning,
        leaks::plain,
        "a small service that forgets to free, at a constant rate",
    ),
    leak(
        "constant-leak-busy",
        HeldOut,
        leaks::busy,
        "a constant leak in a busy service, under its requests' buffers",
    ),
    leak(
        "request-leak-wave",
        Tuning,
        leaks::wave,
        "leaks a little on each request; load follows one daily wave",
    ),
    leak(
        "request-leak-office",
        HeldOut,
        leaks::office,
        "leaks a little on each request; load follows office hours",
    ),
    leak(
        "late-leak-after-fill",
        Tuning,
        leaks::after_fill,
        "a cache fills and stands; long after, a leak begins",
    ),
    leak(
        "late-leak-quiet",
        HeldOut,
        leaks::quiet,
        "steady for hours, until a change of configuration makes it leak",
    ),
    leak(
        "stair-leak-regular",
        Tuning,
        leaks::regular_stairs,
        "each periodic job leaves a block behind",
    ),
    leak(
        "stair-leak-jobs",
        HeldOut,
        leaks::job_stairs,
        "jobs come at odd times, peak, and leave a part behind",
    ),
    leak(
        "gc-leak-minor",
        Tuning,
        leaks::minor_gc,
        "a leak under the sawtooth of one frequent collector",
    ),
    leak(
        "gc-leak-major",
        HeldOut,
        leaks::major_gc,
        "a leak under young collections and rare full ones",
    ),
    leak(
        "gc-leak-purge",
        Tuning,
        leaks::purged,
        "a leak under a cache that is emptied at odd times",
    ),
    leak(
        "gc-leak-odd",
        Tuning,
        leaks::odd_gc,
        "a leak under young collections and full ones at odd times",
    ),
    leak(
        "restart-leak-nightly",
        Tuning,
        multi::nightly,
        "leaks, and is restarted on a timer before it runs out",
    ),
    leak(
        "restart-leak-crash",
        HeldOut,
        multi::crashing,
        "leaks, crashes at irregular times, and leaks again",
    ),
    leak(
        "worker-leak-all",
        Tuning,
        multi::all_workers,
        "all workers of a pool leak slowly under one limit",
    ),
    leak(
        "worker-leak-one",
        HeldOut,
        multi::one_worker,
        "one of many workers leaks, the others do not",
    ),
    leak(
        "accelerating-leak-square",
        Tuning,
        leaks::square,
        "leaks per client while clients grow linearly",
    ),
    leak(
        "accelerating-leak-retry",
        HeldOut,
        leaks::retrying,
        "retries breed retries: the leak's rate doubles and doubles",
    ),
    healthy(
        "cache-fill-lru",
        Tuning,
        growth::lru_fill,
        "a cache fills ever slower towards its capacity",
    ),
    healthy(
        "cache-fill-bulk",
        HeldOut,
        growth::bulk_fill,
        "a cache is loaded in a straight line, then stands",
    ),
    healthy(
        "dotnet-warm-up",
        Tuning,
        growth::dotnet,
        ".NET server GC: segments a core, generation 2 settles",
    ),
    healthy(
        "jvm-warm-up",
        HeldOut,
        growth::jvm,
        "JVM: heap is committed in steps up to -Xmx, metaspace and code settle",
    ),
    healthy(
        "gc-rising-load-go",
        Tuning,
        load::go_gc,
        "Go: live set follows rising load, the heap twice it",
    ),
    healthy(
        "gc-rising-load-node",
        HeldOut,
        load::node_gc,
        "V8: young sawtooth and full collections while load rises",
    ),
    healthy(
        "fragmentation-steps",
        Tuning,
        growth::fragmentation_steps,
        "fragmentation: arena steps that come ever more seldom",
    ),
    healthy(
        "fragmentation-log",
        HeldOut,
        growth::fragmentation_log,
        "fragmentation: growth with the logarithm of time",
    ),
    healthy("daily-load-wave", Tuning, load::wave, "memory follows one daily wave of load"),
    healthy(
        "daily-load-office",
        HeldOut,
        load::office,
        "memory follows office hours, weekends low",
    ),
    healthy(
        "cron-burst",
        Tuning,
        load::cron,
        "a worker swells at every turn of a timer and gives back",
    ),
    healthy(
        "batch-job",
        HeldOut,
        load::batch,
        "jobs of an hour or so read a table in, work on it, and end",
    ),
    healthy(
        "deploy-growth-lazy",
        Tuning,
        growth::lazy_deploy,
        "after a deploy, modules are loaded when first asked for",
    ),
    healthy(
        "deploy-growth-rolling",
        HeldOut,
        multi::rolling,
        "new versions replace old ones, each a bit bigger, each warms up",
    ),
    healthy(
        "arena-pool",
        Tuning,
        growth::arena_pool,
        "threads start up to a pool's size, each with its malloc arena",
    ),
    healthy(
        "arena-connections",
        HeldOut,
        load::arena_connections,
        "stacks and arenas follow connections, and stay",
    ),
    healthy(
        "huge-pages-fault",
        Tuning,
        kernel::huge_fault,
        "memory is touched in huge pages: 2 MiB steps up to a size",
    ),
    healthy(
        "huge-pages-khugepaged",
        HeldOut,
        kernel::khugepaged,
        "khugepaged makes sparse memory huge, slowly, to the end of it",
    ),
    healthy(
        "copy-on-write-workers",
        Tuning,
        kernel::cow_workers,
        "forked workers unshare what they inherited, page by page",
    ),
    healthy(
        "copy-on-write-snapshot",
        HeldOut,
        kernel::cow_snapshot,
        "a store forks to snapshot; parent and child part until it ends",
    ),
    healthy(
        "page-cache-growth",
        Tuning,
        kernel::page_cache,
        "mapped log files grow, anonymous memory does not",
    ),
    healthy(
        "page-cache-leak-shaped",
        HeldOut,
        kernel::leak_shaped_cache,
        "file pages grow in a straight line without end",
    ),
    healthy("mapped-index", Tuning, kernel::mapped_index, "an index is mapped and read in slowly"),
    healthy(
        "mapped-database",
        HeldOut,
        kernel::mapped_database,
        "a database maps its file and works its way through it",
    ),
    healthy(
        "pid-reuse",
        Tuning,
        multi::pid_reuse,
        "short processes, each bigger than the last, under one pid",
    ),
    healthy(
        "process-churn",
        HeldOut,
        multi::churn,
        "a build: compilers come and go, each grows fast and ends",
    ),
    healthy(
        "lossy-scans",
        Tuning,
        kernel::lossy,
        "a sawtooth of which a third of all scans is missing",
    ),
    healthy(
        "host-suspend",
        HeldOut,
        kernel::suspend,
        "the host sleeps for hours, and the cache fills on where it was",
    ),
    healthy("swapped-out", Tuning, kernel::swapped, "cold memory goes to swap and comes back"),
    healthy("steady-service", HeldOut, kernel::steady, "a plain service over days, which breathes"),
    healthy(
        "first-import",
        Untellable,
        load::import,
        "an old process takes in a great lot in a straight line, once",
    ),
    healthy(
        "first-job",
        Untellable,
        load::first_job,
        "an old process builds a table in a straight line, then frees it",
    ),
    broad(
        "birth-leak",
        broad::from_birth,
        "leaks from its first request on, in a process that starts under watch",
    ),
    broad(
        "birth-leak-teeth",
        broad::from_birth_under_teeth,
        "leaks from its first request on, under a collector's teeth",
    ),
    broad(
        "birth-leak-cache",
        broad::from_birth_beside_cache,
        "leaks from its first request on, beside a cache that warms up",
    ),
    broad(
        "shared-leak",
        broad::shared,
        "leaks shared memory, segment by segment, after quiet hours",
    ),
    broad(
        "shared-workers-leak",
        broad::shared_by_workers,
        "leaks memory that all workers of a pool share, after quiet hours",
    ),
    broad(
        "request-leak-uneven",
        broad::by_requests,
        "leaks on each request, at a load that changes from minute to minute",
    ),
    broad(
        "daily-load-leak",
        broad::under_daily_load,
        "leaks after minutes to hours, under a daily load",
    ),
    broad("running-leak", broad::already_running, "leaks already when the agent starts"),
    broad("short-quiet-leak", broad::after_short_quiet, "leaks after ten to thirty quiet minutes"),
    broad(
        "long-quiet-leak",
        broad::after_long_quiet,
        "leaks after half an hour to six quiet hours",
    ),
    broad("collector-leak", broad::collector, "a collector of 45 MB leaks a megabyte a minute"),
    broad("daily-megabytes-leak", broad::megabytes_a_day, "leaks 60 to 110 MB a day"),
    broad("tall-stairs-leak", broad::tall_stairs, "leaks 8 to 48 MB every two to ten minutes"),
    broad("crash-loop-leak", broad::crash_loop, "is killed at its limit every few minutes"),
    broad(
        "long-cycles",
        broad::long_cycles,
        "collections minutes to two hours apart, met at any phase",
    ),
    broad(
        "burst-to-plateau",
        broad::burst_to_plateau,
        "fills within minutes of its start, or of the agent's",
    ),
    broad(
        "running-job",
        broad::running_job,
        "a job that reads its input in, again and again, met at any phase",
    ),
    broad(
        "buffer-pool",
        broad::buffer_pool,
        "memory mapped at the start is filled for up to an hour and a half",
    ),
    broad(
        "heavier-release",
        broad::heavier_release,
        "a new release warms up to more than the one before",
    ),
    broad("connection-memory", broad::for_connections, "memory follows connections over hours"),
    broad("restless", broad::restless, "noise of all periods"),
    broad(
        "tmpfs-leak",
        cgroups::files_left,
        "leaves files in a tmpfs, and grows by nothing itself",
    ),
    broad("kernel-leak", cgroups::kernel_memory, "makes the kernel keep ever more for it"),
    broad("tmpfs-cache", cgroups::tmpfs_cache, "a cache in a tmpfs fills to a size and stops"),
    broad("temporary-files", cgroups::temporary_files, "jobs fill a tmpfs and empty it again"),
    broad(
        "mapped-buffers",
        cgroups::shared_buffers,
        "mapped shared memory fills for up to an hour",
    ),
    broad(
        "connection-buffers",
        cgroups::connection_buffers,
        "memory of the kernel follows connections over hours",
    ),
    broad(
        "sparse-process",
        cgroups::process_beside,
        "a process leaks, and its page tables with it",
    ),
    broad("warm-cache", broad::warm_cache, "a cache fills ever more slowly, for minutes to hours"),
    broad("log-growth", broad::log_growth, "grows with the logarithm of time"),
    broad("straight-boot", broad::straight_boot, "reads its data in a straight line at its start"),
    broad(
        "shared-buffers",
        broad::shared_buffers,
        "buffers in shared memory fill for up to an hour and a half, to their size",
    ),
    broad(
        "runtime-warm-up",
        broad::runtime_warm_up,
        "a runtime's heap, code and arenas settle under young collections",
    ),
];
