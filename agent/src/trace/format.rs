//! The trace format: JSON Lines of observations under a one-line header.
//!
//! Live runs, bug reports, the corpus and the simulation all feed the same engine with traces. The
//! reader streams in bounded memory, because a trace may be larger than the host's memory and may
//! come from anyone: a line that cannot be used is returned as a [`SkippedLine`], and reading goes
//! on. Only a bad header ends it, because the rest has no meaning without one. Unknown fields are
//! ignored. Values that no kernel reports are refused.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    detect::HostInfo,
    sense::{Fact, Observation, ServicePressureFact},
    trace::{
        LineProblem, SkippedLine,
        line_reader::{LineRead, read_line},
    },
};

/// Version that is written, and the only one that can be read.
pub const TRACE_VERSION: u64 = 1;

/// Maximum size in bytes: 64 PiB, half of the range of five-level page tables and more memory than
/// any host has. Sums of several stay below 2^64.
const BYTES_MAX: u64 = 1 << 56;

/// Maximum length of a cgroup's path: the kernel's `PATH_MAX`.
const CGROUP_BYTES_MAX: usize = 4_096;

/// Maximum length of a process name: the kernel keeps 16 bytes, but some recorders add brackets or
/// the executable's name.
const COMM_BYTES_MAX: usize = 256;

/// Maximum length of an address: a UNIX listener's path of 108 bytes, each possibly escaped. IPv6
/// with port and zone is shorter.
const ADDR_BYTES_MAX: usize = 512;

/// Maximum number of culprits of one count: sensors name the few that use most.
const CULPRITS_MAX: usize = 64;

/// Maximum step of time, a year. A longer one is a broken clock, and all later lines would seem to
/// run backwards.
const STEP_SECS_MAX: f64 = 366.0 * 86_400.0;

/// First line of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceHeader {
    /// Version of the format.
    pub spillway_trace: u64,
    /// Host on which it was recorded.
    pub host: HostInfo,
    /// Time between two scans of every process.
    pub interval_secs: f64,
}

/// Reason why a trace cannot be read or written at all.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The first line is not a header.
    #[error(
        "line 1: not a trace header: {0}\n  hint: a trace starts with \
        {{\"spillway_trace\":1,\"host\":{{…}},\"interval_secs\":…}}"
    )]
    NoHeader(String),
    /// The header has another version.
    #[error("line 1: trace version {0} is not supported\n  hint: this version reads version 1")]
    Version(u64),
    /// The stream failed.
    #[error("cannot read or write the trace: {0}")]
    Io(#[from] io::Error),
    /// An observation cannot be serialised.
    #[error("cannot serialise an observation: {0}")]
    Json(#[from] serde_json::Error),
}

/// Streams the observations of a trace.
#[derive(Debug)]
pub struct TraceReader<R> {
    input: R,
    header: TraceHeader,
    buffer: Vec<u8>,
    line: u64,
    last_t: Option<f64>,
    failure: Option<io::Error>,
}

impl<R: BufRead> TraceReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// Returns an error if the first line is not a header of version 1, or cannot be read.
    pub fn new(mut input: R) -> Result<Self, TraceError> {
        let mut buffer = Vec::new();
        let header = match read_line(&mut input, &mut buffer)? {
            None => return Err(TraceError::NoHeader("the trace is empty".into())),
            Some(LineRead::TooLong) => {
                return Err(TraceError::NoHeader(LineProblem::TooLong.to_string()));
            }
            Some(LineRead::Complete | LineRead::Unterminated) => parse_header(&buffer)?,
        };
        Ok(Self { input, header, buffer, line: 1, last_t: None, failure: None })
    }

    /// Header of the trace.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// Number of lines read so far, including the header.
    pub fn lines(&self) -> u64 {
        self.line
    }

    /// Ends reading.
    ///
    /// # Errors
    ///
    /// Returns the error of the stream that ended the iteration, if any.
    pub fn finish(self) -> io::Result<()> {
        self.failure.map_or(Ok(()), Err)
    }

    fn parse(&mut self, line: LineRead) -> Result<Observation, LineProblem> {
        if line == LineRead::TooLong {
            return Err(LineProblem::TooLong);
        }
        let text = str::from_utf8(&self.buffer).map_err(|_| LineProblem::NotUtf8)?;
        let observation: Observation = serde_json::from_str(text).map_err(|error| match line {
            LineRead::Unterminated => LineProblem::CutOff,
            _ => LineProblem::of(&error, text),
        })?;
        check(&observation).map_err(LineProblem::Impossible)?;
        let t = observation.t;
        let last_t = self.last_t.unwrap_or(t);
        if t < last_t {
            return Err(LineProblem::Backwards { t, last_t });
        }
        if t - last_t > STEP_SECS_MAX {
            return Err(LineProblem::Impossible("t jumps ahead by more than a year"));
        }
        self.last_t = Some(t);
        Ok(observation)
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<Observation, SkippedLine>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.failure.is_none() {
            let line = match read_line(&mut self.input, &mut self.buffer) {
                Ok(line) => line?,
                Err(error) => {
                    self.failure = Some(error);
                    return None;
                }
            };
            self.line += 1;
            if line != LineRead::TooLong && self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return Some(
                self.parse(line).map_err(|problem| SkippedLine { line: self.line, problem }),
            );
        }
        None
    }
}

/// Writes observations as a trace.
#[derive(Debug)]
pub struct TraceWriter<W> {
    output: W,
}

impl<W: Write> TraceWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream fails.
    pub fn new(mut output: W, host: HostInfo, interval_secs: f64) -> Result<Self, TraceError> {
        write_line(
            &mut output,
            &TraceHeader { spillway_trace: TRACE_VERSION, host, interval_secs },
        )?;
        Ok(Self { output })
    }

    /// Writes one observation as one line.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream fails.
    pub fn write(&mut self, observation: &Observation) -> Result<(), TraceError> {
        write_line(&mut self.output, observation)
    }

    /// Flushes and returns the stream.
    ///
    /// # Errors
    ///
    /// Returns an error if the stream fails.
    pub fn finish(mut self) -> Result<W, TraceError> {
        self.output.flush()?;
        Ok(self.output)
    }
}

/// Writes a value as one line of JSON.
pub(crate) fn write_line<W: Write, T: Serialize>(
    output: &mut W,
    value: &T,
) -> Result<(), TraceError> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    Ok(())
}

fn parse_header(bytes: &[u8]) -> Result<TraceHeader, TraceError> {
    #[derive(Deserialize)]
    struct Version {
        spillway_trace: u64,
    }
    // The version is read first, because another version may have another header.
    let no_header = |error: serde_json::Error| TraceError::NoHeader(error.to_string());
    let Version { spillway_trace: version } = serde_json::from_slice(bytes).map_err(no_header)?;
    if version != TRACE_VERSION {
        return Err(TraceError::Version(version));
    }
    let header: TraceHeader = serde_json::from_slice(bytes).map_err(no_header)?;
    if !(header.interval_secs.is_finite() && header.interval_secs > 0.0) {
        return Err(TraceError::NoHeader(format!("interval_secs is {}", header.interval_secs)));
    }
    Ok(header)
}

/// Returns the name of a field whose value no kernel reports.
fn check(observation: &Observation) -> Result<(), &'static str> {
    let require = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    require(observation.t.is_finite(), "t is not finite")?;
    match &observation.fact {
        Fact::Host(host) => {
            require(host.mem_available_bytes <= BYTES_MAX, "mem_available_bytes")?;
            let psi = host.psi_memory_some_avg10.unwrap_or(0.0);
            require((0.0..=100.0).contains(&psi), "psi_memory_some_avg10 is not a percentage")
        }
        Fact::Process(process) => {
            let sizes = [
                (process.anon_bytes, "anon_bytes"),
                (process.file_bytes, "file_bytes"),
                (process.shmem_bytes, "shmem_bytes"),
                (process.swap_bytes, "swap_bytes"),
                (process.memory_charged_bytes.unwrap_or(0), "memory_charged_bytes"),
                (process.mapped_bytes.unwrap_or(0), "mapped_bytes"),
                (process.peak_rss_bytes.unwrap_or(0), "peak_rss_bytes"),
            ];
            sizes.into_iter().try_for_each(|(bytes, name)| require(bytes <= BYTES_MAX, name))?;
            require(process.comm.len() <= COMM_BYTES_MAX, "comm is too long")?;
            require(process.cgroup.len() <= CGROUP_BYTES_MAX, "cgroup is too long")
        }
        Fact::Listener(listener) => {
            require(listener.addr.len() <= ADDR_BYTES_MAX, "addr is too long")?;
            require(listener.cgroup.len() <= CGROUP_BYTES_MAX, "cgroup is too long")?;
            require(listener.comm.len() <= COMM_BYTES_MAX, "comm is too long")?;
            let Some(strain) = &listener.strain else { return Ok(()) };
            require(strain.secs.is_finite() && strain.secs >= 0.0, "strain has no duration")?;
            let ServicePressureFact { psi_cpu_some_percent, psi_memory_some_percent, .. } = *strain;
            let threads = [strain.busiest_thread_percent, strain.thread_waits_percent];
            let shares = [psi_cpu_some_percent, psi_memory_some_percent].into_iter().chain(threads);
            require(
                shares.flatten().all(|share: f64| (0.0..=100.0).contains(&share)),
                "strain is not a percentage",
            )
        }
        Fact::Outbound(outbound) => {
            require(outbound.addr.len() <= ADDR_BYTES_MAX, "addr is too long")?;
            require(outbound.comm.len() <= COMM_BYTES_MAX, "comm is too long")?;
            require(outbound.cgroup.len() <= CGROUP_BYTES_MAX, "cgroup is too long")
        }
        Fact::Requests(requests) => {
            require(requests.addr.len() <= ADDR_BYTES_MAX, "addr is too long")
        }
        Fact::Cgroup(cgroup) => {
            let sizes = [
                (cgroup.current_bytes, "current_bytes"),
                (cgroup.anon_bytes, "anon_bytes"),
                (cgroup.shmem_bytes, "shmem_bytes"),
                (cgroup.kernel_bytes, "kernel_bytes"),
                (cgroup.max_bytes, "max_bytes"),
            ];
            sizes
                .into_iter()
                .try_for_each(|(bytes, name)| require(bytes.unwrap_or(0) <= BYTES_MAX, name))?;
            require(cgroup.cgroup.len() <= CGROUP_BYTES_MAX, "cgroup is too long")
        }
        Fact::Count(count) => {
            require(count.used <= BYTES_MAX, "used")?;
            require(count.limit.unwrap_or(0) <= BYTES_MAX, "limit")?;
            require(count.culprits.len() <= CULPRITS_MAX, "too many culprits")?;
            let users = &count.culprits;
            require(users.iter().all(|user| user.used <= BYTES_MAX), "used of a culprit")?;
            let mut names = users.iter().map(|user| &user.name).chain([&count.subject]);
            require(names.all(|name| name.len() <= CGROUP_BYTES_MAX), "a name is too long")
        }
        Fact::Fleet(fleet) => {
            let is_time = |secs: f64| secs.is_finite() && secs >= 0.0;
            require(fleet.first_end_secs.is_none_or(is_time), "first_end_secs")?;
            require(fleet.group.len() <= ADDR_BYTES_MAX, "group is too long")?;
            let storm_bytes = fleet.storm.as_ref().map_or(0, |storm| storm.len());
            require(storm_bytes <= CGROUP_BYTES_MAX, "storm is too long")
        }
        Fact::Pager(pager) => {
            require(pager.group.len() <= ADDR_BYTES_MAX, "group is too long")?;
            require(pager.cause.len() <= ADDR_BYTES_MAX, "cause is too long")?;
            let node_bytes = pager.pager.as_ref().map_or(0, |node| node.len());
            require(node_bytes <= ADDR_BYTES_MAX, "pager is too long")
        }
        // Other kinds have no impossible values: unknown names are ignored, and the length of a
        // line is bounded.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantNames as _;

    use super::*;
    use crate::sense::{CountedResource, FactKind};

    const HEADER: &str = r#"{"spillway_trace":1,"host":{"mem_total_bytes":17179869184,"cpus":8},"interval_secs":5.0}"#;

    fn read(body: &str) -> Vec<Result<Observation, SkippedLine>> {
        TraceReader::new(format!("{HEADER}\n{body}").as_bytes()).unwrap().collect()
    }

    fn problems(body: &str) -> Vec<String> {
        read(body).into_iter().filter_map(Result::err).map(|skip| skip.to_string()).collect()
    }

    #[test]
    fn example_of_each_kind_parses() {
        let body = concat!(
            r#"{"t":0.0,"kind":"host","mem_available_bytes":9000000000,"psi_memory_some_avg10":0.0}"#,
            "\r\n\r\n",
            r#"{"t":0,"kind":"process","pid":812,"start_ticks":4711,"ppid":1,"comm":"api","cgroup":"/system.slice/api.service","anon_bytes":104857600,"file_bytes":0,"shmem_bytes":0,"swap_bytes":0,"memory_max_bytes":null,"extra":[1]}"#,
            "\n",
            r#"{"t":0.0,"kind":"listener","netns":4026531840,"addr":"0.0.0.0:8080","cgroup":"/system.slice/api.service","pid":812,"backlog":3,"backlog_max":128,"accepted_total":1200,"overflows_total":0,"sojourn_min_us":40,"sojourn_mean_us":90,"sojourn_p99_us":400,"oldest_wait_us":90}"#,
            "\n",
            r#"{"t":5.0,"kind":"exit","pid":812,"start_ticks":4711}"#,
            "\n",
            r#"{"t":5.0,"kind":"sensing","degraded":["process_life"],"off":["fault_samples"],"lost":{"life_ring_full":12}}"#,
            "\n",
            r#"{"t":5.0,"kind":"handles","pid":812,"start_ticks":4711,"fds":120,"fds_max":1024,"threads":9,"close_wait":null}"#,
            "\n",
            r#"{"t":6.0,"kind":"outbound","netns":4026531840,"addr":"10.0.0.7:5432","cgroup":"/system.slice/api.service","pid":812,"comm":"api","established_total":90,"refused_total":3,"timed_out_total":2,"abandoned_total":1,"pending":4}"#,
            "\n",
            r#"{"t":6.0,"kind":"requests","netns":4026531840,"addr":"0.0.0.0:8080","unread":3,"in_flight":12,"oldest_unread_us":4000,"oldest_in_flight_us":90000,"answered_total":88120,"abandoned_total":2}"#,
            "\n",
            r#"{"t":6.0,"kind":"cgroup","cgroup":"/system.slice/api.service","current_bytes":9,"anon_bytes":7,"shmem_bytes":1,"kernel_bytes":1,"max_bytes":null,"oom_kills_total":2}"#,
            "\n",
            r#"{"t":6.0,"kind":"fleet","group":"web","nodes":60,"need_turn":40,"late":12,"first_end_secs":7200.0,"slots_needed":3}"#,
            "\n",
            r#"{"t":6.0,"kind":"pager","group":"web","cause":"api in api.service","pager":"web-3","others":5}"#,
            "\n",
            r#"{"t":6.0,"kind":"count","resource":"disk_bytes","subject":"/var","used":1,"limit":2,"culprits":[{"name":"/var/log/app.log","pid":812,"used":1}]}"#,
            "\n",
            r#"{"t":6.0,"kind":"count","resource":"widgets","subject":"host","used":7}"#,
        );
        let read = read(body);
        assert_eq!(read.len(), 13);
        assert!(read.iter().all(Result::is_ok), "{read:?}");
        let Ok(Observation { fact: Fact::Count(disk), .. }) = &read[11] else { panic!("{read:?}") };
        assert_eq!((disk.used, disk.limit, disk.culprits[0].pid), (1, Some(2), Some(812)));
        assert_eq!(disk.resource, CountedResource::DiskBytes);
        let Ok(Observation { fact: Fact::Count(other), .. }) = &read[12] else {
            panic!("{read:?}")
        };
        assert_eq!((&other.resource, other.limit), (&CountedResource::named("widgets"), None));
        let Ok(Observation { fact: Fact::Pager(pager), .. }) = &read[10] else {
            panic!("{read:?}")
        };
        assert_eq!((pager.pager.as_deref(), pager.is_critical), (Some("web-3"), false));
        let Ok(Observation { fact: Fact::Fleet(fleet), .. }) = &read[9] else { panic!("{read:?}") };
        assert_eq!((fleet.need_turn, fleet.late, fleet.slots_needed), (40, 12, Some(3)));
        assert_eq!((fleet.first_end_secs, &fleet.storm), (Some(7_200.0), &None));
        let Ok(Observation { fact: Fact::Cgroup(cgroup), .. }) = &read[8] else {
            panic!("{read:?}")
        };
        assert_eq!((cgroup.current_bytes, cgroup.kernel_bytes), (Some(9), Some(1)));
        assert_eq!((cgroup.max_bytes, cgroup.oom_kills_total), (None, Some(2)));
        let Ok(Observation { fact: Fact::Requests(requests), .. }) = &read[7] else {
            panic!("{read:?}")
        };
        assert_eq!((requests.unread, requests.in_flight, requests.connections), (3, 12, None));
        assert_eq!(requests.oldest_in_flight_us, Some(90_000));
        let Ok(Observation { fact: Fact::Outbound(outbound), .. }) = &read[6] else {
            panic!("{read:?}")
        };
        let ends = [outbound.established_total, outbound.refused_total, outbound.timed_out_total];
        assert_eq!((ends, outbound.abandoned_total, outbound.pending), ([90, 3, 2], 1, 4));
        let Ok(Observation { fact: Fact::Requests(requests), .. }) = &read[7] else {
            panic!("{read:?}")
        };
        assert_eq!((requests.unread, requests.in_flight, requests.connections), (3, 12, None));
        assert_eq!(requests.oldest_in_flight_us, Some(90_000));
        assert_eq!((requests.answered_total, requests.abandoned_total), (Some(88_120), Some(2)));
    }

    #[test]
    fn bad_lines_are_reported_and_the_rest_is_read() {
        let body = concat!(
            "{\"t\":1,\"kind\":\"host\",\"mem_available_bytes\":NaN}\n",
            "{\"t\":1e999,\"kind\":\"host\",\"mem_available_bytes\":1}\n",
            "{\"t\":1,\"kind\":\"host\",\"mem_available_bytes\":-1}\n",
            "{\"t\":1,\"kind\":\"host\",\"mem_available_bytes\":18446744073709551615}\n",
            "{\"t\":1,\"kind\":\"gpu\",\"x\":1}\n",
            "{\"t\":2,\"kind\":\"exit\",\"pid\":1,\"start_ticks\":1}\n",
            "{\"t\":1,\"kind\":\"exit\",\"pid\":1,\"start_ticks\":1}\n",
            "{\"t\":9e9,\"kind\":\"exit\",\"pid\":1,\"start_ticks\":1}\n",
            "[]\n",
            "{\"t\":2,\"kind\":\"process\",\"pid\":1,\"start_ticks\":1,\"ppid\":1,\"comm\":\"\",\"cgroup\":\"\",",
            "\"anon_bytes\":0,\"file_bytes\":0,\"shmem_bytes\":0,\"swap_bytes\":0,\"mapped_bytes\":72057594037927937}\n",
            "{\"t\":2,\"kind\":\"process\",\"pid\":1,\"start_ticks\":1,\"ppid\":1,\"comm\":\"\",\"cgroup\":\"\",",
            "\"anon_bytes\":0,\"file_bytes\":0,\"shmem_bytes\":0,\"swap_bytes\":0,\"memory_charged_bytes\":72057594037927937}\n",
            "{\"t\":2,\"kind\":\"exit\",\"pid\":1,\"sta",
        );
        let problems = problems(body);
        let expected = [
            "line 2: not JSON",
            "line 3: not JSON: number out of range",
            "line 4: not a record: invalid value: integer `-1`, expected u64",
            "line 5: impossible value: mem_available_bytes",
            "line 6: unknown kind \"gpu\"",
            "line 8: time runs backwards, from 2 to 1",
            "line 9: impossible value: t jumps ahead by more than a year",
            "line 10: not a record",
            "line 11: impossible value: mapped_bytes",
            "line 12: impossible value: memory_charged_bytes",
            "line 13: cut off",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem} / {expected}");
        }
    }

    #[test]
    fn damaged_record_is_not_of_an_unknown_kind() {
        for kind in FactKind::VARIANTS {
            let problems = problems(&format!("{{\"t\":1,\"kind\":\"{kind}\",\"lost\":7}}\n"));
            assert_eq!(problems.len(), 1, "{kind}: {problems:?}");
            assert!(problems[0].starts_with("line 2: not a record: "), "{kind}: {problems:?}");
        }
    }

    #[test]
    fn bad_header_is_an_error_in_line_1() {
        let bad =
            ["", "\n", "{}", "[1]", "{\"spillway_trace\":1}", "{\"spillway_trace\":2}", "\u{fffd}"];
        for text in bad {
            let error = TraceReader::new(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("line 1: "), "{text}: {error}");
        }
        let zero = HEADER.replace("5.0", "0.0");
        assert!(TraceReader::new(zero.as_bytes()).is_err());
    }
}
