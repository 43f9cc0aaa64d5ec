//! The binary; see `carillon --help`.

fn main() -> std::process::ExitCode {
    carillon::run()
}
