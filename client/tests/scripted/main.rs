//! The client against a gateway that follows the test's script.

mod gateway;
mod reconnect;
mod resume;
mod tls;
