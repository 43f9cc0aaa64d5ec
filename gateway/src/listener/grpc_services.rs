//! The health and reflection services, which tools and load balancers expect of any gRPC server.

use carillon_proto::{Ready, pb::CLIENT_DESCRIPTORS};
pub(super) use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::{
    Builder, Error,
    v1::{ServerReflection, ServerReflectionServer},
    v1alpha,
};

const CLIENT_SERVICE: &str = "carillon.client.v1.ClientService";
/// Requests of these services only name a service, a file or a symbol.
const MAX_REQUEST_BYTES: usize = 4 * 1024;

pub(super) fn health() -> (HealthServer<impl Health>, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    (health.max_decoding_message_size(MAX_REQUEST_BYTES), reporter)
}

/// Reports the gateway's readiness as the health of the whole server (empty name) and of the client service.
pub(super) async fn report(reporter: HealthReporter, mut ready: Ready) {
    loop {
        let is_ready = ready.borrow_and_update().is_ready();
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", CLIENT_SERVICE] {
            reporter.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

/// In the current version and the older one, which many tools still use. Only the services for clients are described.
pub(super) fn reflection() -> Result<
    (ServerReflectionServer<impl ServerReflection>, v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>),
    Error,
> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(CLIENT_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (current, older) = (builder().build_v1()?, builder().build_v1alpha()?);
    Ok((current.max_decoding_message_size(MAX_REQUEST_BYTES), older.max_decoding_message_size(MAX_REQUEST_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    /// The first field of a `FileDescriptorProto`.
    #[derive(Clone, PartialEq, prost::Message)]
    struct File {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Files {
        #[prost(message, repeated, tag = "1")]
        files: Vec<File>,
    }

    #[test]
    fn strangers_are_told_of_the_clients_service_only() {
        assert!(reflection().is_ok());
        let files = Files::decode(CLIENT_DESCRIPTORS).expect("descriptors").files;
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["carillon/client/v1/client.proto"]);
    }
}
