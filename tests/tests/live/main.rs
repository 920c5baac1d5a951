//! Tests that need root and this host to themselves: they measure time or processor time, or fill
//! tables that all agents on a host share. Each runs alone.

mod allocations;
mod balancers;
mod drain;
mod drain_requests;
mod floods;
mod listeners;
mod overload;
mod processes;
mod real_servers;
mod refused;
mod requests;
mod shed;
mod soak;
