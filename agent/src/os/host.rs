//! Name of this host, release of its kernel, from `uname(2)`, and its boot.

use std::{fs, io};

use nix::sys::utsname::{UtsName, uname};

/// Returns the host name of the agent's UTS namespace; empty if the kernel does not give it.
pub fn name() -> String {
    field(|uts| uts.nodename().to_string_lossy().into_owned())
}

/// Returns the kernel release, such as `6.1.0-56-cloud-amd64`; empty if the kernel does not give
/// it.
pub fn kernel_release() -> String {
    field(|uts| uts.release().to_string_lossy().into_owned())
}

/// Returns the kernel's major and minor version; `None` if its release does not begin with them.
pub fn kernel_version() -> Option<(u32, u32)> {
    version_of(&kernel_release())
}

/// Returns the random id of this boot.
///
/// # Errors
///
/// Returns an error if `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The call fails only for an invalid address.
fn field(of: impl FnOnce(&UtsName) -> String) -> String {
    uname().as_ref().map(of).unwrap_or_default()
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_release_are_those_in_proc() {
        let read = |file: &str| fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap();
        assert_eq!(name(), read("hostname").trim());
        assert_eq!(kernel_release(), read("osrelease").trim());
        assert!(kernel_version().is_some_and(|(major, _)| major >= 4));
    }

    #[test]
    fn version_is_the_first_two_numbers_of_a_release() {
        for (release, version) in [
            ("5.10.0-46-cloud-amd64", Some((5, 10))),
            ("4.19.0", Some((4, 19))),
            ("6.12-rc1", Some((6, 12))),
            ("10.0+", Some((10, 0))),
            ("6", None),
            ("", None),
            ("linux", None),
            ("-5.10", None),
            ("5.99999999999", None),
        ] {
            assert_eq!(version_of(release), version, "{release}");
        }
    }
}
