//! Attaching the programs of one fallback, and taking the maps through which they report.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::{
    Btf, Ebpf, Pod,
    maps::{Array, Map, MapError},
    programs::{
        BtfTracePoint, FExit, Iter, KProbe, PerfEvent, Program, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use spillway_ebpf::{Offsets, Plain};

use super::{
    batch::BatchMap,
    error,
    fallbacks::{Cause, Unavailable},
    iter::IterHandle,
    samples::pass,
};

/// Program at the hook on socket states, which serves several probes.
const STATES_PROGRAM: &str = "socket_state";

/// Loads and attaches programs for one fallback. It remembers which, so that a failed attempt can
/// be undone.
pub struct AttachContext<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) btf: &'a Btf,
    pub(super) offsets: &'a Offsets,
    /// Numbers of parameters of the kernel functions that fallbacks trace.
    pub(super) parameters: &'a BTreeMap<&'static str, usize>,
    /// Description of the fallback.
    pub(super) at: &'static str,
    /// Programs that this attempt has loaded.
    pub(super) loaded: Vec<String>,
}

impl AttachContext<'_> {
    /// Offsets of this kernel.
    pub fn offsets(&self) -> &Offsets {
        self.offsets
    }

    /// Number of parameters of a kernel function; `None` if it is not in the BTF.
    pub fn parameters_of(&self, function: &str) -> Option<usize> {
        self.parameters.get(function).copied()
    }

    /// Loads an iterator over all objects of a kind and links it.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects the program or the link.
    pub fn iter(&mut self, program: &str, kind: &str) -> Result<IterHandle, Unavailable> {
        self.iter_over(program, kind, None)
    }

    /// Loads an iterator, makes one pass, and calls `each` with each sample.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects the program, or the pass fails.
    pub fn iterate<T: Plain>(
        &mut self,
        program: &str,
        kind: &str,
        each: impl FnMut(T),
    ) -> Result<(), Unavailable> {
        let iter = self.iter(program, kind)?;
        pass(&iter, &mut Vec::new(), each)
            .map(drop)
            .map_err(|error| error::of_io(&format!("a pass of iter/{kind}"), &error))
    }

    /// Loads an iterator over the elements of a hash map or an array and links it.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects the program or the link.
    pub fn iter_map(&mut self, program: &str, map: &str) -> Result<IterHandle, Unavailable> {
        self.iter_over(program, "bpf_map_elem", Some(map))
    }

    fn iter_over(
        &mut self,
        name: &str,
        kind: &str,
        map: Option<&str>,
    ) -> Result<IterHandle, Unavailable> {
        let at = format!("iter/{kind}");
        let btf = self.btf;
        let program: &mut Iter = self.program(name)?;
        program.load(kind, btf).map_err(|error| error::of(&at, &error))?;
        let fd = program
            .fd()
            .and_then(|fd| Ok(fd.try_clone()?))
            .map_err(|error| error::of(&at, &error))?;
        let map = match map {
            Some(name) => match self.ebpf.map(name) {
                Some(Map::HashMap(data) | Map::Array(data)) => Some(data.fd().as_fd()),
                _ => return Err(broken(&format!("the BPF object has no map {name} to walk"))),
            },
            None => None,
        };
        IterHandle::attach(fd.as_fd(), map).map_err(|error| error::of_io(&at, &error))
    }

    /// Attaches a program to a tracepoint, with arguments that the verifier knows by type.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects it.
    pub fn btf_tracepoint(&mut self, name: &str, tracepoint: &str) -> Result<(), Unavailable> {
        let btf = self.btf;
        let program: &mut BtfTracePoint = self.program(name)?;
        program
            .load(tracepoint, btf)
            .and_then(|()| program.attach())
            .map(drop)
            .map_err(|error| error::of(&format!("tp_btf {tracepoint}"), &error))
    }

    /// Attaches a program to a tracepoint, with untyped arguments.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects it.
    pub fn raw_tracepoint(&mut self, name: &str, tracepoint: &str) -> Result<(), Unavailable> {
        let program: &mut RawTracePoint = self.program(name)?;
        program
            .load()
            .and_then(|()| program.attach(tracepoint))
            .map(drop)
            .map_err(|error| error::of(&format!("raw_tp {tracepoint}"), &error))
    }

    /// Attaches a program to the exit of a kernel function.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects it.
    pub fn fexit(&mut self, name: &str, function: &str) -> Result<(), Unavailable> {
        let btf = self.btf;
        let program: &mut FExit = self.program(name)?;
        program
            .load(function, btf)
            .and_then(|()| program.attach())
            .map(drop)
            .map_err(|error| error::of(&format!("fexit {function}"), &error))
    }

    /// Attaches a program to the entry of a kernel function.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects it.
    pub fn kprobe(&mut self, name: &str, function: &str) -> Result<(), Unavailable> {
        let program: &mut KProbe = self.program(name)?;
        program
            .load()
            .and_then(|()| program.attach(function, 0))
            .map(drop)
            .map_err(|error| error::of(&format!("kprobe {function}"), &error))
    }

    /// Attaches a program to every `period`-th event of a kind, on each CPU.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects it.
    pub fn perf_event(
        &mut self,
        name: &str,
        event: SoftwareEvent,
        period: u64,
    ) -> Result<(), Unavailable> {
        let at = self.at;
        let program: &mut PerfEvent = self.program(name)?;
        program.load().map_err(|error| error::of("perf event programs", &error))?;
        let cpus = online_cpus().map_err(|(path, error)| error::of_io(path, &error))?;
        for cpu in cpus {
            program
                .attach(
                    PerfEventConfig::Software(event),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Period(period),
                    false,
                )
                .map_err(|error| error::of(at, &error))?;
        }
        Ok(())
    }

    /// Takes a map out of the BPF object.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such map, or it has another type.
    pub fn take<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &str,
    ) -> Result<T, Unavailable> {
        take(self.ebpf, name)
    }

    /// Takes a hash map that is read in batches, and tries one.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such map, or the kernel does not read maps in batches.
    pub fn take_batched<K: Plain + Default, V: Plain + Default>(
        &mut self,
        name: &str,
    ) -> Result<BatchMap<K, V>, Unavailable> {
        let map = match self.ebpf.take_map(name) {
            Some(Map::HashMap(data)) => BatchMap::over(data),
            _ => None,
        };
        let mut map = map.ok_or_else(|| {
            broken(&format!("the BPF object has no hash map {name} with these sizes"))
        })?;
        map.read(|_, _| ())
            .map_err(|error| error::of_io("lookup of map entries in batches", &error))?;
        Ok(map)
    }

    /// Returns the kernel's id of a per-CPU array.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such map, or the kernel does not describe it.
    pub fn per_cpu_array_id(&self, name: &str) -> Result<u32, Unavailable> {
        let Some(Map::PerCpuArray(data)) = self.ebpf.map(name) else {
            return Err(broken(&format!("the BPF object has no per-CPU array {name}")));
        };
        data.info().map(|info| info.id()).map_err(|error| error::of(&format!("map {name}"), &error))
    }

    /// Sets the single value of an array that stays with the programs.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such map, or it has another type.
    pub fn set<T: Pod>(&mut self, name: &str, value: T) -> Result<(), Unavailable> {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or_else(|| broken(&format!("the BPF object has no map {name}")))?;
        Array::<_, T>::try_from(map)
            .and_then(|mut array| array.set(0, value, 0))
            .map_err(|error| error::of(&format!("map {name}"), &error))
    }

    /// Sets the probes that the hook on socket states serves, as flags. The first attaches the
    /// program that serves them all, the last detaches it.
    pub(super) fn watch_states(&mut self, from: u32, to: u32) -> Result<(), Unavailable> {
        if from == 0 && to != 0 {
            self.btf_tracepoint(STATES_PROGRAM, "inet_sock_set_state")?;
            // Other fallbacks may use it after this one has failed.
            self.loaded.retain(|name| name != STATES_PROGRAM);
        }
        let set = self.set("WATCHED", to);
        if to == 0 {
            self.unload(STATES_PROGRAM);
        }
        set
    }

    /// Detaches every program that this attempt has loaded.
    pub(super) fn undo(&mut self) {
        for name in std::mem::take(&mut self.loaded) {
            self.unload(&name);
        }
    }

    fn unload(&mut self, name: &str) {
        // Unloading fails for a program that was not loaded, which is as good.
        let _ = match self.ebpf.program_mut(name) {
            Some(Program::Iter(program)) => program.unload(),
            Some(Program::BtfTracePoint(program)) => program.unload(),
            Some(Program::RawTracePoint(program)) => program.unload(),
            Some(Program::PerfEvent(program)) => program.unload(),
            Some(Program::FExit(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            _ => Ok(()),
        };
    }

    fn program<'a, T>(&'a mut self, name: &str) -> Result<&'a mut T, Unavailable>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.loaded.push(name.to_owned());
        self.ebpf
            .program_mut(name)
            .ok_or_else(|| broken(&format!("the BPF object has no program {name}")))?
            .try_into()
            .map_err(|error: ProgramError| broken(&format!("program {name}: {error}")))
    }
}

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, Unavailable> {
    ebpf.take_map(name)
        .ok_or_else(|| broken(&format!("the BPF object has no map {name}")))?
        .try_into()
        .map_err(|error: MapError| broken(&format!("map {name}: {error}")))
}

/// Makes an obstacle to a program that its probe can do without a warning.
pub fn optional<T>(attached: Result<T, Unavailable>) -> Option<T> {
    let warn = |obstacle: &Unavailable| {
        tracing::warn!(
            reason = obstacle.reason,
            "a BPF program cannot be attached; /proc and sock_diag are read instead, which needs \
             CAP_SYS_PTRACE and CAP_SYS_ADMIN"
        );
    };
    attached.inspect_err(warn).ok()
}

/// An obstacle that is a bug in the agent.
pub fn broken(reason: &str) -> Unavailable {
    Unavailable::new(Cause::Broken, reason)
}
