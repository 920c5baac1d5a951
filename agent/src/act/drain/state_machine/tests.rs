//! What must hold of every way a node may go.

use proptest::prelude::*;

use super::*;

const PACE: DrainTimings = DrainTimings {
    dwell_secs: 30.0,
    drained_within_secs: 120.0,
    verify_secs: 60.0,
    ask_again_secs: 600.0,
};

fn facts(now: f64, wanted: bool) -> Inputs {
    Inputs { now, wanted, may_drain: true, is_useless: false, word: None, is_done: true }
}

/// Steps once a second until `until`, and gives each state with the time at which it was entered.
fn walk(
    machine: &mut DrainState,
    from: u32,
    until: u32,
    facts_at: impl Fn(f64) -> Inputs,
) -> Vec<(u32, DrainPhase)> {
    let mut walked = Vec::new();
    for second in from..until {
        let now = f64::from(second);
        if let Some(step) = machine.step(facts_at(now)) {
            walked.push((second, step.to));
        }
        if machine.phase().is_request()
            && !machine.is_held(now)
            && let Some(step) = machine.answered(now, Reply::Granted)
        {
            walked.push((second, step.to));
        }
    }
    walked
}

#[test]
fn a_node_goes_all_the_way_out_and_back() {
    let mut machine = DrainState::new(PACE);
    let walked = walk(&mut machine, 0, 400, |now| Inputs {
        is_done: now >= 50.0,
        ..facts(now, now < 100.0)
    });
    let all = [
        (0, DrainPhase::DrainRequested),
        (0, DrainPhase::Draining),
        (50, DrainPhase::Drained),
        (100, DrainPhase::Verifying),
        (160, DrainPhase::UndrainRequested),
        (160, DrainPhase::Healthy),
    ];
    assert_eq!(walked, all);
}

#[test]
fn work_is_waited_for_and_not_for_ever() {
    let mut machine = DrainState::new(PACE);
    let walked = walk(&mut machine, 0, 200, |now| Inputs { is_done: false, ..facts(now, true) });
    assert_eq!(walked.last(), Some(&(120, DrainPhase::Drained)));
}

#[test]
fn what_is_refused_is_held_and_asked_for_again_later() {
    let mut machine = DrainState::new(PACE);
    machine.step(facts(0.0, true));
    let step = machine.answered(2.0, Reply::Refused);
    assert_eq!(
        step,
        Some(Transition { from: DrainPhase::DrainRequested, to: DrainPhase::Healthy })
    );
    assert!(machine.step(facts(601.0, true)).is_none() && !machine.is_out());
    assert_eq!(
        machine.step(facts(602.0, true)).map(|step| step.to),
        Some(DrainPhase::DrainRequested)
    );
}

#[test]
fn what_nobody_answers_is_withdrawn_and_never_takes_work_away() {
    let mut machine = DrainState::new(PACE);
    machine.step(facts(0.0, true));
    assert_eq!(
        machine.answered(300.0, Reply::Nothing).map(|step| step.to),
        Some(DrainPhase::UndrainRequested)
    );
    assert!(!machine.is_out());
    assert_eq!(
        machine.answered(301.0, Reply::Granted).map(|step| step.to),
        Some(DrainPhase::Healthy)
    );
    assert!(machine.step(facts(330.0, true)).is_none());
    assert_eq!(
        machine.step(facts(331.0, true)).map(|step| step.to),
        Some(DrainPhase::DrainRequested)
    );
}

#[test]
fn an_undrain_is_asked_for_until_it_is_granted() {
    let mut machine = DrainState::resume(PACE, DrainPhase::UndrainRequested, 0.0, true);
    for round in 0..20 {
        let now = f64::from(round) * 100.0;
        assert!(machine.answered(now, Reply::Nothing).is_none());
        assert!(machine.step(facts(now + 29.0, false)).is_none() && machine.is_out());
        assert_eq!(
            machine.step(facts(now + 30.0, false)).map(|step| step.to),
            Some(DrainPhase::UndrainRequested)
        );
    }
    assert_eq!(
        machine.answered(3_000.0, Reply::Granted).map(|step| step.to),
        Some(DrainPhase::Healthy)
    );
    assert!(!machine.is_out());
}

#[test]
fn a_drain_that_does_not_help_ends_at_once_and_is_not_verified() {
    let mut machine = DrainState::new(PACE);
    walk(&mut machine, 0, 10, |now| facts(now, true));
    assert_eq!(machine.phase(), DrainPhase::Draining);
    let useless = Inputs { is_useless: true, ..facts(10.0, false) };
    assert_eq!(machine.step(useless).map(|step| step.to), Some(DrainPhase::UndrainRequested));
    machine.answered(10.0, Reply::Granted);
    assert!(!machine.is_out());
}

#[test]
fn an_operator_waits_for_nothing() {
    let mut machine = DrainState::new(PACE);
    machine.step(facts(0.0, true));
    machine.answered(0.0, Reply::Refused);
    let says = |now, word| Inputs { word: Some(word), may_drain: false, ..facts(now, true) };
    assert_eq!(
        machine.step(says(1.0, Override::Drain)).map(|step| step.to),
        Some(DrainPhase::DrainRequested)
    );
    machine.answered(1.0, Reply::Granted);
    assert_eq!(
        machine.step(says(2.0, Override::Undrain)).map(|step| step.to),
        Some(DrainPhase::UndrainRequested)
    );
    machine.answered(2.0, Reply::Granted);
    assert!((3..2_000).all(|now| machine.step(says(f64::from(now), Override::Undrain)).is_none()));
}

/// What may follow on what.
fn may_follow(step: Transition) -> bool {
    use DrainPhase::*;
    matches!(
        (step.from, step.to),
        (Healthy, DrainRequested)
            | (DrainRequested, Draining | Healthy | UndrainRequested)
            | (Draining, Drained | Verifying | UndrainRequested)
            | (Drained, Verifying | UndrainRequested)
            | (Verifying, Draining | UndrainRequested)
            | (UndrainRequested, Healthy | DrainRequested | UndrainRequested)
    )
}

fn words() -> impl Strategy<Value = Option<Override>> {
    prop_oneof![
        12 => Just(None),
        1 => Just(Some(Override::Drain)),
        1 => Just(Some(Override::Maintenance)),
        1 => Just(Some(Override::Undrain)),
    ]
}

fn answers() -> impl Strategy<Value = Option<Reply>> {
    prop_oneof![
        4 => Just(None),
        4 => Just(Some(Reply::Granted)),
        1 => Just(Some(Reply::Refused)),
        1 => Just(Some(Reply::Nothing)),
        1 => Just(Some(Reply::Closed)),
    ]
}

/// Seconds since the last, whether a drain is wanted and may be asked for, whether the work is done,
/// and what is answered.
type Moment = (f64, bool, bool, bool, Option<Reply>);

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    prop::collection::vec(
        (0.0..40.0_f64, any::<bool>(), any::<bool>(), any::<bool>(), answers()),
        1..300,
    )
}

proptest! {
    #[test]
    fn it_never_skips_and_is_never_out_without_a_grant(
        moments in moments(),
        words in prop::collection::vec(words(), 300),
        restarts in prop::collection::vec(any::<u8>(), 300),
        useless in prop::collection::vec(any::<bool>(), 300),
    ) {
        let (mut machine, mut now, mut was_granted) = (DrainState::new(PACE), 0.0, false);
        for (nth, (later, wanted, may_drain, is_done, answer)) in moments.into_iter().enumerate() {
            now += later;
            if restarts[nth] < 20 {
                // The next run begins its clock anew, and goes on where this one was.
                let age = now - machine.since();
                let (phase, is_out) = (machine.phase(), machine.is_out());
                if phase != DrainPhase::Healthy {
                    (machine, now) = (DrainState::resume(PACE, phase, 0.0 - age, is_out), 0.0);
                }
            }
            let mut steps = Vec::new();
            steps.extend(machine.step(Inputs { now, wanted, may_drain, is_useless: useless[nth], word: words[nth], is_done }));
            if let Some(answer) = answer {
                was_granted |= answer == Reply::Granted && machine.phase() == DrainPhase::DrainRequested;
                steps.extend(machine.answered(now, answer));
            }
            for step in &steps {
                prop_assert!(may_follow(*step), "{step:?}");
                was_granted &= step.to != DrainPhase::Healthy;
            }
            prop_assert!(!machine.is_out() || was_granted);
            let is_out_there = matches!(machine.phase(), DrainPhase::Draining | DrainPhase::Drained | DrainPhase::Verifying);
            prop_assert!(machine.is_out() || !is_out_there);
            prop_assert!(!machine.is_out() || machine.phase() != DrainPhase::Healthy);
        }
    }

    #[test]
    fn it_never_flaps_faster_than_its_least_times(moments in moments()) {
        let (mut machine, mut now) = (DrainState::new(PACE), 0.0);
        let (mut entered, mut taken_out) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        let mut given_back = f64::NEG_INFINITY;
        for (later, wanted, may_drain, is_done, answer) in moments {
            now += later;
            let was_out = machine.is_out();
            let stepped = machine.step(Inputs { now, wanted, may_drain, is_useless: false, word: None, is_done });
            let answered = answer.and_then(|answer| machine.answered(now, answer));
            for step in stepped.into_iter().chain(answered) {
                if !step.from.is_request() {
                    prop_assert!(now - entered >= PACE.dwell_secs, "{step:?} after \
                    {}", now - entered);
                }
                entered = now;
            }
            match (was_out, machine.is_out()) {
                (false, true) => {
                    prop_assert!(now - given_back >= PACE.dwell_secs);
                    taken_out = now;
                }
                (true, false) if machine.phase() == DrainPhase::Healthy => {
                    prop_assert!(now - taken_out >= PACE.dwell_secs + PACE.verify_secs);
                    given_back = now;
                }
                _ => {}
            }
        }
    }

    #[test]
    fn an_operators_word_wins(moments in moments(), says_drain in any::<bool>()) {
        let (mut machine, mut now) = (DrainState::new(PACE), 0.0);
        for (later, wanted, may_drain, is_done, answer) in moments {
            now += later;
            machine.step(Inputs { now, wanted, may_drain, is_useless: false, word: None, is_done });
            answer.map(|answer| machine.answered(now, answer));
        }
        let word = Some(if says_drain { Override::Drain } else { Override::Undrain });
        for _ in 0..8 {
            now += PACE.ask_again_secs;
            machine.step(Inputs {
                now,
                wanted: !says_drain,
                may_drain: !says_drain,
                is_useless: true,
                word,
                is_done: true,
            });
            machine.answered(now, Reply::Granted);
        }
        let end = if says_drain { DrainPhase::Drained } else { DrainPhase::Healthy };
        prop_assert_eq!(machine.phase(), end);
    }
}
