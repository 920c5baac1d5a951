//! Summary of one program in a host's trace: its processes, their total memory at each scan, and
//! their limits.
//!
//! Leaks are judged per workload, so the processes of the cgroup are added up. Shared memory, which
//! each of them reports in full, counts once. Lines that no program needs are skipped without
//! parsing: a busy host writes a hundred of them for each one that matters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// Process of a trace: its pid and its start.
pub type Id = (u64, u64);

/// Values counted for one process.
#[derive(Debug, Default)]
pub struct Seen {
    /// Last name of the process.
    pub comm: String,
    /// Maximum private memory in bytes.
    pub peak: f64,
    /// Time at which it was last seen.
    pub last: f64,
    scans: usize,
}

/// Summary of a program and of the load generators in a trace.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Processes of the program.
    pub own: BTreeMap<Id, Seen>,
    /// Total memory of these processes: time and bytes, one point per scan.
    pub curve: Vec<(f64, f64)>,
    /// Every limit that was seen on these processes.
    pub limits: BTreeSet<Option<u64>>,
    /// Time of the last line.
    pub last: f64,
    loads: BTreeMap<Id, Seen>,
    /// Every process of the host that called exec, because the exec comes before the process is
    /// first seen in a cgroup.
    execs: BTreeSet<Id>,
    shared: f64,
}

impl Gathered {
    /// Reads a trace; `own` and `load` are the names of the cgroups of the program and of the load
    /// generators.
    pub fn read(trace: &Path, own: &str, load: &str) -> anyhow::Result<Self> {
        let mut gathered = Self::default();
        for line in lines(trace)? {
            gathered.take(&line, own, load);
        }
        Ok(gathered)
    }

    fn take(&mut self, line: &Value, own: &str, load: &str) {
        let Some(t) = line["t"].as_f64() else { return };
        self.last = t;
        let Some(id) = id_of(line) else { return };
        match line["kind"].as_str() {
            Some("exec") => drop(self.execs.insert(id)),
            Some("process") => {
                let cgroup = line["cgroup"].as_str().unwrap_or_default();
                if cgroup.ends_with(own) {
                    self.weigh(t, line);
                    self.own.entry(id).or_default().note(t, line);
                } else if cgroup.ends_with(load) {
                    self.loads.entry(id).or_default().note(t, line);
                }
            }
            _ => {}
        }
    }

    fn weigh(&mut self, t: f64, line: &Value) {
        self.limits.insert(line["memory_max_bytes"].as_u64());
        if self.curve.last().is_none_or(|point| point.0 < t) {
            self.curve.push((t, 0.0));
            self.shared = 0.0;
        }
        let shared = bytes(line, "shmem_bytes").max(self.shared);
        if let Some(point) = self.curve.last_mut() {
            point.1 += bytes(line, "anon_bytes") + bytes(line, "swap_bytes") + shared - self.shared;
        }
        self.shared = shared;
    }

    /// Returns the process with the largest peak.
    pub fn main(&self) -> Option<&Seen> {
        self.own.values().max_by(|a, b| a.peak.total_cmp(&b.peak))
    }

    /// Returns when the third life of the main program has ended, of those that it has by then.
    pub fn third_end(&self) -> Option<f64> {
        let main = self.main()?;
        let lives = |seen: &&Seen| seen.comm == main.comm && seen.peak > main.peak / 2.0;
        let mut ends: Vec<_> = self.own.values().filter(lives).map(|seen| seen.last).collect();
        ends.sort_by(f64::total_cmp);
        ends.get(2).copied()
    }

    /// Returns true if the trace shows the exec of the first process, from which others may have
    /// been forked.
    pub fn begins(&self) -> bool {
        self.own
            .keys()
            .min_by_key(|(pid, start)| (start, pid))
            .is_some_and(|first| self.execs.contains(first))
    }

    /// Peak of the program's total memory in bytes.
    pub fn peak(&self) -> f64 {
        self.curve.iter().map(|point| point.1).fold(0.0, f64::max)
    }

    /// Returns the load generators' processes that lived longest, at most `count`.
    pub fn longest_loads(&self, count: usize) -> impl Iterator<Item = Id> + use<> {
        let mut loads: Vec<_> = self.loads.iter().map(|(id, seen)| (seen.scans, *id)).collect();
        loads.sort_unstable_by(|a, b| b.cmp(a));
        loads.into_iter().take(count).map(|(_, id)| id)
    }

    /// Fits a line through the total memory from time `t` on.
    pub fn line_from(&self, t: f64) -> Line {
        Line::through(self.curve.iter().filter(|point| point.0 >= t))
    }
}

impl Seen {
    fn note(&mut self, t: f64, line: &Value) {
        self.last = t;
        let private =
            bytes(line, "anon_bytes") + bytes(line, "swap_bytes") + bytes(line, "shmem_bytes");
        self.peak = self.peak.max(private);
        self.comm = line["comm"].as_str().unwrap_or_default().to_owned();
        self.scans += 1;
    }
}

/// Line fitted by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Bytes per second; 0 if there are too few points.
    pub slope: f64,
    middle: (f64, f64),
}

impl Line {
    fn through<'a>(points: impl Iterator<Item = &'a (f64, f64)> + Clone) -> Self {
        let n = points.clone().count().max(1) as f64;
        let (t, y) =
            points.clone().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        let middle = (t / n, y / n);
        let over: f64 = points.clone().map(|(t, y)| (t - middle.0) * (y - middle.1)).sum();
        let under: f64 = points.map(|(t, _)| (t - middle.0).powi(2)).sum();
        Self { slope: if under > 0.0 { over / under } else { 0.0 }, middle }
    }

    /// Time at which the line reaches `bytes`; `None` if it never does.
    pub fn reaches(&self, bytes: f64) -> Option<f64> {
        (self.slope > 0.0).then(|| self.middle.0 + (bytes - self.middle.1) / self.slope)
    }
}

/// Reads the lines of a trace that may matter.
pub fn lines(trace: &Path) -> anyhow::Result<impl Iterator<Item = Value> + use<>> {
    let file =
        File::open(trace).with_context(|| format!("{} cannot be opened", trace.display()))?;
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    Ok(lines.filter(|line| may_matter(line)).filter_map(|line| serde_json::from_str(&line).ok()))
}

/// Returns true if a line is worth parsing.
pub fn may_matter(line: &str) -> bool {
    let other_process =
        line.contains("\"kind\":\"process\"") && !line.contains("/spillway-corpus-");
    !line.contains("\"kind\":\"listener\"") && !other_process
}

/// Returns the process that a line describes.
pub fn id_of(line: &Value) -> Option<Id> {
    Some((line["pid"].as_u64()?, line["start_ticks"].as_u64()?))
}

fn bytes(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_has_a_slope_and_reaches_a_limit() {
        let line = Line::through([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)].iter());
        assert_eq!((line.slope, line.reaches(21.0)), (2.0, Some(10.0)));
        let none = Line::through([].iter());
        assert_eq!((none.slope, none.reaches(1.0)), (0.0, None));
    }

    #[test]
    fn processes_are_added_up_and_shared_memory_counts_once() {
        let mut gathered = Gathered::default();
        for (t, pid, anon, shared) in
            [(1.0, 7, 10, 4), (1.0, 8, 20, 9), (1.0, 9, 1, 5), (2.0, 7, 11, 6)]
        {
            let line = json!({"t": t, "kind": "process", "pid": pid, "start_ticks": 1, "cgroup": "/own",
                "anon_bytes": anon, "shmem_bytes": shared, "memory_max_bytes": 99});
            gathered.take(&line, "own", "load");
        }
        assert_eq!(gathered.curve, [(1.0, 40.0), (2.0, 17.0)]);
        assert_eq!(gathered.main().map(|seen| seen.peak), Some(29.0));
        assert_eq!(gathered.limits.iter().collect::<Vec<_>>(), [&Some(99)]);
        assert!(!gathered.begins());
        gathered.take(
            &json!({"t": 0.5, "kind": "exec", "pid": 7, "start_ticks": 1}),
            "own",
            "load",
        );
        assert!(gathered.begins());
    }
}
