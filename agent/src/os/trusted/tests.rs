use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::PathBuf,
};

use nix::{
    sys::stat::Mode as NixMode,
    unistd::{Uid, chown, geteuid, mkfifo},
};

use super::*;
use crate::os::StateDir;

/// A directory of this test, in one with the sticky bit.
struct Scratch(PathBuf);

impl Scratch {
    fn make(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("spillway-trusted-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, mode: u32) -> PathBuf {
        fs::write(self.path(name), "text").unwrap();
        self.set(name, mode);
        self.path(name)
    }

    fn set(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn refusal<T: std::fmt::Debug>(found: io::Result<T>) -> String {
    let error = found.unwrap_err();
    Untrusted::of(&error).unwrap_or_else(|| panic!("not a refusal: {error}"));
    let text = error.to_string();
    assert!(text.contains("\n  hint: "), "{text}");
    text
}

fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    read(path, PathRules::NAMED, FileRules::secret(64))
}

#[test]
fn a_file_is_read_unless_others_may_read_or_change_it() {
    let scratch = Scratch::make("modes");
    for mode in [0o400, 0o440, 0o600, 0o640, 0o700] {
        assert_eq!(read_secret(&scratch.file(&format!("{mode:o}"), mode)).unwrap(), b"text");
    }
    for mode in [0o604, 0o602, 0o601, 0o620, 0o666] {
        let wrong = refusal(read_secret(&scratch.file(&format!("{mode:o}"), mode)));
        assert!(wrong.contains(&format!("has mode 0{mode:o}")), "{wrong}");
    }
    let public = scratch.file("public", 0o644);
    assert_eq!(read(&public, PathRules::NAMED, FileRules::public(64)).unwrap(), b"text");
    let wrong = refusal(read(&public, PathRules::NAMED, FileRules::public(3)));
    assert!(wrong.contains("is larger than 3 bytes"), "{wrong}");
    assert_eq!(read_secret(&scratch.path("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(read_secret(&scratch.0).unwrap_err().kind(), io::ErrorKind::IsADirectory);
}

#[test]
fn other_files_than_regular_ones_are_not_opened() {
    let scratch = Scratch::make("kinds");
    mkfifo(&scratch.path("fifo"), NixMode::from_bits_truncate(0o600)).unwrap();
    let _socket = UnixListener::bind(scratch.path("socket")).unwrap();
    symlink("/dev/zero", scratch.path("zero")).unwrap();
    symlink("absent", scratch.path("nowhere")).unwrap();
    for (path, kind) in [
        (scratch.path("fifo"), "a named pipe"),
        (scratch.path("socket"), "a socket"),
        ("/dev/zero".into(), "a device"),
        (scratch.path("zero"), "a device"),
    ] {
        let wrong = refusal(read_secret(&path));
        assert!(wrong.contains(kind), "{wrong}");
    }
    assert_eq!(read_secret(&scratch.path("nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    // No link in the state directory is followed.
    let dir = StateDir::create(&scratch.path("state")).unwrap();
    symlink(scratch.file("other", 0o600), scratch.path("state/link")).unwrap();
    fs::hard_link(scratch.path("other"), scratch.path("state/hard")).unwrap();
    assert!(refusal(dir.read("link", 64)).contains("is a symbolic link"));
    assert!(refusal(dir.read("hard", 64)).contains("2 hard links"));
    assert!(
        refusal(dir.open_file("link", OFlags::RDWR | OFlags::CREATE, 64))
            .contains("is a symbolic link")
    );
    assert_eq!(fs::read(scratch.path("other")).unwrap(), b"text");
}

#[test]
fn links_lead_to_configuration_but_not_to_state() {
    let scratch = Scratch::make("links");
    fs::create_dir(scratch.path("..data-1")).unwrap();
    scratch.file("..data-1/key", 0o400);
    symlink("..data-1", scratch.path("..data")).unwrap();
    symlink("..data/key", scratch.path("key")).unwrap();
    symlink(scratch.path("key"), scratch.path("absolute")).unwrap();
    symlink("../..data/key", scratch.path("..data-1/up")).unwrap();
    for name in ["key", "absolute", "..data/key", "..data-1/up", "..data-1/../key"] {
        assert_eq!(read_secret(&scratch.path(name)).unwrap(), b"text", "{name}");
    }
    symlink("b", scratch.path("a")).unwrap();
    symlink("a", scratch.path("b")).unwrap();
    assert_eq!(read_secret(&scratch.path("a")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    for path in ["..data", "..data/deeper"] {
        assert!(
            refusal(StateDir::create(&scratch.path(path))).contains("is a symbolic link"),
            "{path}"
        );
        assert!(
            refusal(StateDir::open(&scratch.path(path))).contains("is a symbolic link"),
            "{path}"
        );
    }
}

#[test]
fn state_directory_writable_by_others_is_refused() {
    let scratch = Scratch::make("state");
    let (path, deep) = (scratch.path("a"), scratch.path("a/b/state"));
    assert!(StateDir::open(&deep).unwrap().is_none());
    StateDir::create(&deep).unwrap();
    for made in [&path, &deep] {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
    }
    for (mode, is_refused) in [(0o755, false), (0o775, true), (0o777, true), (0o1777, true)] {
        scratch.set("a/b/state", mode);
        assert_eq!(StateDir::open(&deep).is_err(), is_refused, "{mode:o}");
    }
    scratch.set("a/b/state", 0o700);
    for (mode, is_refused) in [(0o755, false), (0o775, true), (0o777, true), (0o1777, false)] {
        scratch.set("a/b", mode);
        assert_eq!(StateDir::open(&deep).is_err(), is_refused, "its parent has {mode:o}");
    }
}

#[test]
fn file_of_another_user_is_refused() {
    if !geteuid().is_root() {
        println!("SKIP file_of_another_user_is_refused: needs root");
        return;
    }
    let scratch = Scratch::make("owners");
    let (dir, secret) = (scratch.path("state"), scratch.file("secret", 0o600));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(scratch.path("sticky")).unwrap();
    scratch.set("sticky", 0o1777);
    fs::create_dir(scratch.path("sticky/state")).unwrap();
    symlink("secret", scratch.path("link")).unwrap();
    let nobody = Uid::from_raw(65_534);
    for path in [&dir, &secret, &scratch.path("sticky/state")] {
        chown(path, Some(nobody), None).unwrap();
    }
    nix::unistd::fchownat(
        nix::fcntl::AT_FDCWD,
        &scratch.path("link"),
        Some(nobody),
        None,
        nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .unwrap();
    for path in [&dir, &scratch.path("sticky/state"), &dir.join("deeper")] {
        let wrong = refusal(StateDir::create(path));
        assert!(wrong.contains("belongs to user 65534"), "{wrong}");
    }
    for path in [&secret, &scratch.path("link")] {
        let wrong = refusal(read_secret(path));
        assert!(wrong.contains("belongs to user 65534"), "{wrong}");
    }
    assert_eq!(
        read(
            &secret,
            PathRules::NAMED,
            FileRules { checks_owners: false, ..FileRules::secret(64) }
        )
        .unwrap(),
        b"text"
    );
}

#[test]
fn inherited_descriptor_is_read_whatever_its_path() {
    let scratch = Scratch::make("inherited");
    let file = File::open(scratch.file("key", 0o600)).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let fd = |fd: BorrowedFd<'_>| {
        PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))
    };
    fs::remove_file(scratch.path("key")).unwrap();
    assert_eq!(read_secret(&fd(file.as_fd())).unwrap(), b"text");
    io::Write::write_all(&mut &writer, b"piped").unwrap();
    drop(writer);
    assert_eq!(read_secret(&fd(reader.as_fd())).unwrap(), b"piped");
    for path in ["/proc/self/fd/x", "/proc/self/fdinfo/0", "/dev/fd/../zero"] {
        assert!(!is_inherited(Path::new(path)), "{path}");
    }
}
