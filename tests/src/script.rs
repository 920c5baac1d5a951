//! A shell that ends with the test.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use crate::OwnCgroup;

/// Shell that is killed when dropped, with what it has started.
pub struct Script(Child);

impl Script {
    /// Starts a shell with these commands.
    ///
    /// # Panics
    ///
    /// Panics if it does not start.
    pub fn start(text: &str) -> Self {
        Self::run(&mut Self::shell(text))
    }

    /// Starts a shell with these commands in a cgroup.
    ///
    /// # Panics
    ///
    /// Panics if it does not start there.
    pub fn start_in(cgroup: &OwnCgroup, text: &str) -> Self {
        Self::run(cgroup.admit(&mut Self::shell(text)).expect("entering the cgroup"))
    }

    fn shell(text: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", text]).process_group(0);
        shell
    }

    fn run(shell: &mut Command) -> Self {
        Self(shell.spawn().expect("starting a shell"))
    }

    /// Process id of the shell.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: a signal to the group of a child that was not waited for yet.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}
