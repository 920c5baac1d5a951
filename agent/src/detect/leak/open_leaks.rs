//! Open claims, one a workload.
//!
//! A workload is a cgroup and a program's name. Its claim is raised with the process that showed
//! the leak first and keeps that process's id to its end; further processes of the workload that
//! leak join it, and one that replaces the last inherits it. A claim whose processes are all gone
//! waits for a successor; then it is cleared. There are never more claims than processes that leak,
//! and those that wait.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    process::{Leak, Process},
    process_scan::ProcessScan,
    verdict::exhaustion_interval,
    workload::Workload,
};
use crate::{
    detect::{
        Context, Findings, confidence::Rule, growth::Growth, leak_claim::LeakClaim,
        verdict::Verdict,
    },
    sense::ProcessId,
    units::{Size, Span, rounded},
};

/// Time to wait for a successor: supervisors restart within a second, or within ten or twenty at
/// the beginning of a crash loop.
const WAIT_SECS: f64 = 30.0;

/// Time to wait in a crash loop: the kubelet waits five minutes at most.
const RESTART_SECS: f64 = 400.0;

/// Open claims by workload; a tree, because output has an order.
#[derive(Default)]
pub(super) struct OpenLeaks {
    open: BTreeMap<Arc<Workload>, OpenLeak>,
    /// Number of claims that wait for a successor.
    waiting: usize,
}

struct OpenLeak {
    /// Process that the claim was raised with.
    id: ProcessId,
    /// Number of processes that leak now.
    leaking: u32,
    /// Time to wait for a successor.
    patience_secs: f64,
    /// Set if an earlier run of the agent raised it, and this one has not yet.
    is_held_over: bool,
    /// Set if none does: the last one's leak, the time since which, and its fate.
    waits: Option<(Leak, f64, &'static str)>,
}

/// Open claim in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedLeak {
    workload: Arc<Workload>,
    id: ProcessId,
    patience_secs: f64,
    /// Set if no process leaks now.
    waits: Option<Leak>,
}

impl OpenLeaks {
    /// Claims to save.
    pub(super) fn saved(&self) -> Vec<SavedLeak> {
        let saved = |(workload, open): (&Arc<Workload>, &OpenLeak)| SavedLeak {
            workload: workload.clone(),
            id: open.id,
            patience_secs: open.patience_secs,
            waits: open.waits.map(|(leak, ..)| leak),
        };
        self.open.iter().map(saved).collect()
    }

    /// Takes the claims that an earlier run had open. Of those about no process in `leaking` one
    /// that waits goes on waiting from `t` on.
    pub(super) fn restore(
        saved: Vec<SavedLeak>,
        leaking: &BTreeMap<Arc<Workload>, u32>,
        t: f64,
    ) -> Self {
        let mut leaks = Self::default();
        for SavedLeak { workload, id, patience_secs, waits } in saved {
            let leaking = leaking.get(&workload).copied().unwrap_or(0);
            let waits = waits.filter(|_| leaking == 0).map(|leak| (leak, t, "it exited"));
            if leaking == 0 && waits.is_none() {
                continue;
            }
            leaks.waiting += usize::from(waits.is_some());
            let is_held_over = true;
            leaks
                .open
                .insert(workload, OpenLeak { id, leaking, patience_secs, is_held_over, waits });
        }
        leaks
    }

    /// Returns whether the claim of a process that leaks is still to be raised in this run.
    pub(super) fn is_held_over(&self, process: &Process) -> bool {
        process.leak.is_some()
            && self.open.get(&process.workload).is_some_and(|open| open.is_held_over)
    }

    /// Raises the claim of an earlier run again, with what holds now: the policy knows only the
    /// claims of its own run.
    pub(super) fn hold_over(
        &mut self,
        scan: &ProcessScan<'_>,
        process: &Process,
        findings: &mut Findings,
    ) -> Option<()> {
        let (leak, workload) = (process.leak.as_deref()?, &process.workload);
        let open = self.open.get_mut(workload)?;
        open.is_held_over = false;
        let (slope, headroom) = (leak.slope_bytes_per_sec, &scan.headroom);
        let exhaustion_secs = headroom.bytes / slope;
        let mut why = format!(
            "{} (pid {}) was leaking {}/s before the agent restarted, and still holds {}; if it \
             goes on, the {headroom} run out in {}",
            workload.comm,
            scan.fact.id.pid,
            Size(slope),
            Size(scan.fact.private_bytes() as f64),
            Span(exhaustion_secs)
        );
        let confidence = f64::from(leak.confidence);
        let health = scan.context.sensor_health;
        let confidence = health.weigh(Rule::Leak, scan.context.t, confidence, &mut why);
        let claim = LeakClaim {
            bound: headroom.bound(),
            ..LeakClaim::of_memory(open.id, &workload.comm, &workload.cgroup, slope)
        };
        findings.verdicts.push(Verdict {
            exhaustion_secs: Some(rounded(exhaustion_secs, 1)),
            ..Verdict::raised(scan.context.t, claim, confidence, why)
        });
        Some(())
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Raises a claim for a process that leaks, unless its workload has one already.
    pub(super) fn raise(
        &mut self,
        scan: &ProcessScan<'_>,
        process: &Process,
        growth: &Growth,
        confidence: f64,
        why: String,
        findings: &mut Findings,
    ) {
        if self.join(process) {
            return;
        }
        let workload = process.workload.clone();
        let (slope, error) = (growth.slope_bytes_per_sec, growth.slope_error_bytes_per_sec);
        let slopes = [(slope - error).max(0.0), slope + error];
        let claim = LeakClaim {
            growth_interval_bytes_per_sec: Some(slopes.map(|slope| rounded(slope, 1))),
            bound: scan.headroom.bound(),
            ..LeakClaim::of_memory(scan.fact.id, &workload.comm, &workload.cgroup, slope)
        };
        findings.verdicts.push(Verdict {
            exhaustion_secs: Some(rounded(growth.exhaustion_secs(), 1)),
            exhaustion_interval_secs: exhaustion_interval(growth, slopes),
            ..Verdict::raised(scan.context.t, claim, confidence, why)
        });
        self.open.insert(
            workload,
            OpenLeak {
                id: scan.fact.id,
                leaking: 1,
                patience_secs: WAIT_SECS,
                is_held_over: false,
                waits: None,
            },
        );
    }

    /// Makes the claim of a workload wait as long as a supervisor may, which restarts it ever more
    /// seldom.
    pub(super) fn expect_restart(&mut self, workload: &Workload) {
        if let Some(open) = self.open.get_mut(workload) {
            open.patience_secs = RESTART_SECS;
        }
    }

    /// Makes the claim of a leaking process that is gone, or another program now, wait for a
    /// successor.
    pub(super) fn leave(
        &mut self,
        context: &Context<'_>,
        process: &mut Process,
        because: &'static str,
    ) {
        let leak = process.leak.take().map(|leak| *leak);
        self.leave_workload(context, &process.workload, leak, because);
    }

    fn leave_workload(
        &mut self,
        context: &Context<'_>,
        workload: &Arc<Workload>,
        leak: Option<Leak>,
        because: &'static str,
    ) {
        let Some(leak) = leak else { return };
        let Some(open) = self.open.get_mut(workload) else { return };
        open.leaking = open.leaking.saturating_sub(1);
        if open.leaking == 0 {
            open.waits = Some((leak, context.t, because));
            self.waiting += 1;
        }
    }

    /// Adds a process to its workload's claim; returns whether there is one.
    fn join(&mut self, process: &Process) -> bool {
        let Some(open) = self.open.get_mut(&process.workload) else { return false };
        open.leaking += 1;
        self.waiting -= usize::from(open.waits.take().is_some());
        true
    }

    /// Follows a leaking process into another cgroup, or to another name: a claim that was raised
    /// with it goes with it, as does one about no other process. A leak without a claim is no leak,
    /// and is judged anew.
    pub(super) fn follow(
        &mut self,
        context: &Context<'_>,
        id: ProcessId,
        before: &Arc<Workload>,
        process: &mut Process,
    ) {
        let is_taken = self.open.contains_key(&process.workload);
        if *before != process.workload
            && let Some(mut open) = self.open.remove(before)
        {
            if !is_taken && (open.id == id || open.leaking <= 1) {
                open.leaking = 1;
                self.open.insert(process.workload.clone(), open);
            } else {
                self.open.insert(before.clone(), open);
                self.join(process);
                self.leave_workload(
                    context,
                    before,
                    process.leak.as_deref().copied(),
                    "it moved to another cgroup",
                );
            }
        }
        if !self.open.contains_key(&process.workload) {
            process.end_leak();
        }
    }

    /// Hands a waiting claim to a process of the same workload.
    pub(super) fn inherit(&mut self, process: &mut Process) {
        if self.waiting == 0 || process.leak.is_some() {
            return;
        }
        self.follow_restart(&process.workload);
        let Some(open) = self.open.get_mut(&process.workload) else { return };
        if let Some((leak, ..)) = open.waits.take() {
            self.waiting -= 1;
            open.leaking = 1;
            process.leak = Some(Box::new(leak.inherited()));
        }
    }

    /// Moves a claim that waits to the cgroup in which its pod was restarted.
    fn follow_restart(&mut self, workload: &Arc<Workload>) {
        let lineage = workload.lineage();
        if lineage == **workload || self.open.contains_key(workload) {
            return;
        }
        let mut waiting = self.open.iter().filter(|(_, open)| open.waits.is_some());
        let before =
            waiting.find(|(known, _)| known.lineage() == lineage).map(|(known, _)| known.clone());
        if let Some(open) = before.and_then(|known| self.open.remove(&known)) {
            self.open.insert(workload.clone(), open);
        }
    }

    /// Clears claims that have waited long enough.
    pub(super) fn expire(&mut self, context: &Context<'_>, findings: &mut Findings) {
        if self.waiting == 0 {
            return;
        }
        let waiting = &mut self.waiting;
        self.open.retain(|workload, open| {
            let Some((leak, since_t, because)) = open.waits else { return true };
            let is_over = context.t - since_t >= open.patience_secs;
            if is_over {
                *waiting -= 1;
            }
            // A claim that this run has not raised is not cleared either.
            if is_over && !open.is_held_over {
                let because = format!("{because}, and no process has replaced it");
                findings.verdicts.push(cleared(context, open.id, workload, &leak, &because));
            }
            !is_over
        });
    }

    /// Clears the claim of a process's workload, unless other processes of it still leak.
    pub(super) fn clear(
        &mut self,
        context: &Context<'_>,
        process: &Process,
        leak: &Leak,
        because: &str,
        findings: &mut Findings,
    ) {
        let workload = &process.workload;
        let Some(open) = self.open.get_mut(workload) else { return };
        open.leaking = open.leaking.saturating_sub(1);
        if open.leaking == 0 {
            let id = open.id;
            self.open.remove(workload);
            findings.verdicts.push(cleared(context, id, workload, leak, because));
        }
    }

    /// Appends a fresh forecast of an open claim.
    pub(super) fn forecast(
        &self,
        scan: &ProcessScan<'_>,
        process: &Process,
        leak: &Leak,
        slope_bytes_per_sec: f64,
        findings: &mut Findings,
    ) {
        let (workload, headroom) = (&process.workload, &scan.headroom);
        let Some(open) = self.open.get(workload).filter(|_| slope_bytes_per_sec > 0.0) else {
            return;
        };
        let exhaustion_secs = headroom.bytes / slope_bytes_per_sec;
        let why = format!(
            "{} (pid {}) still grows by {}/s; the {headroom} run out in {}",
            workload.comm,
            scan.fact.id.pid,
            Size(slope_bytes_per_sec),
            Span(exhaustion_secs)
        );
        let claim = LeakClaim {
            bound: headroom.bound(),
            ..LeakClaim::of_memory(open.id, &workload.comm, &workload.cgroup, slope_bytes_per_sec)
        };
        findings.forecasts.push(Verdict {
            exhaustion_secs: Some(rounded(exhaustion_secs, 1)),
            ..Verdict::raised(scan.context.t, claim, f64::from(leak.confidence), why)
        });
    }
}

fn cleared(
    context: &Context<'_>,
    id: ProcessId,
    workload: &Workload,
    leak: &Leak,
    because: &str,
) -> Verdict {
    let why = format!("{} (pid {}) is no longer leaking: {because}", workload.comm, id.pid);
    let (slope, confidence) = (leak.slope_bytes_per_sec, f64::from(leak.confidence));
    let claim = LeakClaim::of_memory(id, &workload.comm, &workload.cgroup, slope);
    Verdict::cleared(context.t, claim, confidence, why)
}
