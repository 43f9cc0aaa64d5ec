//! Whether the kernel takes this machine's clock for synchronised: time services (chrony, ntpd, systemd-timesyncd) tell it.

#![allow(
    unsafe_code,
    reason = "adjtimex(2) has no safe wrapper; it fills the struct that it is given and, asked like this, changes nothing"
)]

use std::{io, mem, time::Duration};

use super::report::Check;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KernelClock {
    is_synchronised: bool,
    /// By how much the clock may be wrong at most, by the time service's own account. It grows between two of its corrections.
    max_error: Duration,
}

/// `alone`: no other node is configured.
pub(super) fn examine(check: &mut Check<'_>, alone: bool) {
    match read() {
        Ok(clock) => tell(check, clock, alone),
        Err(error) => check.not_checked("whether a time service keeps this machine's clock", error),
    }
}

fn tell(check: &mut Check<'_>, clock: KernelClock, alone: bool) {
    let KernelClock { is_synchronised, max_error } = clock;
    if is_synchronised {
        let error = max_error.as_secs_f64();
        return check
            .ok(format!("a time service keeps this machine's clock, right within {error:.3} s by its own account"));
    }
    let found = "no time service keeps this machine's clock: the kernel takes it for not synchronised";
    // Nothing depends on the clock of a single machine but what people read.
    if alone {
        check.note(format!("{found}; nodes on several machines need one"));
    } else {
        check.warning(
            found,
            "start a time service (chrony, systemd-timesyncd) on the machine, and look at `timedatectl`; in a container or a virtual \
             machine its host may keep the clock without the kernel's knowledge",
        );
    }
}

fn read() -> io::Result<KernelClock> {
    // SAFETY: `timex` is a struct of integers, for each of which 0 is a value; `modes` 0 asks and sets nothing.
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a struct of this type, which nothing else uses.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state == -1 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronised = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    Ok(KernelClock {
        is_synchronised,
        max_error: Duration::from_micros(u64::try_from(timex.maxerror).unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Report, Severity},
        *,
    };

    fn told(clock: KernelClock, alone: bool) -> (Severity, String) {
        let mut report = Report::default();
        tell(&mut report.check("clock"), clock, alone);
        (report.worst(), report.to_string())
    }

    #[test]
    fn a_clock_that_nothing_keeps_is_a_fault_of_clusters_alone() {
        let kept = KernelClock { is_synchronised: true, max_error: Duration::from_micros(12_345) };
        for alone in [true, false] {
            let (severity, text) = told(kept, alone);
            assert!(severity == Severity::Ok && text.contains("within 0.012 s"), "{text}");
        }
        let free = KernelClock { is_synchronised: false, max_error: Duration::from_secs(16) };
        assert_eq!(told(free, true).0, Severity::Note);
        let (severity, text) = told(free, false);
        assert!(severity == Severity::Warning && text.contains("to do: start a time service"), "{text}");
    }

    #[test]
    fn the_kernel_is_asked() {
        let clock = read().expect("every user may ask");
        // The kernel counts the error up to 16 seconds, and then takes the clock for not synchronised.
        assert!(clock.max_error <= Duration::from_secs(16), "{clock:?}");
    }
}
