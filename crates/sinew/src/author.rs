//! Who makes changes.

/// Who runs this, as far as the system tells.
pub(crate) fn author() -> String {
    let user = ["USER", "LOGNAME"]
        .iter()
        .find_map(|variable| std::env::var(variable).ok());
    let user = user.unwrap_or_else(|| "someone".to_owned());
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{user}@{}", host.trim()),
        Err(_) => user,
    }
}
