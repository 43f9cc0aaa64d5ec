//! The binary; see `carillon --help`.

/// A fifth of the CPU time at full speed went into glibc's; see docs/speed.md.
#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    carillon::run()
}
