//! Scenes: a server, a load or a fault, and the right answer.

use super::{clients::Connections, play::Started, stage::Stage, wire::Wire};

/// Server of one kind, with its scenes.
pub struct Family {
    /// Name of the server.
    pub name: &'static str,
    /// Paths of programs that it needs, below the root of the unpacked packages; without one, all
    /// its scenes are skipped.
    pub needs: &'static [&'static str],
    /// Time that a request takes, in seconds, while nothing is wrong.
    pub service_secs: f64,
    /// Requests that it serves at once.
    pub workers: u32,
    /// Set if each connection costs it a process, so that it may be short of CPU.
    pub forks: bool,
    /// Protocol and request.
    pub wire: fn() -> Wire,
    /// Starts the server.
    pub start: fn(&Stage) -> anyhow::Result<Started>,
    /// Returns the scenes.
    pub scenes: fn() -> Vec<Scene>,
}

impl Family {
    /// Requests a second that it can answer.
    pub fn capacity(&self) -> f64 {
        f64::from(self.workers) / self.service_secs
    }
}

/// Load in the time that matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Requests that are due at a rate, as a multiple of capacity.
    Open(f64, Connections),
    /// Connections that stay open, each with a request at any time.
    Closed(u32),
}

/// Fault in the time that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// Workers stop in the middle of their requests.
    Stuck,
    /// Requests take [`SLOW_SECS`].
    Slow,
    /// The service that it depends on takes requests and answers none.
    DependencySilent,
    /// The service that it depends on does not even accept connections.
    DependencyGone,
}

/// Duration of a request in a slow time.
pub const SLOW_SECS: f64 = 2.0;

/// Right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No overload above `info`.
    Healthy,
    /// Overload of the server, raised in time and cleared after it.
    Overload,
    /// Such an overload, short of workers or of the service that it depends on; or a claim about that
    /// service.
    Dependency,
}

/// One scene.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scene {
    /// Name, after the family's.
    pub name: &'static str,
    /// Load in the time that matters. Before it, half of capacity comes in the same way.
    pub load: Load,
    /// Fault in the time that matters.
    pub fault: Fault,
    /// Time after which clients give up, in seconds.
    pub patience_secs: Option<f64>,
    /// Right answer.
    pub expected: Expected,
    /// Set if the server is a proxy, whose dependency is a real server.
    pub is_proxy: bool,
}

impl Scene {
    /// Returns true if the server asks a service of the scene's own for each request.
    pub(super) fn has_dependency(&self) -> bool {
        let fails = matches!(self.fault, Fault::DependencySilent | Fault::DependencyGone);
        fails && !self.is_proxy
    }
}

const fn open(name: &'static str, over: f64, connections: Connections) -> Scene {
    let expected = if over > 1.0 { Expected::Overload } else { Expected::Healthy };
    let load = Load::Open(over, connections);
    Scene { name, load, fault: Fault::None, patience_secs: None, expected, is_proxy: false }
}

const fn faulty(name: &'static str, fault: Fault, connections: Connections) -> Scene {
    let expected = match fault {
        Fault::DependencySilent | Fault::DependencyGone => Expected::Dependency,
        _ => Expected::Overload,
    };
    Scene { fault, expected, ..open(name, 0.5, connections) }
}

/// Returns the scenes of every server: below, around and above capacity, and stuck workers.
/// `closed` is a number of clients that wait for seconds.
pub fn usual(closed: u32) -> Vec<Scene> {
    use Connections::{New, Pooled};
    let closed = Scene { load: Load::Closed(closed), ..open("closed-loop", 2.0, Pooled) };
    vec![
        open("half-new", 0.5, New),
        open("four-fifths-pooled", 0.8, Pooled),
        open("just-under-pooled", 0.93, Pooled),
        open("over-pooled", 1.3, Pooled),
        open("double-new", 2.0, New),
        Scene { patience_secs: Some(1.0), ..open("double-giving-up", 2.0, New) },
        closed,
        faulty("stuck-pooled", Fault::Stuck, Pooled),
    ]
}

/// Returns the scenes of a server that asks another for each request.
pub fn dependent() -> Vec<Scene> {
    vec![
        faulty("dependency-silent", Fault::DependencySilent, Connections::Pooled),
        faulty("dependency-gone", Fault::DependencyGone, Connections::New),
    ]
}

/// Returns the scenes of a proxy: an overload is that of the server behind it.
pub fn upstream(closed: u32) -> Vec<Scene> {
    let silent = faulty("upstream-stopped", Fault::DependencySilent, Connections::Pooled);
    let mut scenes = [usual(closed), slowed(), vec![silent]].concat();
    for scene in &mut scenes {
        scene.is_proxy = true;
        if scene.expected == Expected::Overload {
            scene.expected = Expected::Dependency;
        }
    }
    scenes
}

/// Returns the scene of a server whose requests take seconds of a sudden.
pub fn slowed() -> Vec<Scene> {
    vec![faulty("slow-pooled", Fault::Slow, Connections::Pooled)]
}
