//! With root on this host: the agent as it is installed, its sensors and its limits, each test with
//! cgroups, namespaces and workloads of its own. In parallel, since what a test says concerns only
//! what it has made.

mod agent;
mod attacks;
mod cascade;
mod confine;
mod cordon;
mod faults;
mod limit;
mod names;
mod overflows;
mod page;
mod pids;
mod pods;
mod printable;
mod remote;
mod secrets;
mod serve;
