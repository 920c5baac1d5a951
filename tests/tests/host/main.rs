//! Tests that need root on this host: the installed agent, its sensors and its limits. Each test
//! has its own cgroups, namespaces and workloads and checks only those, so they run in parallel.

mod agent;
mod attacks;
mod browser;
mod cascade;
mod cgroup_leaks;
mod cgroup_namespace;
mod confine;
mod cordon;
mod counts;
mod daemonset;
mod disks;
mod etcd;
mod faults;
mod fleet;
mod fleet_partition;
mod history;
mod limit;
mod metrics;
mod names;
mod overflows;
mod page;
mod pids;
mod pods;
mod printable;
mod real_kubernetes;
mod remote;
mod restart;
mod secrets;
mod serve;
mod shed;
mod status;
mod telemetry;
mod top;
