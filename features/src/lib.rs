//! Empty: the purpose of this crate is its `Cargo.toml`.
