//! Those who fill a file system, compared with a file that this process writes and one that it
//! deletes.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{CountFact, CountedResource, Fact, Sensors},
};

use crate::{
    checks::Seen,
    guest,
    rungs::{Prepared, Rung},
};

const MIB: u64 = 1 << 20;

/// File system in memory that is unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount() -> anyhow::Result<Self> {
        let place = std::env::temp_dir().join(format!("spillway-tmpfs-{}", std::process::id()));
        fs::create_dir_all(&place)?;
        let mounted = Self(place);
        let place = mounted.0.to_str().context("the path is UTF-8")?;
        guest::mount("tmpfs", place, "size=16m")?;
        Ok(mounted)
    }

    fn read(&self, sensors: &mut Sensors, t: f64) -> anyhow::Result<CountFact> {
        let mut seen = Vec::new();
        sensors.scan_processes(t, &mut seen);
        let fact = seen.into_iter().find_map(|one| match one.fact {
            Fact::Count(fact) => (fact.resource == CountedResource::TmpfsBytes
                && self.0.as_os_str() == &*fact.subject)
                .then_some(fact),
            _ => None,
        });
        fact.context("the file system is not counted")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Some(place) = self.0.to_str().and_then(|place| std::ffi::CString::new(place).ok()) {
            // SAFETY: a system call with a terminated path.
            unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// Writes two files, one of which is deleted.
pub fn writer(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::OpenFiles, rung)?;
    let mounted = Tmpfs::mount()?;
    let before = mounted.read(sensors, 2_000.0)?;
    ensure!(before.limit == Some(16 * MIB), "wrong limit: {before:?}");
    let mut kept = File::create(mounted.0.join("kept"))?;
    let mut deleted = File::create(mounted.0.join("deleted"))?;
    fs::remove_file(mounted.0.join("deleted"))?;
    kept.write_all(&vec![1; 4 << 20])?;
    deleted.write_all(&vec![1; 2 << 20])?;
    let after = mounted.read(sensors, 2_010.0)?;
    let grown = after.used - before.used;
    ensure!((6 * MIB..7 * MIB).contains(&grown), "{grown} bytes more");
    let named: Vec<_> = after.culprits.iter().map(|one| (&*one.name, one.pid, one.used)).collect();
    let (pid, place) = (Some(std::process::id()), mounted.0.display());
    let expected = [
        (&*format!("{place}/kept"), pid, 4 * MIB),
        (&*format!("{place}/deleted (deleted)"), pid, 2 * MIB),
    ];
    ensure!(named == expected, "culprits are {named:?}, expected {expected:?}");
    Ok(Seen { events: named.len() as u64, detail: format!("{grown} bytes in two files") })
}
