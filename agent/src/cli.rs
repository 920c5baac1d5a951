//! Command line of `spillway`: subcommands, arguments and help, from which the manual pages and the
//! shell completions are generated too.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed or without effect, 2 bad usage, configuration or trace.

Examples:
  spillway run                                  watch this host with every default
  spillway run --config /etc/spillway/spillway.toml --json
  spillway record --out host.jsonl --duration 60s
  spillway record --out night.jsonl --last 8h   what the agent sampled while you slept
  spillway replay host.jsonl --decisions
  spillway doctor                               check what each probe can see on this host
  spillway explain --incident ID --out leak.svg draw an incident of the last day
  spillway status                               see incidents, actions and what to do next
  spillway top                                  watch the same in a terminal, second by second
  spillway pause                                stop all new actions
  spillway drain                                drain this node until `spillway resume`
  spillway undo                                 restore everything that Spillway changed
  spillway check-config --print-defaults > spillway.toml";

/// Detects leaks, overload and exhaustion on a Linux host before they become outages.
#[derive(Parser)]
#[command(name = "spillway", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Log more; repeat for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Subcommand
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of `spillway`, each with its arguments.
#[derive(Subcommand)]
pub enum Command {
    /// Watch this host until stopped; print verdicts to standard output, logs to standard error
    Run {
        /// Configuration file [default: every option at its default]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object per line instead of sentences
        #[arg(long)]
        json: bool,
        /// Use only /proc and sock_diag, no BPF
        #[arg(long)]
        no_bpf: bool,
    },
    /// Check a configuration file and report every problem at once
    CheckConfig {
        /// File to check
        #[arg(required_unless_present = "print_defaults")]
        file: Option<PathBuf>,
        /// Print every option with its default instead
        #[arg(long, conflicts_with = "file")]
        print_defaults: bool,
        /// Print the problems as JSON
        #[arg(long)]
        json: bool,
    },
    /// Record everything that the sensors report as a trace, or write one of what the running agent
    /// has sampled each minute
    Record {
        /// New file to write, never overwritten; `-` for standard output
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Duration, such as 60s or 2h
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// Write the samples of the last hours instead, such as 2h, from the agent's history
        #[arg(
            long,
            value_name = "DURATION",
            value_parser = humantime::parse_duration,
            conflicts_with_all = ["duration", "no_bpf"]
        )]
        last: Option<Duration>,
        /// Configuration file, for its intervals and its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Use only /proc and sock_diag, no BPF
        #[arg(long)]
        no_bpf: bool,
    },
    /// Run the detectors over a trace and print their verdicts, one JSON object per line
    Replay {
        /// Trace to read; `-` for standard input
        trace: PathBuf,
        /// Print the policy's decisions as well
        #[arg(long)]
        decisions: bool,
        /// Configuration file [default: every option at its default]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Draw one process or one count of a trace, or an incident of the last day: its resource, the
    /// verdicts, the forecast and what was done
    #[command(group(
        ArgGroup::new("subject").required(true).args(["pid", "count", "incident"])
    ))]
    Explain {
        /// Trace to read; `-` for standard input
        #[arg(required_unless_present = "incident")]
        trace: Option<PathBuf>,
        /// Process id
        #[arg(long, requires = "trace")]
        pid: Option<u32>,
        /// Count, such as `disk_bytes:/var`, or `ptys` for one of the whole host
        #[arg(long, value_name = "RESOURCE[:SUBJECT]", requires = "trace")]
        count: Option<String>,
        /// Incident of the last day, as `spillway status --json` names it
        #[arg(long, value_name = "ID", conflicts_with = "trace")]
        incident: Option<String>,
        /// New SVG file, never overwritten [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Configuration file [default: every option at its default]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show what the running agent sees, has done and would do; exits 1 if none answers or it hangs
    Status {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch the running agent in this terminal: incidents, workloads, listeners, resources and
    /// actions; `?` lists the keys; exits 1 if no agent answers at the start
    Top {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Stop all new actions; those already taken stay until `spillway undo`; exits 1 if the agent
    /// does not take it up
    Pause {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Allow actions again, and return control of drains to the agent
    Resume {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Drain this node and keep it drained until `spillway resume`; exits 1 if it is not drained
    Drain {
        /// Report `maint` instead of `drain` once all connections are closed
        #[arg(long)]
        maintenance: bool,
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Keep this node in service, at a weight of 100 %, until `spillway resume`; exits 1 if it
    /// stays out of rotation
    Undrain {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Restore everything that Spillway changed on this host; exits 1 if something cannot be
    /// restored
    Undo {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Leave a drain as it is, because the agent's next run goes on with it
        #[arg(long)]
        keep_drain: bool,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show the nodes of this node's group, what the group could lose, and whether this node could
    /// leave now; exits 1 if the coordinator does not answer
    Fleet {
        /// Configuration file, for its [fleet]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Report how each probe is attached and what is degraded; exits 1 if nothing works
    Doctor {
        /// Configuration file, to check its [fleet] as well
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Use only /proc and sock_diag, no BPF
        #[arg(long)]
        no_bpf: bool,
    },
}
