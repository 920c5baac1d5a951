use std::{fs, io::Write as _};

use super::*;

#[test]
fn numbers_are_found_by_their_place_and_unit() {
    let sockstat =
        "sockets: used 18\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 5\nUDP: inuse 6 mem 7\n";
    let page = procfs::page_size();
    for (number, text, found) in [
        (nth("", 4), "1.45 1.74 2.08 6/114 15412\n", Some(114)),
        (nth("", 2), "703\t0\t9223372036854775807\n", Some(9_223_372_036_854_775_807)),
        (nth("", 3), "32000\t1024000000\t500\t32001\n", Some(32_001)),
        (only(""), "32768\n", Some(32_768)),
        (after("", "orphan"), sockstat, Some(2)),
        (after("", "tw"), sockstat, Some(3)),
        (after("", "mem").pages(), sockstat, Some(5 * page)),
        (memory("Percpu:"), "PercpuX: 1 kB\nPercpu:   2304 kB\n", Some(2_304 << 10)),
    ] {
        assert_eq!(number.find(text), found, "{text:?}");
    }
}

#[test]
fn odd_numbers_are_absent() {
    for (number, text) in [
        (only(""), ""),
        (only(""), "\n"),
        (only(""), "-1\n"),
        (only(""), "max\n"),
        (only(""), "1.5\n"),
        (only(""), "18446744073709551616\n"),
        (nth("", 2), "1 2\n"),
        (nth("", usize::MAX), "1 2\n"),
        (after("", "tw"), "TCP: inuse 1 orphan 2\n"),
        (after("", "tw"), "TCP: tw"),
        (after("", "tw"), "TCP: tw tw 1"),
        (after("", "tw"), "TCP: tw2 1"),
        (memory("Percpu:"), "Percpu: 18446744073709551615 kB\n"),
        (only("").pages(), "18446744073709551615\n"),
    ] {
        assert_eq!(number.find(text), None, "{text:?}");
    }
}

#[test]
fn those_with_most_keys_are_given_without_root() {
    let user = |uid, used, limit| KeyUser { uid, used, limit };
    let text = "    0:     9 8/8 3/1000000 40/25000000\n\
         1000:     3 3/3 3/200 40/20000\n\
         4294967294: 1 1/1 200/200 9/20000\n";
    assert_eq!(key_users(text), [user(4_294_967_294, 200, 200), user(1_000, 3, 200)]);
    for line in [
        "",
        ":",
        "1000",
        "1000:",
        "1000: 3 3/3 3",
        "1000: 3 3/3 -3/200",
        "1000: 3 3/3 3/200/1 4/5",
        "-1: 3 3/3 3/200 40/20000",
        "4294967296: 3 3/3 3/200 40/20000",
        "root: 3 3/3 3/200 40/20000",
    ] {
        assert_eq!(key_users(line), [], "{line:?}");
    }
    let many: String = (1..=300).map(|uid| format!("{uid}: 1 1/1 {uid}/200 4/20000\n")).collect();
    let users = key_users(&many);
    assert_eq!((users.len(), users[0].uid, users[99].uid), (KEY_USERS_MAX, 300, 201));
}

#[test]
fn limit_of_zero_or_of_everything_is_none() {
    for (limit, given) in [(0, None), (1, Some(1)), (UNLIMITED - 1, Some(UNLIMITED - 1))]
        .into_iter()
        .chain([(UNLIMITED, None), (u64::MAX, None)])
    {
        let Fact::Count(fact) = fact(&R::OpenFiles, Arc::from("host"), 7, Some(limit)) else {
            unreachable!("it is a count");
        };
        assert_eq!((fact.used, fact.limit), (7, given));
    }
}

#[test]
fn only_whole_lines_of_a_file_are_taken() {
    let mut file = tempfile(b"1: 2\n3: 45");
    let mut kept = KeptFile { file: Some(file.try_clone().unwrap()), ..KeptFile::default() };
    kept.reread("").unwrap();
    assert_eq!(kept.text, "1: 2\n");
    file.write_all(b"6\n").unwrap();
    kept.reread("").unwrap();
    assert_eq!(kept.text, "1: 2\n3: 456\n");
    file.set_len(0).unwrap();
    kept.reread("").unwrap();
    assert_eq!(kept.text, "");
    kept.file = Some(tempfile("7\n".repeat(FILE_BYTES_MAX).as_bytes()));
    kept.reread("").unwrap();
    assert_eq!(kept.text.len(), FILE_BYTES_MAX);
    kept.file = Some(tempfile(b"7 \xff\n"));
    assert!(kept.reread("").is_err());
}

/// Makes a file with this text that has no name any more.
fn tempfile(text: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!(
        "spillway-counts-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    fs::remove_file(path).unwrap();
    file.write_all(text).unwrap();
    file
}

#[test]
fn missing_files_are_no_failure_and_others_are() {
    let mut files = KeptFiles { round: 1, ..KeptFiles::default() };
    assert_eq!(files.number(only("/proc/sys/kernel/no-such-setting")), None);
    assert!(files.failed.is_none());
    assert_eq!(files.number(only("/proc/sys/kernel")), None, "a directory");
    assert!(files.failed.is_some());
}
