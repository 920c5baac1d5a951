//! With root and with this host to itself: what measures time or processor time, and what fills
//! tables that all agents on a host share. Each test runs alone.

mod allocations;
mod drain;
mod floods;
mod listeners;
mod overload;
mod processes;
mod requests;
