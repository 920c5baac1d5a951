use proptest::prelude::*;

use super::*;

const NOW_SECS: f64 = 1_700_000_000.0;

fn names() -> LeaseNames {
    LeaseNames::new("web", "web-1")
}

/// Lease as the API server returns it.
fn stored(lease: Value) -> Lease {
    let mut lease = lease;
    lease["metadata"]["uid"] = "u".into();
    lease["metadata"]["resourceVersion"] = "12".into();
    serde_json::from_value(lease).unwrap()
}

fn published(node: &str, run: u64, renewed_secs: f64) -> Lease {
    let report = NodeReport::new(node, "web", run, 1);
    stored(LeaseNames::new("web", node).member_lease(&report, 45, renewed_secs, None))
}

fn slots(taken: &[(&str, u64)]) -> Lease {
    let taken: Vec<_> =
        taken.iter().map(|(node, run)| TakenSlot { node: (*node).to_owned(), run: *run }).collect();
    stored(names().slots_lease(&taken, None))
}

fn listed(leases: &[Lease]) -> Snapshot {
    let names = names();
    let mut listing = LeaseListing::new(&names, NOW_SECS, 45.0);
    leases.iter().for_each(|lease| listing.add(lease).unwrap());
    listing.into_snapshot()
}

#[test]
fn names_of_leases_are_ones_that_the_api_allows() {
    let long = "ü".repeat(126);
    let mut found = Vec::new();
    for (group, node) in
        [("web", "web-1"), ("web", "WEB-1"), ("web", "web 1"), ("db", "web-1"), ("-.A b", &long)]
    {
        let names = LeaseNames::new(group, node);
        for name in [names.member, names.slots, names.label] {
            let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() <= 253 && name.chars().all(is_allowed), "{name}");
            assert!(name.ends_with(|c: char| c.is_ascii_hexdigit()), "{name}");
            found.push(name);
        }
    }
    found.sort();
    found.dedup();
    // Three groups have leases for slots and labels, and each node has a lease.
    assert_eq!(found.len(), 5 + 3 + 3);
    let names = LeaseNames::new("web", "web-1");
    assert!(names.member.starts_with("spillway-web-1-"), "{}", names.member);
    assert!(names.slots.starts_with("spillway-slots-web-"), "{}", names.slots);
    assert!(names.label.len() <= 63 && names.selector().starts_with("spillway.io%2Fgroup%3D"));
}

#[test]
fn member_is_alive_while_its_run_renews_by_the_servers_clock() {
    for (age_secs, is_alive) in
        [(0.0, true), (47.9, true), (48.1, false), (-2.9, true), (-3.1, false)]
    {
        let snapshot = listed(&[published("a", 7, NOW_SECS - age_secs)]);
        assert_eq!(snapshot.members[0].is_alive, is_alive, "{age_secs}");
    }
    let mut another = published("a", 7, NOW_SECS);
    another.spec.holder = Some("8".to_owned());
    assert!(!listed(&[another.clone()]).members[0].is_alive, "a run speaks for itself only");
    another.spec.renewed = None;
    assert!(!listed(&[another]).members[0].is_alive);
    let names = names();
    let mut listing = LeaseListing::new(&names, NOW_SECS, 45.0);
    listing.add(&published("a", 7, NOW_SECS - 3_601.0)).unwrap();
    assert_eq!(listing.take_forgotten().len(), 1);
    assert!(listing.into_snapshot().members.is_empty());
}

#[test]
fn slot_counts_for_the_run_that_renews_alone() {
    let leases = [
        slots(&[("a", 7), ("b", 8), ("c", 9), ("gone", 1)]),
        published("a", 7, NOW_SECS),
        published("b", 18, NOW_SECS),
        published("c", 9, NOW_SECS - 60.0),
    ];
    let snapshot = listed(&leases);
    let held: Vec<_> = snapshot.members.iter().map(|member| member.has_slot).collect();
    assert_eq!((held, snapshot.grant_revision), (vec![true, false, false], 12));
    // Nobody knows what a node without a readable report does.
    let mut garbage = published("a", 7, NOW_SECS);
    let annotations = garbage.metadata.annotations.as_mut().unwrap();
    annotations.insert(REPORT.to_owned(), "garbage".to_owned());
    let snapshot = listed(&[slots(&[("a", 7)]), garbage]);
    assert!(snapshot.members[0].has_slot && snapshot.members[0].report.is_err());
}

#[test]
fn lease_names_the_version_that_it_replaces() {
    let names = names();
    let version = published("web-1", 7, NOW_SECS).version();
    let report = NodeReport::new("web-1", "web", 7, 1);
    let lease = names.member_lease(&report, 45, NOW_SECS + 0.25, Some(&version));
    assert_eq!(
        (&lease["metadata"]["uid"], &lease["metadata"]["resourceVersion"]),
        (&json!("u"), &json!("12"))
    );
    let spec = json!({
        "holderIdentity": "7", "leaseDurationSeconds": 45,
        "renewTime": "2023-11-14T22:13:20.250000Z",
    });
    assert_eq!(lease["spec"], spec);
    let bytes = lease["metadata"]["annotations"].to_string().len();
    assert!(bytes < 400, "{bytes} bytes");
    for secs in [f64::NEG_INFINITY, f64::NAN, 1e300, -1.0] {
        assert!(time_text(secs).ends_with('Z'), "{secs}");
    }
}

#[test]
fn other_objects_are_no_pages() {
    let page = |value: Value| serde_json::from_value::<LeasePage>(value).unwrap().parts();
    let whole = page(json!({
        "kind": "LeaseList", "metadata": { "resourceVersion": "9", "continue": "t" },
        "items": null,
    }));
    assert!(whole.is_ok_and(|(version, next, leases)| {
        (version, next, leases.len()) == ("9".to_owned(), Some("t".to_owned()), 0)
    }));
    let other = page(json!({ "kind": "PodList", "metadata": { "resourceVersion": "9" } }));
    assert_eq!(other.unwrap_err(), "it is a \"PodList\", and no LeaseList");
    assert!(page(json!({ "kind": "LeaseList", "metadata": {} })).is_err());
}

proptest! {
    #[test]
    fn no_list_makes_the_client_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        read_all(&body);
    }

    #[test]
    fn changed_lists_are_read_or_refused(at in 0..2_000_usize, byte in any::<u8>()) {
        let (group, report) = (names(), NodeReport::new("web-1", "web", 7, 1));
        let slot = TakenSlot { node: "web-1".to_owned(), run: 7 };
        let version = published("web-1", 7, NOW_SECS).version();
        let items = [
            group.member_lease(&report, 45, NOW_SECS, Some(&version)),
            group.slots_lease(&[slot], Some(&version)),
        ];
        let page = json!({
            "kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1",
            "metadata": { "resourceVersion": "12", "continue": "" }, "items": items,
        });
        let mut body = page.to_string().into_bytes();
        read_all(&body);
        let at = at % body.len();
        body[at] = byte;
        read_all(&body);
    }

    #[test]
    fn annotations_never_make_a_node_leave(
        texts in prop::collection::vec(("\\PC{0,20}", "\\PC{0,60}", "\\PC{0,80}"), 0..6),
    ) {
        let names = names();
        let mut listing = LeaseListing::new(&names, NOW_SECS, 45.0);
        for (nth, (node, report, time)) in texts.iter().enumerate() {
            let lease = stored(json!({
                "metadata": { "name": format!("l{nth}"),
                    "annotations": { NODE: node, REPORT: report, SLOTS: report } },
                "spec": { "holderIdentity": node, "renewTime": time },
            }));
            listing.add(&lease).unwrap();
        }
        let snapshot = listing.into_snapshot();
        prop_assert!(snapshot.members.len() <= texts.len());
        prop_assert!(snapshot.members.iter().all(|member| member.live_report().is_none()));
    }
}

fn read_all(body: &[u8]) {
    let page = serde_json::from_slice::<LeasePage>(body).ok().and_then(|page| page.parts().ok());
    let Some((_, _, leases)) = page else { return };
    let names = names();
    let mut listing = LeaseListing::new(&names, NOW_SECS, 45.0);
    if leases.iter().try_for_each(|lease| listing.add(lease)).is_ok() {
        let _ = listing.into_snapshot();
    }
}
