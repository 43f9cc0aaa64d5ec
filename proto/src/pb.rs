//! Generated from `proto/`. One module for each package.

pub use generated::carillon::{
    admin::v1 as admin, backup::v1 as backup, client::v1 as client, diagnostics::v1 as diagnostics, link::v1 as link,
    raft::v1 as raft, store::v1 as store, userdata::v1 as userdata,
};

/// The compiled descriptors of all .proto files, from which pages of the documentation are generated.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptors of the services for clients only, for gRPC reflection.
pub const CLIENT_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/client.bin"));

#[allow(clippy::all, clippy::unwrap_used, clippy::nursery, unreachable_pub)]
mod generated {
    /// The modules are nested by package name, as references between the generated packages require.
    pub mod carillon {
        pub mod client {
            pub mod v1 {
                tonic::include_proto!("carillon.client.v1");
                include!(concat!(env!("OUT_DIR"), "/carillon.client.v1.serde.rs"));
            }
        }
        pub mod link {
            pub mod v1 {
                tonic::include_proto!("carillon.link.v1");
            }
        }
        pub mod store {
            pub mod v1 {
                tonic::include_proto!("carillon.store.v1");
            }
        }
        pub mod raft {
            pub mod v1 {
                tonic::include_proto!("carillon.raft.v1");
            }
        }
        pub mod admin {
            pub mod v1 {
                tonic::include_proto!("carillon.admin.v1");
            }
        }
        pub mod backup {
            pub mod v1 {
                tonic::include_proto!("carillon.backup.v1");
            }
        }
        pub mod diagnostics {
            pub mod v1 {
                tonic::include_proto!("carillon.diagnostics.v1");
            }
        }
        pub mod userdata {
            pub mod v1 {
                tonic::include_proto!("carillon.userdata.v1");
            }
        }
    }
}
