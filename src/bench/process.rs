//! CPU time and memory of a process, from `/proc`.

use std::time::Duration;

/// Of which process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Process {
    /// The tool itself.
    Own,
    /// Another.
    Pid(u32),
}

/// Ticks of the kernel's accounting per second, the same on all machines this runs on.
const TICKS_PER_SECOND: u64 = 100;

impl Process {
    fn read(self, file: &str) -> Option<String> {
        let path = match self {
            Self::Own => format!("/proc/self/{file}"),
            Self::Pid(pid) => format!("/proc/{pid}/{file}"),
        };
        std::fs::read_to_string(path).ok()
    }

    /// CPU time so far, of all threads.
    pub(super) fn cpu(self) -> Option<Duration> {
        let stat = self.read("stat")?;
        // The second field is a name in parentheses and may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis((user + system) * 1_000 / TICKS_PER_SECOND))
    }

    /// Resident bytes.
    pub(super) fn resident(self) -> Option<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(kibibytes << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_has_time_and_memory() {
        assert!(Process::Own.cpu().is_some());
        assert!(Process::Own.resident().unwrap() > 1 << 20);
        assert!(Process::Pid(u32::MAX).cpu().is_none());
    }
}
