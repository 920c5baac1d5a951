use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const MARGIN: u64 = 64 * MIB;

fn controller(usage_bytes: u64) -> LimitController {
    LimitController::new(0.0, min_limit_bytes(usage_bytes, MARGIN), usage_bytes, MARGIN)
}

fn reading(controller: &LimitController, t: f64, usage_bytes: u64) -> CgroupReading {
    CgroupReading {
        t,
        limit_bytes: Some(controller.limit_bytes()),
        usage_bytes,
        full_pressure: Some(0.0),
    }
}

#[test]
fn limit_changed_by_others_is_restored_three_times() {
    let mut controller = controller(100 * MIB);
    let limit_bytes = controller.limit_bytes();
    for t in 1..=3 {
        let wiped =
            CgroupReading { limit_bytes: None, ..reading(&controller, f64::from(t), 100 * MIB) };
        assert_eq!(controller.adjust(wiped), Some(Adjustment::Reassert(limit_bytes)));
        let set = reading(&controller, f64::from(t) + 0.5, 100 * MIB);
        assert_eq!(controller.adjust(set), None);
    }
    let wiped = CgroupReading {
        limit_bytes: Some(limit_bytes + 1),
        ..reading(&controller, 4.0, 100 * MIB)
    };
    assert_eq!(controller.adjust(wiped), Some(Adjustment::Yield));
}

#[test]
fn lower_limit_of_others_is_left_to_them_at_once() {
    let mut controller = controller(100 * MIB);
    let lower = CgroupReading {
        limit_bytes: Some(controller.limit_bytes() - 4_096),
        ..reading(&controller, 1.0, 100 * MIB)
    };
    assert_eq!(controller.adjust(lower), Some(Adjustment::Yield));
}

#[test]
fn limit_set_again_leaves_the_margin() {
    let mut controller = controller(100 * MIB);
    let wiped = CgroupReading { limit_bytes: None, ..reading(&controller, 1.0, 300 * MIB) };
    assert_eq!(
        controller.adjust(wiped),
        Some(Adjustment::Reassert(min_limit_bytes(300 * MIB, MARGIN)))
    );
}

#[test]
fn thrashing_raises_limit_three_times_then_is_reported() {
    let mut controller = controller(100 * MIB);
    let mut steps = Vec::new();
    for t in 0..100 {
        let usage_bytes = controller.limit_bytes();
        let waits = CgroupReading {
            full_pressure: Some(0.9),
            ..reading(&controller, f64::from(t), usage_bytes)
        };
        steps.extend(controller.adjust(waits).map(|step| (t, step)));
    }
    let kinds: Vec<_> =
        steps.iter().map(|(t, step)| (*t, matches!(step, Adjustment::BackOff(_)))).collect();
    assert_eq!(kinds, [(10, true), (21, true), (32, true), (43, false)], "{steps:?}");
    assert_eq!(steps[3].1, Adjustment::Thrashing);
}

#[test]
fn recharged_memory_widens_by_one_margin_at_a_time() {
    let mut controller = controller(0);
    let first = controller.limit_bytes();
    let at_limit = |controller: &mut LimitController, t: f64| {
        let usage_bytes = controller.limit_bytes();
        controller.adjust(reading(controller, t, usage_bytes))
    };
    assert_eq!(at_limit(&mut controller, 1.0), None);
    controller.allow_recharged(100 * MIB);
    assert!(!controller.is_pressed(0) && controller.is_pressed(first));
    assert_eq!(controller.adjust(reading(&controller, 2.0, 0)), None, "there is room enough");
    let steps: Vec<_> =
        (3..9_u32).filter_map(|t| at_limit(&mut controller, f64::from(t))).collect();
    assert!(steps.iter().all(|step| matches!(step, Adjustment::Widen(_))), "{steps:?}");
    assert_eq!((steps.len(), controller.limit_bytes()), (1, first + 100 * MIB));
    // A smaller amount changes nothing.
    controller.allow_recharged(10 * MIB);
    assert_eq!(at_limit(&mut controller, 10.0), None);
    controller.allow_recharged(100 * MIB + MARGIN / 16);
    assert_eq!(at_limit(&mut controller, 11.0), None, "too little");
    controller.allow_recharged(500 * MIB);
    let wider = min_limit_bytes(controller.limit_bytes(), MARGIN) + MARGIN;
    assert_eq!(at_limit(&mut controller, 12.0), Some(Adjustment::Widen(wider)));
}

#[test]
fn limit_that_became_too_wide_is_lowered_in_steps() {
    let mut controller = controller(300 * MIB);
    assert_eq!(controller.adjust(reading(&controller, 10.0, 299 * MIB)), None);
    let next = min_limit_bytes(200 * MIB, MARGIN);
    assert_eq!(
        controller.adjust(reading(&controller, 11.0, 200 * MIB)),
        Some(Adjustment::Tighten(next))
    );
    assert_eq!(
        controller.adjust(reading(&controller, 12.0, 100 * MIB)),
        None,
        "the effect of the last reduction is awaited"
    );
    assert!(matches!(
        controller.adjust(reading(&controller, 21.0, 100 * MIB)),
        Some(Adjustment::Tighten(_))
    ));
}

#[test]
fn stopped_growth_is_reported_once_until_it_grows_again() {
    let mut controller = controller(100 * MIB);
    let reported = |controller: &mut LimitController,
                    secs: std::ops::Range<u32>,
                    usage_bytes: u64|
     -> Vec<(u32, Adjustment)> {
        secs.filter_map(|t| {
            controller.adjust(reading(controller, f64::from(t), usage_bytes)).map(|step| (t, step))
        })
        .collect()
    };
    assert_eq!(reported(&mut controller, 1..200, 150 * MIB), [(61, Adjustment::GrowthStopped)]);
    assert_eq!(reported(&mut controller, 200..400, 160 * MIB), [(260, Adjustment::GrowthStopped)]);
}

#[test]
fn foreign_change_after_the_incident_is_left_alone() {
    let mut controller = controller(100 * MIB);
    controller.end();
    let at_limit = controller.limit_bytes();
    let wiped = CgroupReading { limit_bytes: None, ..reading(&controller, 1.0, at_limit) };
    assert_eq!(controller.adjust(wiped), Some(Adjustment::Lift));
}

#[test]
fn limit_is_lifted_after_the_incident_unless_it_holds() {
    let mut controller = controller(100 * MIB);
    let at_limit = controller.limit_bytes();
    assert_eq!(controller.adjust(reading(&controller, 1.0, at_limit)), None);
    controller.end();
    assert_eq!(
        controller.adjust(reading(&controller, 2.0, at_limit)),
        Some(Adjustment::KeptAfterIncident)
    );
    assert_eq!(controller.adjust(reading(&controller, 3.0, at_limit)), None);
    assert_eq!(controller.adjust(reading(&controller, 4.0, 10 * MIB)), Some(Adjustment::Lift));
}

proptest! {
    #[test]
    fn adjustments_leave_the_margin_and_come_to_an_end(
        readings in prop::collection::vec((0.0..20.0_f64, 0..1_000_u64, any::<bool>(), prop::option::of(0.0..1.0_f64)), 1..300),
        ends_at in 0..300_usize,
    ) {
        let mut controller = controller(100 * MIB);
        let (mut t, mut reasserts, mut back_offs) = (0.0, 0, 0);
        for (nth, (later, usage_mib, is_changed, full_pressure)) in readings.into_iter().enumerate() {
            t += later;
            if nth == ends_at {
                controller.end();
            }
            let usage_bytes = usage_mib * MIB;
            let limit_bytes = Some(controller.limit_bytes()).filter(|_| !is_changed);
            match controller.adjust(CgroupReading { t, limit_bytes, usage_bytes, full_pressure }) {
                Some(step @ (Adjustment::Reassert(bytes) | Adjustment::Tighten(bytes) | Adjustment::BackOff(bytes))) => {
                    prop_assert!(bytes >= usage_bytes + MARGIN && bytes % 4_096 == 0);
                    prop_assert_eq!(bytes, controller.limit_bytes());
                    reasserts += u32::from(matches!(step, Adjustment::Reassert(_)));
                    back_offs += u32::from(matches!(step, Adjustment::BackOff(_)));
                }
                Some(Adjustment::Lift) => {
                    prop_assert!(nth >= ends_at);
                    prop_assert!(is_changed || usage_bytes + MARGIN <= controller.limit_bytes());
                    break;
                }
                Some(Adjustment::Yield) => break,
                _ => {}
            }
        }
        prop_assert!(reasserts <= REASSERTS_MAX && back_offs <= BACK_OFFS_MAX);
    }
}
