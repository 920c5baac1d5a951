//! Bottleneck of an overloaded service: the resource that it is short of, which decides the fix.
//!
//! It rests on the pressure of the service while its queue was standing, so it is a claim about
//! those seconds. Without that only the queue itself can tell: a stuck accept loop, or a backlog
//! that is too small.

use super::claim::Bottleneck;
use super::trigger::Trigger;
use crate::sense::ServicePressureFact;

/// Share of the time in which some of the service waited for a CPU from which CPU is the
/// bottleneck. A guess: a service whose load fits waits in a few percent; one that has half of the
/// CPU that it could use, in nearly all.
const CPU_WAITS_MIN_PERCENT: f64 = 25.0;

/// Share of the time in which it waited for memory from which memory is the bottleneck: refaults
/// and reclaim that take a tenth of the time take more from every request. A guess.
const PSI_MEMORY_MIN_PERCENT: f64 = 10.0;

/// Share of the time for which a thread runs, or waits for a CPU to run on, from which it is the
/// limit of a server that has one. A guess: accounting is by ticks.
const BUSY_THREAD_PERCENT: f64 = 85.0;

/// Pressure of a service over a standing time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MeanPressure {
    cpu: Mean,
    memory: Mean,
    thread: Mean,
    waits: Mean,
    /// Segments that its network namespace retransmitted.
    pub(super) retransmits: u64,
    /// Connects from or to its network namespace that were refused or abandoned.
    pub(super) refused: u64,
}

/// A mean over time.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    percent_secs: f64,
    secs: f64,
}

impl Mean {
    fn add(&mut self, secs: f64, percent: Option<f64>) {
        if let Some(percent) = percent {
            self.percent_secs += percent * secs;
            self.secs += secs;
        }
    }

    fn percent(self) -> Option<f64> {
        (self.secs > 0.0).then(|| self.percent_secs / self.secs)
    }
}

impl MeanPressure {
    /// Takes the pressure since the last sample.
    pub(super) fn add(&mut self, fact: Option<&ServicePressureFact>) {
        let Some(fact) = fact else { return };
        self.cpu.add(fact.secs, fact.psi_cpu_some_percent);
        self.memory.add(fact.secs, fact.psi_memory_some_percent);
        self.thread.add(fact.secs, fact.busiest_thread_percent);
        self.waits.add(fact.secs, fact.thread_waits_percent);
        self.retransmits = self.retransmits.saturating_add(fact.retransmits.unwrap_or(0));
        self.refused = self.refused.saturating_add(fact.refused.unwrap_or(0));
    }

    /// Returns the resource that the service is short of; `None` if there is no evidence.
    pub(super) fn scarce(&self, trigger: Trigger, is_stuck: bool) -> Option<Bottleneck> {
        if trigger == Trigger::Dropping {
            return Some(Bottleneck::Backlog);
        }
        let at_least =
            |mean: Mean, least: f64| mean.percent().is_some_and(|percent| percent >= least);
        if at_least(self.memory, PSI_MEMORY_MIN_PERCENT) {
            return Some(Bottleneck::Memory);
        }
        if is_stuck {
            return Some(Bottleneck::AcceptLoop);
        }
        let waits = at_least(self.cpu, CPU_WAITS_MIN_PERCENT)
            || at_least(self.waits, CPU_WAITS_MIN_PERCENT);
        if waits || self.runnable_percent().is_some_and(|percent| percent >= BUSY_THREAD_PERCENT) {
            return Some(Bottleneck::Cpu);
        }
        self.is_known().then_some(Bottleneck::Workers)
    }

    /// Share of the time for which a thread runs or waits for a CPU. Each is that of the thread
    /// with most of it, which of a server with one thread is the same.
    fn runnable_percent(&self) -> Option<f64> {
        Some(self.thread.percent()? + self.waits.percent().unwrap_or(0.0))
    }

    /// Returns whether a thread runs all the time, so that it waits for nothing.
    pub(super) fn is_busy(&self) -> bool {
        self.thread.percent().is_some_and(|percent| percent >= BUSY_THREAD_PERCENT)
    }

    /// Returns whether anything is known about CPU.
    pub(super) fn is_known(&self) -> bool {
        self.cpu.percent().is_some() || self.thread.percent().is_some()
    }

    /// Returns whether CPU is the bottleneck of a standing queue.
    pub(super) fn is_short_of_cpu(&self) -> bool {
        self.scarce(Trigger::Standing, false) == Some(Bottleneck::Cpu)
    }

    /// Says that a part of the service is stuck, and if it is known whether it computes or waits.
    pub(super) fn stuck(&self, part: &str) -> String {
        match self.thread.percent() {
            Some(busy) if busy >= BUSY_THREAD_PERCENT => {
                format!("{part} is stuck, busy with something else ({busy:.0} % of a CPU)")
            }
            Some(_) => format!("{part} is stuck, waiting for something else"),
            None => format!("{part} is stuck"),
        }
    }

    /// Evidence for the bottleneck, in words.
    pub(super) fn because(&self, scarce: Bottleneck) -> Option<String> {
        Some(match scarce {
            Bottleneck::Memory => {
                format!("it stalls on memory {:.0} % of the time", self.memory.percent()?)
            }
            Bottleneck::Cpu => match (self.cpu.percent(), self.thread.percent()) {
                (_, Some(busy)) if busy >= BUSY_THREAD_PERCENT => {
                    format!("its busiest thread uses {busy:.0} % of a CPU, as much as one can")
                }
                (cpu, busy) => {
                    let thread_waits = self.waits.percent().unwrap_or(0.0);
                    let waits = cpu.unwrap_or(0.0).max(thread_waits);
                    match busy {
                        Some(busy) if waits < CPU_WAITS_MIN_PERCENT => format!(
                            "its busiest thread uses {busy:.0} % of a CPU, and waits for one \
                             {thread_waits:.0} % of the time"
                        ),
                        _ => format!("it waits for a CPU {waits:.0} % of the time"),
                    }
                }
            },
            Bottleneck::AcceptLoop => self.stuck("its accept loop"),
            Bottleneck::Workers => "neither CPU nor memory is short: its workers wait for \
                                    something else, or there are too few"
                .to_owned(),
            Bottleneck::Dependency => "it waits for another service".to_owned(),
            Bottleneck::Backlog => {
                "its backlog is too small for its bursts, although each wait is short".to_owned()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strain(cpu: Option<f64>, memory: Option<f64>, thread: Option<f64>) -> MeanPressure {
        let mut strain = MeanPressure::default();
        let fact = |psi_cpu_some_percent, psi_memory_some_percent, busiest_thread_percent| {
            ServicePressureFact {
                secs: 0.1,
                psi_cpu_some_percent,
                psi_memory_some_percent,
                busiest_thread_percent,
                ..ServicePressureFact::default()
            }
        };
        strain.add(Some(&fact(cpu, memory, thread)));
        strain.add(None);
        strain
    }

    #[test]
    fn what_is_scarce_follows_from_what_was_read() {
        let standing = |strain: MeanPressure| strain.scarce(Trigger::Standing, false);
        assert_eq!(standing(strain(Some(60.0), Some(0.0), Some(40.0))), Some(Bottleneck::Cpu));
        assert_eq!(standing(strain(Some(0.0), Some(0.0), Some(99.0))), Some(Bottleneck::Cpu));
        assert_eq!(standing(strain(Some(60.0), Some(30.0), Some(40.0))), Some(Bottleneck::Memory));
        assert_eq!(standing(strain(Some(2.0), Some(0.0), Some(10.0))), Some(Bottleneck::Workers));
        assert_eq!(standing(strain(None, None, None)), None);
        let mut waits = MeanPressure::default();
        waits.add(Some(&ServicePressureFact {
            secs: 1.0,
            thread_waits_percent: Some(40.0),
            ..ServicePressureFact::default()
        }));
        assert_eq!(standing(waits), Some(Bottleneck::Cpu));
        assert_eq!(waits.because(Bottleneck::Cpu).unwrap(), "it waits for a CPU 40 % of the time");
        let mut shares = MeanPressure::default();
        shares.add(Some(&ServicePressureFact {
            secs: 1.0,
            psi_cpu_some_percent: Some(19.0),
            busiest_thread_percent: Some(78.0),
            thread_waits_percent: Some(18.0),
            ..ServicePressureFact::default()
        }));
        assert_eq!(standing(shares), Some(Bottleneck::Cpu), "it could run all the time");
        assert_eq!(
            shares.because(Bottleneck::Cpu).unwrap(),
            "its busiest thread uses 78 % of a CPU, and waits for one 18 % of the time"
        );
        assert_eq!(
            strain(Some(2.0), None, None).scarce(Trigger::Stuck, true),
            Some(Bottleneck::AcceptLoop)
        );
        assert_eq!(
            strain(None, None, None).scarce(Trigger::Dropping, false),
            Some(Bottleneck::Backlog)
        );
    }

    #[test]
    fn stuck_part_waits_or_computes_only_if_that_is_known() {
        let stuck = |thread| strain(None, None, thread).stuck("it");
        assert_eq!(stuck(Some(98.0)), "it is stuck, busy with something else (98 % of a CPU)");
        assert_eq!(stuck(Some(1.0)), "it is stuck, waiting for something else");
        assert_eq!(stuck(None), "it is stuck");
    }

    #[test]
    fn a_mean_is_over_time() {
        let mut strain = MeanPressure::default();
        for (secs, percent) in [(0.1, 100.0), (0.9, 0.0)] {
            let psi_cpu_some_percent = Some(percent);
            strain.add(Some(&ServicePressureFact {
                secs,
                psi_cpu_some_percent,
                ..ServicePressureFact::default()
            }));
        }
        assert!((strain.cpu.percent().unwrap() - 10.0).abs() < 1e-9);
    }
}
