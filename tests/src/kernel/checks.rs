//! List of checks, and the result of one.

use std::{fmt, io, time::Duration};

use spillway_agent::bpf::Probe;

use crate::{
    agent, arrivals, containment, faults,
    guest::{self, is_asked_for, is_thorough},
    handles, life, limits, listeners, memory, neighbour, open_files, outbound, packaged, pressure,
    reconcile, requests, resets,
    rungs::{self, Prepared, Rung, rungs},
    service, shed, silent, sojourns, stress, survival, swapped, uninstall, units, unix,
};

/// Result of a check that passed.
pub struct Seen {
    /// Number of items compared: processes, listeners, births and deaths, samples.
    pub events: u64,
    /// Figures for a reader.
    pub detail: String,
}

/// Error of a check that cannot run on this kernel or as this user, with the reason.
#[derive(Debug)]
pub struct NotOffered(pub String);

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotOffered {}

impl From<io::Error> for NotOffered {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Subject of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// One probe.
    Probe(Probe),
    /// Memory pressure, which no probe reads.
    Pressure,
    /// Limits on cgroups.
    Limit,
    /// Bounds on accept queues.
    Shed,
    /// Limits on systemd's units.
    Unit,
    /// The agent's own program.
    Agent,
    /// The agent's package.
    Package,
}

impl About {
    /// Returns its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe(probe) => probe.name(),
            Self::Pressure => "pressure",
            Self::Limit => "limit",
            Self::Shed => "shed",
            Self::Unit => "limit_of_unit",
            Self::Agent => "agent",
            Self::Package => "package",
        }
    }
}

/// Check of one subject, on one of the rungs on which it can be read.
pub struct Check {
    /// Subject.
    pub about: About,
    /// Rung that the sensors are restricted to.
    pub rung: Rung,
    /// Name of the property that is compared with the truth.
    pub what: &'static str,
    /// Time limit. Emulated kernels are some fifteen times slower than hardware: the limits catch
    /// hangs, not slowness.
    pub limit: Duration,
    /// Set if it starts sensors of its own, because it depends on the state before they started.
    pub fresh: bool,
    run: Run,
}

type Run = fn(&mut Prepared, Rung) -> anyhow::Result<Seen>;

impl Check {
    /// Returns its unique name.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.about.name(), rungs::name(self.about, self.rung), self.what)
    }

    /// Compares the probe with the truth.
    pub fn run(&self, prepared: &mut Prepared) -> anyhow::Result<Seen> {
        (self.run)(prepared, self.rung)
    }

    /// Returns the machines that run it instead of this one. `None` if it runs here, as every check
    /// does with `--thorough`, if it is chosen by name, or on a machine without a name.
    pub fn elsewhere(&self) -> Option<&'static [&'static str]> {
        let here = guest::machine().filter(|_| !is_asked_for())?;
        let (.., machines) =
            ON_SOME.iter().find(|(about, what, _)| *about == self.about && *what == self.what)?;
        (!machines.contains(&&*here)).then_some(*machines)
    }
}

/// Rungs on which a check runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Every,
    /// Like `Every`, with sensors that start within the check.
    EveryFresh,
    Bpf,
    /// Rungs that load no BPF program.
    WithoutBpf,
    /// The best rung, because what is compared is read from the same files on every rung.
    Best,
}

type Row = (About, On, &'static str, Run);

const ROWS: [Row; 81] = [
    (About::Probe(Probe::ProcessMemory), On::Every, "touched", memory::touched),
    (About::Probe(Probe::ProcessMemory), On::Every, "mapped", memory::mapped),
    (About::Probe(Probe::ProcessMemory), On::Every, "peak", memory::peak),
    (About::Probe(Probe::ProcessMemory), On::Every, "identity", memory::identity),
    (About::Probe(Probe::ProcessMemory), On::Bpf, "complete", memory::complete),
    (About::Probe(Probe::ProcessMemory), On::Every, "eight threads", memory::eight_threads),
    (About::Probe(Probe::ProcessMemory), On::Every, "cgroup", limits::own),
    (About::Probe(Probe::ProcessMemory), On::Best, "limit of the parent", limits::parents),
    (About::Probe(Probe::ProcessMemory), On::Best, "charges", limits::charges),
    (About::Probe(Probe::ProcessMemory), On::Bpf, "programs", memory::programs),
    (About::Probe(Probe::ProcessLife), On::Bpf, "exec and exit", life::exec_and_exit),
    (About::Probe(Probe::ProcessLife), On::Bpf, "short lives", life::short_lives),
    (About::Probe(Probe::ProcessLife), On::WithoutBpf, "two scans", life::two_scans),
    (About::Probe(Probe::FaultSamples), On::Bpf, "growth", faults::growth),
    (About::Probe(Probe::ProcessHandles), On::Every, "held", handles::held),
    (About::Probe(Probe::OpenFiles), On::Bpf, "writer", open_files::writer),
    (
        About::Probe(Probe::AcceptQueue),
        On::EveryFresh,
        "depth and owner",
        listeners::depth_and_owner,
    ),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "as sock_diag", listeners::as_sock_diag),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "listed", listeners::listed),
    (About::Probe(Probe::AcceptQueue), On::Every, "in a container", listeners::in_container),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "age of the head", listeners::age_of_the_head),
    (About::Probe(Probe::AcceptQueue), On::Every, "overflows", listeners::overflows),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "arrivals", arrivals::counted),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "found empty", arrivals::found_empty),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "arrivals under load", arrivals::under_load),
    (About::Probe(Probe::AcceptQueue), On::Bpf, "shared address", arrivals::shared_address),
    (About::Probe(Probe::UnixQueue), On::EveryFresh, "depth and owner", unix::depth_and_owner),
    (About::Probe(Probe::UnixQueue), On::Bpf, "as sock_diag", unix::as_sock_diag),
    (About::Probe(Probe::UnixQueue), On::Every, "other namespace", unix::other_namespace),
    (About::Probe(Probe::UnixQueue), On::Bpf, "reused memory", unix::reused_memory),
    (About::Probe(Probe::UnixQueue), On::Bpf, "stuck worker", unix::stuck_worker),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "known delay", sojourns::known_delay),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "IPv6", sojourns::over_ipv6),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "blocking accept", sojourns::blocking_accept),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "shared port", sojourns::shared_port),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "SYN cookies", sojourns::syn_cookies),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "nothing stays", sojourns::nothing_stays),
    (About::Probe(Probe::AcceptSojourn), On::Bpf, "cost", sojourns::cost),
    (About::Probe(Probe::AcceptSojourn), On::WithoutBpf, "age of the head", listeners::head_alone),
    (About::Probe(Probe::OutboundConnects), On::Bpf, "how they end", outbound::how_they_end),
    (About::Probe(Probe::OutboundConnects), On::Bpf, "IPv6", outbound::over_ipv6),
    (About::Probe(Probe::OutboundConnects), On::Bpf, "IPv4 through IPv6", outbound::mapped),
    (About::Probe(Probe::OutboundConnects), On::Bpf, "workers", outbound::workers),
    (About::Probe(Probe::OutboundConnects), On::Bpf, "other namespace", outbound::other_namespace),
    (About::Probe(Probe::OutboundConnects), On::Bpf, "no local port", outbound::no_local_port),
    (
        About::Probe(Probe::OutboundConnects),
        On::Bpf,
        "unreachable host",
        outbound::unreachable_host,
    ),
    (About::Probe(Probe::OutboundConnects), On::EveryFresh, "full map", outbound::full_map),
    (About::Probe(Probe::Requests), On::Bpf, "stuck worker", requests::stuck_worker),
    (About::Probe(Probe::Requests), On::Every, "in flight", requests::in_flight),
    (About::Probe(Probe::Requests), On::Every, "back to back", requests::back_to_back),
    (About::Probe(Probe::Requests), On::Every, "abandoned", requests::abandoned),
    (About::Probe(Probe::Requests), On::Bpf, "newcomers", requests::newcomers),
    (About::Pressure, On::Every, "readable", pressure::readable),
    (About::Pressure, On::Every, "throttled cgroup", pressure::throttled_cgroup),
    (About::Limit, On::Every, "held", containment::held),
    (About::Limit, On::Every, "refused", containment::refused),
    (About::Limit, On::Every, "others", containment::changed_by_others),
    (About::Limit, On::Every, "by hand", containment::by_hand),
    (About::Limit, On::Every, "over", containment::over),
    (About::Limit, On::Every, "never wider", containment::never_wider),
    (About::Limit, On::Every, "backstop", containment::backstop),
    (About::Limit, On::Every, "slowed", containment::slowed),
    (About::Limit, On::Every, "thrashing", containment::thrashing),
    (About::Limit, On::Every, "killed anywhere", containment::killed),
    (About::Limit, On::Every, "killed anywhere, with all", containment::killed_with_all),
    (About::Limit, On::Every, "undone by hand anywhere", containment::overtaken),
    (About::Limit, On::Every, "divided", containment::divided),
    (About::Limit, On::Every, "divided and over", containment::divided_and_over),
    (About::Limit, On::Every, "divided and used", containment::divided_and_used),
    (About::Limit, On::Every, "replaced", containment::replaced),
    (About::Limit, On::Every, "gathered", containment::gathered),
    (About::Limit, On::Every, "divided, killed anywhere", containment::divided_and_killed),
    (About::Limit, On::Every, "racing allocators", containment::racing),
    (About::Shed, On::Every, "other namespace", shed::other_namespace),
    (About::Shed, On::Every, "shared address", shed::shared_address),
    (About::Shed, On::Every, "resets", resets::own_namespace),
    (About::Shed, On::Every, "resets, killed anywhere", resets::killed),
    (About::Agent, On::Every, "doctor", agent::doctor),
    (About::Agent, On::Every, "verified", agent::verified),
    (About::Agent, On::Every, "low RLIMIT_MEMLOCK", survival::low_memlock),
    // The last: nothing undoes it.
    (About::Agent, On::Every, "lockdown", survival::lockdown),
];

/// Checks that need a whole Debian; each starts its units and stops them.
const ROWS_OF_UNITS: [Row; 22] = [
    (About::Unit, On::Every, "running", units::running),
    (About::Unit, On::Every, "lasting", units::lasting),
    (About::Unit, On::Every, "all properties", units::all_properties),
    (About::Unit, On::Every, "wiped", units::wiped),
    (About::Unit, On::Every, "set by others", units::set_by_others),
    (About::Unit, On::Every, "restarted", units::restarted),
    (About::Unit, On::Every, "killed anywhere", units::killed),
    (About::Unit, On::Every, "silent bus", silent::bus),
    (About::Unit, On::Every, "scope", units::scope),
    (About::Unit, On::Every, "shared", units::shared),
    (About::Unit, On::Every, "agent", units::agent),
    (About::Unit, On::Every, "without enforce.conf", units::without_enforce_conf),
    (About::Unit, On::Every, "notified", service::notified),
    (About::Unit, On::Every, "watchdog", service::watchdog),
    (About::Unit, On::Every, "swap", swapped::swap),
    (About::Unit, On::Every, "neighbour without the agent", neighbour::without),
    (About::Unit, On::Every, "neighbour with the agent", neighbour::with),
    (About::Unit, On::Every, "kubelet", reconcile::kubelet),
    (About::Unit, On::Every, "everybody waits for memory", stress::storm),
    (About::Unit, On::Every, "uninstall", uninstall::uninstall),
    (About::Package, On::Every, "purged", packaged::purged),
    (About::Package, On::Every, "upgraded", packaged::upgraded),
];

/// The oldest and the newest kernel, and this host, which may have another version of the memory
/// controller.
const OLDEST_NEWEST_AND_HOST: &[&str] = &["5.10", "7.2", "host"];
const OLDEST_AND_HOST: &[&str] = &["5.10", "host"];
const NEWEST_AND_HOST: &[&str] = &["7.2", "host"];

/// Checks that run on some of the machines of `cargo xtask vm` only, by the names of those
/// machines: they take long, and their results hardly depend on the version of the kernel or of
/// systemd. On the kernels between, each rung of each probe is still compared with the truth once.
///
/// The steps at which an agent is killed or overtaken are its own and the same everywhere: the
/// oldest and the newest kernel share these checks. `held` and `divided` show on every kernel that
/// a limit works and kills nothing, `touched` and `identity` that processes are read, `abandoned`
/// and `newcomers` that requests are counted, `how they end` that connects are. An agent answers
/// systemd's notices and its watchdog in the same way everywhere.
const ON_SOME: [(About, &str, &[&str]); 48] = [
    (About::Probe(Probe::ProcessMemory), "peak", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::ProcessMemory), "complete", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::ProcessLife), "short lives", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::AcceptQueue), "overflows", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::AcceptQueue), "arrivals under load", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::AcceptSojourn), "blocking accept", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::AcceptSojourn), "shared port", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::AcceptSojourn), "nothing stays", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::AcceptSojourn), "cost", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::OutboundConnects), "IPv6", OLDEST_AND_HOST),
    (About::Probe(Probe::OutboundConnects), "IPv4 through IPv6", OLDEST_AND_HOST),
    (About::Probe(Probe::OutboundConnects), "workers", OLDEST_AND_HOST),
    (About::Probe(Probe::OutboundConnects), "full map", OLDEST_AND_HOST),
    (About::Probe(Probe::UnixQueue), "stuck worker", OLDEST_NEWEST_AND_HOST),
    (About::Probe(Probe::Requests), "in flight", OLDEST_AND_HOST),
    (About::Probe(Probe::Requests), "back to back", OLDEST_AND_HOST),
    (About::Agent, "low RLIMIT_MEMLOCK", OLDEST_NEWEST_AND_HOST),
    (About::Agent, "lockdown", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "refused", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "others", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "by hand", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "over", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "never wider", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "backstop", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "divided and over", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "divided and used", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "replaced", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "gathered", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "slowed", OLDEST_NEWEST_AND_HOST),
    (About::Limit, "thrashing", OLDEST_NEWEST_AND_HOST),
    (About::Shed, "resets, killed anywhere", NEWEST_AND_HOST),
    (About::Limit, "killed anywhere", NEWEST_AND_HOST),
    (About::Limit, "killed anywhere, with all", NEWEST_AND_HOST),
    (About::Limit, "undone by hand anywhere", OLDEST_AND_HOST),
    (About::Limit, "divided, killed anywhere", NEWEST_AND_HOST),
    (About::Limit, "racing allocators", OLDEST_NEWEST_AND_HOST),
    // One Debian each, so that both take equally long. `killed anywhere` shows that systemd 257
    // also takes the limit of swap and gives it back.
    (About::Unit, "killed anywhere", &["debian13"]),
    (About::Unit, "without enforce.conf", &["debian12"]),
    (About::Unit, "notified", &["debian12"]),
    (About::Unit, "watchdog", &["debian13"]),
    (About::Unit, "silent bus", &["debian12"]),
    (About::Unit, "swap", &["debian12"]),
    (About::Unit, "neighbour without the agent", &["debian12"]),
    (About::Unit, "neighbour with the agent", &["debian13"]),
    (About::Unit, "kubelet", &["debian12"]),
    (About::Unit, "uninstall", &["debian13"]),
    (About::Package, "purged", &["debian12"]),
    (About::Package, "upgraded", &["debian13"]),
];

/// Returns all checks but those of units, in the order in which they run: those of a rung one after
/// the other.
pub fn all() -> Vec<Check> {
    of_rows(&ROWS)
}

/// Returns the checks of limits on systemd's units.
pub fn of_units() -> Vec<Check> {
    of_rows(&ROWS_OF_UNITS)
}

fn of_rows(rows: &[Row]) -> Vec<Check> {
    let mut abouts: Vec<About> = rows.iter().map(|(about, ..)| *about).collect();
    abouts.dedup();
    let mut checks = Vec::new();
    for about in abouts {
        for rung in rungs(about) {
            let is_best = rungs(about)
                .first()
                .is_some_and(|best| rungs::name(about, *best) == rungs::name(about, rung));
            for (_, on, what, run) in rows.iter().copied().filter(|row| row.0 == about) {
                let applies = match on {
                    On::Best => is_best,
                    On::Every | On::EveryFresh => true,
                    On::Bpf => rungs::is_bpf(rung),
                    On::WithoutBpf => !rungs::is_bpf(rung),
                };
                if applies {
                    let fresh = on == On::EveryFresh;
                    let limit = Duration::from_secs(if is_thorough() { 900 } else { 240 });
                    checks.push(Check { about, rung, what, limit, fresh, run });
                }
            }
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_for_some_machines_name_checks() {
        for (about, what, _) in ON_SOME {
            let mut rows = ROWS.iter().chain(&ROWS_OF_UNITS);
            assert!(rows.any(|row| row.0 == about && row.2 == what), "{}/{what}", about.name());
        }
    }
}
