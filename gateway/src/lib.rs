//! Ends the connections of clients (TCP, WebSocket, gRPC), authenticates them, and speaks for them to the routers. It
//! stores nothing: any gateway can continue any client's session.
//!
//! | module | what it is |
//! | --- | --- |
//! | `conversation` | one client's session, as inputs and effects, in no protocol: sign-in, sends, delivery in order |
//! | `dialect`, `transport`, `listener` | asks and tells as bytes, how they travel, where clients come in |
//! | `connection`, `connections`, `mailbox` | the task around a session and how others reach it |
//! | `feeds`, `feeding` | one feed for each timeline that is followed: its order, who hears it, and what is read for it |
//! | `presences` | what contacts show, gathered for each connection |
//! | `links`, `outcome` | what is asked of the routers and told by them |
//! | `reading` | single frames, for programs that check clients |

mod census;
mod cluster_domains;
mod cluster_level;
mod config;
mod connection;
mod connections;
mod conversation;
mod cut_off;
mod dialect;
mod feeding;
mod feeds;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod herd;
mod links;
mod listener;
mod mailbox;
mod media;
pub mod metrics;
mod network;
mod outcome;
mod presences;
#[doc(hidden)]
pub mod reading;
mod rebalance;
#[doc(hidden)]
pub mod simulation;
mod status;
mod throttle;
mod transport;
mod users;

pub use config::{
    GatewayConfig, InvalidConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, ListenConfig, ProxiesConfig, Secret,
    TlsConfig, UserForm, XmppConfig, XmppTls,
};
pub use conversation::{InvalidTokenKey, TokenKeyError, read_token_secret};
pub use gateway::{Gateway, OpenError, check_files};
pub use listener::{BindError, TlsError, proxies::ForwardedHeader};
