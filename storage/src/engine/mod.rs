//! The storage engines under the state machines, each named by one module only.
