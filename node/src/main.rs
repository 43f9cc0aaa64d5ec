//! The binary; see `carillon --help`.

/// glibc's allocator took a fifth of the CPU time at full speed; see docs/speed.md.
#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    carillon::run()
}
