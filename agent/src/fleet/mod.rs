//! Fleet: nodes of a group leave rotation one after another, and only while the others can carry
//! the load.
//!
//! ```text
//! NodeReport → Coordinator → Snapshot → grant → slot → drain
//! ```
//!
//! Each node publishes a [`NodeReport`] through a [`Coordinator`], an existing service such as
//! etcd. A node that has to leave reads a [`Snapshot`] of its group and judges it with [`grant`],
//! which is pure: granted only if the rest can carry its load, and slots, percentages and the order
//! of [`turns`] allow it. Then it takes a slot, which fails if another node took one since the
//! snapshot. [`Margins`] say whether the group could lose a node, a zone or a region now.
//!
//! Cold start: no report, so nothing is granted. Failure: an unknown node, an unreadable report and
//! a coordinator that does not answer never count in favour of a drain. Undrains need no grant.

mod capacity;
mod coordinator;
mod etcd;
mod fleetlock;
mod grant;
mod group_outlook;
mod join;
mod kubernetes;
mod limits;
mod margins;
mod member;
mod proven;
mod report;
mod shared_page;
mod snapshot;
mod storm_brake;
mod surge;
mod survey;
pub mod turns;

pub use capacity::{Shortfall, Unit};
pub use coordinator::{Acquired, Coordinator, CoordinatorError, PageSubject};
#[cfg(any(test, fuzzing))]
pub(crate) use etcd::snapshot_of_reply;
pub use etcd::{EtcdCoordinator, EtcdOptions};
pub use fleetlock::FleetLock;
pub use grant::{GrantRefusal, grant};
pub use group_outlook::group_outlook;
pub use join::{coordinator, tls_options};
#[cfg(any(test, fuzzing))]
pub(crate) use kubernetes::snapshot_of_list;
pub use kubernetes::{KubernetesCoordinator, KubernetesOptions, TokenSource};
pub use limits::GroupLimits;
pub use margins::{Domain, Margin, Margins};
pub use member::{FleetMember, NodeFacts, NodeNames, Permit, Rotation};
pub use proven::ProvenLoad;
pub use report::{
    ForecastEnd, GivenUpLoad, Load, NodeReport, NodeState, REPORT_BYTES_MAX, ReportError,
};
pub use snapshot::{Member, Snapshot};
pub use storm_brake::StormBrake;
pub use surge::SurgeMeter;
pub use survey::{Survey, SurveyedMargin, SurveyedNode};
