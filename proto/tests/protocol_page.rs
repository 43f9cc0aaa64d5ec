//! `docs/protocol-frames.md` is made from the comments in `client.proto`. `UPDATE_DOCS=1 cargo test -p carillon-proto`
//! writes it; without, this test compares.

use std::{fmt::Write as _, path::Path};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const FILE: &str = "carillon/client/v1/client.proto";

#[test]
fn the_page_of_frames_says_what_the_proto_file_says() {
    let set = FileDescriptorSet::decode(carillon_proto::pb::DESCRIPTORS).expect("our own descriptors");
    let file = set.file.iter().find(|file| file.name() == FILE).expect("the client's protocol");
    let page = page(file);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol-frames.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/protocol-frames.md is stale: UPDATE_DOCS=1 cargo test -p carillon-proto");
}

fn page(file: &FileDescriptorProto) -> String {
    let mut out = String::from(
        "<!-- Generated from proto/proto/carillon/client/v1/client.proto by proto/tests/protocol_page.rs. -->\n\
         # Frames of the native protocol, version 1\n\n\
         [protocol.md](protocol.md) tells the rules; this page lists every field. A `ClientFrame` is what a client sends, a \
         `ServerFrame` what a gateway sends.\n",
    );
    for (index, message) in file.message_type.iter().enumerate() {
        write_message(&mut out, file, message, index as i32);
    }
    for (index, item) in file.enum_type.iter().enumerate() {
        write_enum(&mut out, file, item, index as i32);
    }
    out
}

fn write_message(out: &mut String, file: &FileDescriptorProto, message: &DescriptorProto, index: i32) {
    let _ = write!(out, "\n## {}\n\n", message.name());
    let about = comment(file, &[4, index]);
    if !about.is_empty() {
        let _ = write!(out, "{about}\n\n");
    }
    if message.field.is_empty() {
        out.push_str("No fields.\n");
        return;
    }
    out.push_str("| no. | field | type | meaning |\n| --- | --- | --- | --- |\n");
    for (number, field) in message.field.iter().enumerate() {
        let mut kind = match field.r#type() {
            Type::Message | Type::Enum => {
                let name = field.type_name().rsplit('.').next().unwrap_or_default();
                format!("[{name}](#{})", name.to_lowercase())
            }
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        };
        if field.label() == Label::Repeated {
            kind = format!("repeated {kind}");
        }
        let mut meaning = comment(file, &[4, index, 2, number as i32]).replace('\n', " ").replace('|', "\\|");
        if let Some(oneof) = field.oneof_index {
            let name = message.oneof_decl[oneof as usize].name();
            meaning = format!("*one of `{name}`.* {meaning}");
        }
        let _ = writeln!(out, "| {} | `{}` | {kind} | {} |", field.number(), field.name(), meaning.trim());
    }
}

fn write_enum(out: &mut String, file: &FileDescriptorProto, item: &EnumDescriptorProto, index: i32) {
    let _ = write!(out, "\n## {}\n\n", item.name());
    let about = comment(file, &[5, index]);
    if !about.is_empty() {
        let _ = write!(out, "{about}\n\n");
    }
    out.push_str("| no. | name | meaning |\n| --- | --- | --- |\n");
    for (number, value) in item.value.iter().enumerate() {
        let meaning = comment(file, &[5, index, 2, number as i32]).replace('\n', " ");
        let _ = writeln!(out, "| {} | `{}` | {meaning} |", value.number(), value.name());
    }
}

/// The comment that stands before the item at this path of descriptor.proto's SourceCodeInfo.
fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let info = file.source_code_info.as_ref().expect("compiled with source information");
    let location = info.location.iter().find(|location| location.path == path);
    let text = location.map(|location| location.leading_comments()).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.starts_with("----")).collect();
    lines.join("\n").trim().to_owned()
}
