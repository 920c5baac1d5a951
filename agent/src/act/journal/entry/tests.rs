use proptest::prelude::*;

use super::*;

fn entry() -> JournalEntry {
    let mut entry = JournalEntry::new("a boot", PathBuf::from("/sys/fs/cgroup/a"), 7);
    entry.record("memory.high", "max", "4096");
    entry
}

#[test]
fn original_and_last_two_values_are_kept() {
    let mut entry = entry();
    for value in ["3", "2", "1"] {
        entry.record("memory.high", "whatever was found", value);
    }
    let change = Change {
        file: "memory.high".into(),
        prior: "max".into(),
        wanted: vec!["2".into(), "1".into()],
    };
    assert_eq!(entry.changes, [change]);
}

#[test]
fn value_in_effect_stays_ours_if_later_ones_are_not_written() {
    let mut entry = entry();
    for value in ["5000", "6000", "7000"] {
        entry.record("memory.high", "4096", value);
    }
    assert!(entry.is_ours("memory.high", "4096") && entry.is_ours("memory.high", "7000"));
    assert_eq!(entry.changes[0].wanted, ["4096", "6000", "7000"]);
}

fn hostile(change: impl FnOnce(&mut serde_json::Value)) -> Result<JournalEntry, String> {
    let mut entry = serde_json::to_value(entry()).unwrap();
    change(&mut entry);
    JournalEntry::read(&serde_json::to_vec(&entry).unwrap())
}

#[test]
fn entry_with_foreign_names_or_values_is_refused() {
    assert!(hostile(|_| {}).is_ok());
    for directory in ["", "a", "sys/fs/cgroup", "/sys/fs/cgroup/../../../etc", "/a/../b", "/a\n/b"]
    {
        assert!(hostile(|entry| entry["directory"] = directory.into()).is_err(), "{directory}");
    }
    for file in [
        "",
        ".",
        "..",
        "cgroup.procs",
        "cgroup.kill",
        "shadow",
        "/etc/shadow",
        "memory.high/",
        "MemoryHigh",
        "release_agent",
    ] {
        let found = hostile(|entry| entry["changes"][0]["file"] = file.into());
        assert!(found.is_err(), "{file}");
    }
    for unit in [
        "",
        ".service",
        "../a.service",
        "a/b.service",
        "a.timer",
        "a b.service",
        "a\n.service",
        ".a.service",
    ] {
        let found = hostile(|entry| entry["unit"] = serde_json::json!({ "name": unit }));
        assert!(found.is_err(), "{unit}");
    }
    for unit in ["api.service", "getty@tty1.service", "dev-disk-by\\x2did.swap", "-.slice"] {
        let found = hostile(|entry| {
            entry["unit"] = serde_json::json!({ "name": unit, "had_drop_ins": ["MemoryMax"] });
            entry["changes"][0]["file"] = "MemoryHigh".into();
        });
        assert!(found.is_ok(), "{unit}: {found:?}");
    }
    for value in ["", " ", "root::0:0:::", "1\n2", "max max max", "0x10", "1;2", "-2"] {
        assert!(hostile(|entry| entry["changes"][0]["prior"] = value.into()).is_err(), "{value:?}");
        assert!(
            hostile(|entry| entry["changes"][0]["wanted"] = vec![value].into()).is_err(),
            "{value:?}"
        );
    }
    for value in ["0", "max", "-1", "max 100000", "18446744073709551615 1000000"] {
        assert!(hostile(|entry| entry["changes"][0]["prior"] = value.into()).is_ok(), "{value:?}");
    }
    let in_unit = |names: [&str; 1]| {
        hostile(|entry| {
            entry["unit"] = serde_json::json!({ "name": "a.service", "had_drop_ins": names })
        })
    };
    assert!(in_unit(["../../x"]).is_err() && in_unit(["CPUWeight"]).is_ok());
    assert!(hostile(|entry| entry["incidents"] = vec!["\u{1b}[2J"].into()).is_err());
    assert!(
        hostile(|entry| entry["split"] = serde_json::json!({ "subtree_control": "+memory" }))
            .is_err()
    );
    let many = serde_json::json!({ "file": "memory.high", "prior": "1", "wanted": ["2"] });
    assert!(hostile(|entry| entry["changes"] = vec![many; 13].into()).is_err());
}

/// Text that may matter to a path, a terminal or a parser.
fn scrap() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9./ @\\\\\n\u{1b}-]{0,24}",
        prop::sample::select(
            [
                "memory.high",
                "MemoryHigh",
                "cgroup.procs",
                "../memory.high",
                "/etc/shadow",
                "max",
                "4096",
                "a.service",
                "leak-1-2",
                "/sys/fs/cgroup/a"
            ]
            .map(str::to_owned)
            .to_vec()
        ),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(JournalEntry::read(&bytes).is_err());
    }

    #[test]
    fn accepted_entry_has_only_allowed_names_and_values(
        (directory, file, prior, wanted) in (scrap(), scrap(), scrap(), prop::collection::vec(scrap(), 0..4)),
        (unit, drop_in, id, control) in (prop::option::of(scrap()), scrap(), scrap(), prop::option::of(scrap())),
    ) {
        let text = serde_json::json!({
            "spillway_journal": 1, "boot_id": "a", "directory": directory, "inode": 7, "incidents": [id],
            "unit": unit.map(|name| serde_json::json!({ "name": name, "had_drop_ins": [drop_in] })),
            "split": control.map(|control| serde_json::json!({ "subtree_control": control })),
            "changes": [{ "file": file, "prior": prior, "wanted": wanted }],
        });
        if let Ok(entry) = JournalEntry::read(text.to_string().as_bytes()) {
            prop_assert!(entry.directory.is_absolute() && !entry.directory.components().any(|part| part.as_os_str() == ".."));
            let change = &entry.changes[0];
            prop_assert!(!change.file.contains('/'));
            prop_assert!(whitelist::CGROUP_FILES.contains(&&*change.file) || entry.unit.is_some() && is_property(&change.file));
            prop_assert!(change.wanted.iter().chain([&change.prior]).all(|value| whitelist::is_value(value)));
            prop_assert!(entry.unit.iter().all(|unit| !unit.name.contains('/') && unit.had_drop_ins.iter().all(|name| is_property(name))));
            prop_assert!(!text.to_string().contains("\\u001b"), "nothing of it moves a cursor");
        }
    }
}
