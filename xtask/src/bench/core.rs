//! Where threads run while latency is measured: asker and answerer share one core. Left alone,
//! the scheduler puts them on one core in one moment and on two in the next, and waking an idle
//! core costs three times what the path does (12 or 40 us on a bare wire).

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Runs `work` on the core for latency; the calling thread may go where it likes afterwards.
/// Where cores cannot be chosen, `work` runs anywhere.
pub(crate) fn on_latency_core<T>(work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(SELF);
    let _ = before.map(|allowed| first_of(&allowed)).and_then(|core| sched_setaffinity(SELF, &core));
    let outcome = work();
    let _ = before.and_then(|allowed| sched_setaffinity(SELF, &allowed));
    outcome
}

/// The first core of `allowed`, alone.
fn first_of(allowed: &CpuSet) -> CpuSet {
    let mut core = CpuSet::new();
    if let Some(first) = (0..CpuSet::count()).find(|core| allowed.is_set(*core).unwrap_or(false)) {
        let _ = core.set(first);
    }
    core
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_one_core_and_the_thread_is_free_again() {
        let count =
            |set: &CpuSet| (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).count();
        let before = sched_getaffinity(SELF).expect("affinity");
        let inside = on_latency_core(|| sched_getaffinity(SELF).expect("affinity"));
        assert_eq!(count(&inside), 1);
        assert_eq!(sched_getaffinity(SELF).expect("affinity"), before);
    }
}
