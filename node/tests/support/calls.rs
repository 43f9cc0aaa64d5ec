//! Calls between nodes, made by a test.

use std::time::Duration;

use carillon_proto::{
    pb::admin::{StatusReply, StatusRequest, admin_client::AdminClient},
    peer::PeerSecurity,
};
use tonic::{Request, Status};

use super::service::Service;

/// The router's answer to the operator's `status`.
pub async fn status(service: &Service, security: &PeerSecurity) -> Result<StatusReply, Status> {
    let channel = security.channel(&service.router().to_string()).expect("channel");
    let mut request = Request::new(StatusRequest {});
    request.set_timeout(Duration::from_secs(10));
    AdminClient::with_interceptor(channel, security.token()).status(request).await.map(tonic::Response::into_inner)
}
