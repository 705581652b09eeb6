//! A server that runs as root gives up what root may do and bursar does not need (R79). Its uid stays, because the files
//! in the data directory belong to it.

/// Called while there is a single thread: capabilities belong to threads, and later ones inherit them.
#[cfg(target_os = "linux")]
pub(super) fn drop_capabilities() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    match linux::drop_all_but(linux::NEEDED) {
        Ok(()) => tracing::warn!(
            "running as root: all capabilities but CAP_NET_BIND_SERVICE and CAP_DAC_READ_SEARCH were dropped, but the uid \
             stays root, so a program that takes over this process can change root's files; run bursar as a user of its own"
        ),
        Err(error) => tracing::warn!(
            %error,
            "running as root, and its capabilities could not be dropped; run bursar as a user of its own"
        ),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn drop_capabilities() {
    if rustix::process::geteuid().is_root() {
        tracing::warn!("running as root; run bursar as a user of its own");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::io::{Errno, Result};
    use rustix::thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
        remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    };

    /// To listen on ports below 1024, and to read limits and secrets that belong to another uid.
    pub(super) const NEEDED: CapabilitySet = CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::DAC_READ_SEARCH);

    /// Also for programs that are started later, such as the alert command: without the secure bit, a program that root
    /// starts has all capabilities again.
    pub(super) fn drop_all_but(needed: CapabilitySet) -> Result<()> {
        let has = capabilities(None)?;
        if has.effective.contains(CapabilitySet::SETPCAP) {
            let plain = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
            set_capabilities_secure_bits(capabilities_secure_bits()? | plain)?;
            for bit in 0..u64::BITS {
                let one = CapabilitySet::from_bits_retain(1 << bit);
                if needed.contains(one) {
                    continue;
                }
                match remove_capability_from_bounding_set(one) {
                    Ok(()) => {}
                    // The kernel knows no more of them.
                    Err(Errno::INVAL) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        set_capabilities(
            None,
            CapabilitySets {
                effective: has.effective & needed,
                permitted: has.permitted & needed,
                inheritable: CapabilitySet::empty(),
            },
        )
    }
}
