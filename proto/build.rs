//! Compiles the .proto files without protoc: protox parses, tonic-prost-build and pbjson-build generate.

use std::{env, error::Error, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 9] = [
    "carillon/client/v1/client.proto",
    "carillon/link/v1/link.proto",
    "carillon/store/v1/command.proto",
    "carillon/store/v1/store.proto",
    "carillon/raft/v1/raft.proto",
    "carillon/admin/v1/admin.proto",
    "carillon/backup/v1/backup.proto",
    "carillon/userdata/v1/userdata.proto",
    "carillon/diagnostics/v1/diagnostics.proto",
];

/// Fields of oneofs that are kept behind a pointer.
const LARGE: [&str; 27] = [
    ".carillon.client.v1.ServerFrame.body.group",
    ".carillon.client.v1.Envelope.change",
    ".carillon.link.v1.RouterReply.result.account",
    ".carillon.link.v1.RouterRequest.op.create_media",
    ".carillon.link.v1.RouterRequest.op.schedule",
    ".carillon.link.v1.RouterRequest.op.report",
    ".carillon.store.v1.TimelineCommand.op.put_report",
    ".carillon.store.v1.StoreReply.result.report_read",
    ".carillon.link.v1.RouterReply.result.group_read",
    ".carillon.link.v1.RouterReply.result.media_read",
    ".carillon.link.v1.RouterRequest.op.change_group",
    ".carillon.client.v1.Content.forwarded_from",
    ".carillon.client.v1.Content.mentions",
    ".carillon.client.v1.Content.reply_to",
    ".carillon.client.v1.Content.thread",
    ".carillon.client.v1.Entry.state",
    ".carillon.client.v1.ServerFrame.body.contact_news",
    ".carillon.link.v1.Send.header",
    ".carillon.link.v1.RouterRequest.op.change_contact",
    ".carillon.link.v1.Signaled.notice.contact_news",
    ".carillon.link.v1.Signaled.notice.privacy_news",
    ".carillon.store.v1.Append.header",
    ".carillon.store.v1.Appended.moved",
    ".carillon.store.v1.Schedule.header",
    ".carillon.store.v1.SetScheduled.header",
    ".carillon.store.v1.ScheduledRow.header",
    ".carillon.store.v1.RecordHeader.message",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let encoded = descriptors.encode_to_vec();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    // The description that strangers may read.
    std::fs::write(out.join("client.bin"), protox::compile([FILES[0]], ["proto"])?.encode_to_vec())?;

    // What is large and rare would make each of its kind as large.
    let configured = LARGE.iter().fold(tonic_prost_build::configure().bytes("."), |all, field| all.boxed(field));
    configured.compile_fds(descriptors)?;
    // Canonical JSON of the client's protocol. Unknown fields are ignored, as in protobuf: they come from a newer
    // release.
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .ignore_unknown_fields()
        .build(&[".carillon.client.v1"])?;
    Ok(())
}
