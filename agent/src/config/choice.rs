//! Options with a few named values.

/// Type whose values each have a name in the configuration.
pub trait Choice: Copy + Sync + 'static {
    /// All values, in the order of the hint.
    const ALL: &'static [Self];

    /// Noun with its article, as in "is not a mode".
    const NOUN: &'static str;

    /// Advice that names every value in quotes.
    const HINT: &'static str;

    /// Name in the configuration and in output.
    fn name(self) -> &'static str;
}

/// Choice between carrying decisions out and only reporting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Decisions are printed and recorded, not carried out.
    #[default]
    Observe,
    /// Enabled actions are carried out.
    Enforce,
}

/// Service through which the nodes of a group coordinate their drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FleetBackend {
    /// No coordination.
    #[default]
    None,
    /// FleetLock, which counts the nodes that are out.
    FleetLock,
    /// etcd version 3, which keeps each node's report.
    Etcd,
    /// Lease objects of Kubernetes, which keep each node's report.
    Kubernetes,
}

/// Form in which counters are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CounterForm {
    /// Total since the start of the agent.
    #[default]
    Cumulative,
    /// Increase since the last export.
    Delta,
}

/// Nodes that a load balancer gives the load of a node that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Those in its zone, and in its region if none of them serves.
    #[default]
    Zone,
    /// Those in its region, and in the group if none of them serves.
    Region,
    /// All of the group.
    Group,
}

impl FleetBackend {
    /// Returns whether it knows the load of the other nodes.
    pub fn knows_load(self) -> bool {
        matches!(self, Self::Etcd | Self::Kubernetes)
    }
}

impl Choice for Mode {
    const ALL: &'static [Self] = &[Self::Observe, Self::Enforce];
    const NOUN: &'static str = "a mode";
    const HINT: &'static str =
        r#""observe" only records what would be done; "enforce" carries out enabled actions"#;

    fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

impl Choice for FleetBackend {
    const ALL: &'static [Self] = &[Self::None, Self::FleetLock, Self::Etcd, Self::Kubernetes];
    const NOUN: &'static str = "a coordinator";
    const HINT: &'static str = r#"one of "none", "fleetlock", "etcd" and "kubernetes""#;

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FleetLock => "fleetlock",
            Self::Etcd => "etcd",
            Self::Kubernetes => "kubernetes",
        }
    }
}

impl Choice for CounterForm {
    const ALL: &'static [Self] = &[Self::Cumulative, Self::Delta];
    const NOUN: &'static str = "a form of counters";
    const HINT: &'static str =
        r#""cumulative" for totals since the start, "delta" for increases since the last export"#;

    fn name(self) -> &'static str {
        match self {
            Self::Cumulative => "cumulative",
            Self::Delta => "delta",
        }
    }
}

impl Choice for Reach {
    const ALL: &'static [Self] = &[Self::Zone, Self::Region, Self::Group];
    const NOUN: &'static str = "a set of nodes";
    const HINT: &'static str = r#"one of "zone", "region" and "group""#;

    fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Group => "group",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_names_every_value<T: Choice>() {
        for value in T::ALL {
            assert!(T::HINT.contains(&format!("\"{}\"", value.name())), "{}", value.name());
        }
    }

    #[test]
    fn hints_name_every_value() {
        hint_names_every_value::<Mode>();
        hint_names_every_value::<FleetBackend>();
        hint_names_every_value::<CounterForm>();
        hint_names_every_value::<Reach>();
    }
}
