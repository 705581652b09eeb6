//! What `/proc` says of a process and its children.

use std::collections::HashMap;

use crate::Fault;

/// Linux counts CPU time for user space in hundredths of a second (USER_HZ).
const TICK: f64 = 0.01;

/// User and system time so far, of a process and everything below it, in seconds.
pub fn cpu(root: u32) -> Result<f64, Fault> {
    Ok(tree(root)?.into_iter().map(|(_, ticks)| ticks as f64).sum::<f64>() * TICK)
}

/// Proportional set size of a process and everything below it.
pub fn pss_kib(root: u32) -> Result<u64, Fault> {
    let mut sum = 0;
    for (pid, _) in tree(root)? {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let size = line
            .and_then(|line| line.split_whitespace().next())
            .ok_or("no Pss in smaps_rollup")?;
        sum += size.parse::<u64>()?;
    }
    Ok(sum)
}

/// The process and everything below it, with their ticks.
fn tree(root: u32) -> Result<Vec<(u32, u64)>, Fault> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut ticks = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let Some((parent, used)) = parent_and_ticks(&stat) else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
        ticks.insert(pid, used);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        found.push((pid, *ticks.get(&pid).ok_or("the watched process has ended")?));
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    Ok(found)
}

/// The second field is the program's name in brackets, with anything in it.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let tick = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, tick(11)? + tick(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_shifts_no_field() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 21 34 5 5 20 0 1 0 100 1 1";
        assert_eq!(parent_and_ticks(stat), Some((3, 55)));
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = std::process::id();
        assert!(pss_kib(own).unwrap() > 100);
        assert!(cpu(own).unwrap() < 60.0);
    }
}
