//! Users of a count before it began to climb, so that its culprit is the one that grew.
//!
//! The largest user need not be the cause: a database holds most of a disk that a log fills. Two
//! earlier lists are kept, hours apart, and the growth since the later one that is old enough is
//! compared. A rotated log has another name each time, so growth is also added up by process and by
//! directory. Cold start: without an earlier list the largest user is named, by its share of all
//! that is in use.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{
    sense::{CountFact, CountUser},
    units::rounded,
};

/// Time between two lists that are kept. A guess: climbs that end within hours begin after one.
const APART_SECS: f64 = 3.0 * 3_600.0;

/// Users that are kept of a list.
const USERS_MAX: usize = 16;

/// Share of the growth from which somebody is its culprit.
const CULPRIT_SHARE_MIN: f64 = 0.3;

/// Share from which a single user need not be seen as part of a larger one.
const ALONE_SHARE: f64 = 0.6;

/// User that causes most of a climb.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CountCulprit {
    /// Name: a file, a directory, a cgroup or a program.
    pub name: Arc<str>,
    /// Process; `None` if it is not one, or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Share of the growth that is its, 0 to 1; of all that is in use if `is_of_growth` is false.
    pub share: f64,
    /// Set if its growth was seen, rather than its size.
    #[serde(skip)]
    pub is_of_growth: bool,
}

/// Lists of users at two earlier times.
#[derive(Debug, Default)]
pub(super) struct EarlierUsers {
    /// The later one last.
    lists: [Option<Users>; 2],
}

#[derive(Debug)]
struct Users {
    t: f64,
    used: u64,
    users: Vec<CountUser>,
}

impl EarlierUsers {
    /// Takes the users of a fact.
    pub(super) fn observe(&mut self, t: f64, fact: &CountFact) {
        if fact.culprits.is_empty() {
            return;
        }
        let [_, later] = &self.lists;
        if later.as_ref().is_none_or(|later| t - later.t >= APART_SECS) {
            let users = fact.culprits.iter().take(USERS_MAX).cloned().collect();
            let list = Users { t, used: fact.used, users };
            let [_, later] = std::mem::take(&mut self.lists);
            self.lists = [later, Some(list)];
        }
    }

    /// Returns the user that causes the growth since `since_t`; `None` if nobody stands out.
    pub(super) fn culprit(&self, since_t: f64, fact: &CountFact) -> Option<CountCulprit> {
        let lists = || self.lists.iter().flatten();
        let earlier = lists().rev().find(|list| list.t <= since_t).or_else(|| lists().next());
        let earlier = earlier.filter(|earlier| fact.used > earlier.used);
        let used_then = |user: &CountUser| {
            let same = |then: &&CountUser| then.name == user.name && then.pid == user.pid;
            let users = earlier.map_or(&[] as &[_], |earlier| &earlier.users);
            users.iter().find(same).map_or(0, |then| then.used)
        };
        let grew = |user: &CountUser| user.used.saturating_sub(used_then(user));
        let total = fact.used - earlier.map_or(0, |earlier| earlier.used);
        let best = best_of(&fact.culprits, &grew, total)?;
        let is_of_growth = earlier.is_some();
        (best.share >= CULPRIT_SHARE_MIN).then_some(CountCulprit { is_of_growth, ..best })
    }
}

/// Returns the user, process or directory with most growth.
fn best_of(
    users: &[CountUser],
    grew: &dyn Fn(&CountUser) -> u64,
    total: u64,
) -> Option<CountCulprit> {
    let culprit = |name: &Arc<str>, pid: Option<u32>, grown: u64| CountCulprit {
        name: name.clone(),
        pid,
        share: rounded((grown as f64 / total.max(1) as f64).min(1.0), 2),
        is_of_growth: true,
    };
    let largest = users.iter().max_by_key(|user| grew(user))?;
    let alone = culprit(&largest.name, largest.pid, grew(largest));
    if alone.share >= ALONE_SHARE {
        return Some(alone);
    }
    let mut by_pid: BTreeMap<u32, u64> = BTreeMap::new();
    let mut by_directory: BTreeMap<&str, u64> = BTreeMap::new();
    for user in users {
        let grown = grew(user);
        if let Some(pid) = user.pid {
            *by_pid.entry(pid).or_default() += grown;
        }
        if let Some((directory, _)) = user.name.rsplit_once('/').filter(|(dir, _)| !dir.is_empty())
        {
            *by_directory.entry(directory).or_default() += grown;
        }
    }
    let process = by_pid.iter().max_by_key(|(_, grown)| **grown).and_then(|(pid, grown)| {
        let of_pid = users.iter().filter(|user| user.pid == Some(*pid));
        let name = of_pid.max_by_key(|user| grew(user)).map(|user| &user.name)?;
        Some(culprit(name, Some(*pid), *grown))
    });
    let directory = by_directory
        .iter()
        .max_by_key(|(_, grown)| **grown)
        .map(|(directory, grown)| culprit(&Arc::from(*directory), None, *grown));
    // The narrowest of those that explain as much.
    let wider = [process, directory].into_iter().flatten();
    Some(wider.fold(alone, |best, wider| if wider.share > best.share { wider } else { best }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::CountedResource;

    fn fact(used: u64, users: &[(&str, Option<u32>, u64)]) -> CountFact {
        let user = |&(name, pid, used): &(&str, Option<u32>, u64)| CountUser {
            name: Arc::from(name),
            pid,
            used,
        };
        CountFact {
            resource: CountedResource::DiskBytes,
            subject: Arc::from("/var"),
            used,
            limit: Some(1_000),
            culprits: users.iter().map(user).collect(),
        }
    }

    fn culprit(earlier: &CountFact, now: &CountFact) -> Option<(String, Option<u32>, f64)> {
        let mut users = EarlierUsers::default();
        users.observe(0.0, earlier);
        users
            .culprit(10.0, now)
            .map(|culprit| (culprit.name.to_string(), culprit.pid, culprit.share))
    }

    #[test]
    fn culprit_grew_and_need_not_be_the_largest() {
        let before = fact(500, &[("/var/db", Some(7), 400), ("/var/log/a", Some(8), 20)]);
        let now = fact(600, &[("/var/db", Some(7), 405), ("/var/log/a", Some(8), 110)]);
        assert_eq!(culprit(&before, &now), Some(("/var/log/a".into(), Some(8), 0.9)));
    }

    #[test]
    fn rotated_files_are_one_directory_or_one_process() {
        let before = fact(500, &[("/var/db", Some(7), 400)]);
        let files = [("/var/log/1", None, 34), ("/var/log/2", None, 33), ("/var/log/3", None, 33)];
        let now = fact(600, &[&[("/var/db", Some(7), 400)], &files[..]].concat());
        assert_eq!(culprit(&before, &now), Some(("/var/log".into(), None, 1.0)));
        let held = files.map(|(name, _, used)| (name, Some(9), used));
        let now = fact(600, &held);
        assert_eq!(culprit(&before, &now), Some(("/var/log/1".into(), Some(9), 1.0)));
    }

    #[test]
    fn nobody_is_named_who_does_not_stand_out() {
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| (name, None, 100)).to_vec();
        let now: Vec<_> = many.iter().map(|(name, pid, used)| (*name, *pid, used + 20)).collect();
        assert_eq!(culprit(&fact(500, &many), &fact(600, &now)), None);
        assert_eq!(culprit(&fact(500, &many), &fact(600, &[])), None);
    }
}
