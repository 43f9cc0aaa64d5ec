//! The schema of client frames, from the compiled descriptors, and the conversion of a JSON value to the one form that
//! the generated code accepts.

use std::{collections::HashMap, fmt, sync::LazyLock};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use carillon_proto::pb::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{
    name::Name,
    whole::{number, whole},
};

const PACKAGE: &str = "carillon.client.v1";
/// Base64 in the standard alphabet, padding optional.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

pub(super) static CLIENT_FRAME: LazyLock<Schema> = LazyLock::new(|| Schema::of("ClientFrame"));

pub(super) struct Schema {
    messages: HashMap<String, Message>,
    /// Names and numbers of enum values.
    enums: HashMap<String, Vec<(String, i32)>>,
    root: Kind,
}

/// Fields by name, each under its JSON and its proto spelling.
type Message = HashMap<String, Field>;

#[derive(Clone)]
struct Field {
    json_name: String,
    kind: Kind,
    repeated: bool,
    /// Index of its oneof, of which a frame may have one field.
    oneof: Option<i32>,
}

#[derive(Clone)]
enum Kind {
    Whole { least: i128, most: i128 },
    Fraction,
    Bool,
    Text,
    Bytes,
    Enum(String),
    Message(String),
}

impl Schema {
    fn of(root: &str) -> Self {
        // The build has compiled the descriptors in.
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the build's own descriptors");
        let root = Kind::Message(format!(".{PACKAGE}.{root}"));
        let mut schema = Self { messages: HashMap::new(), enums: HashMap::new(), root };
        for file in files.file.iter().filter(|file| file.package() == PACKAGE) {
            file.message_type.iter().for_each(|message| schema.add(message));
            file.enum_type.iter().for_each(|named| schema.add_enum(PACKAGE, named));
        }
        schema
    }

    fn add(&mut self, message: &DescriptorProto) {
        let mut fields = Message::new();
        for field in &message.field {
            let known = Field {
                json_name: field.json_name().to_owned(),
                kind: kind(field),
                repeated: field.label() == Label::Repeated,
                oneof: field.oneof_index,
            };
            fields.insert(field.name().to_owned(), known.clone());
            fields.insert(field.json_name().to_owned(), known);
        }
        self.messages.insert(format!(".{PACKAGE}.{}", message.name()), fields);
        let within = format!("{PACKAGE}.{}", message.name());
        message.enum_type.iter().for_each(|named| self.add_enum(&within, named));
    }

    fn add_enum(&mut self, within: &str, named: &EnumDescriptorProto) {
        let names = named.value.iter().map(|value| (value.name().to_owned(), value.number())).collect();
        self.enums.insert(format!(".{within}.{}", named.name()), names);
    }

    /// The same frame with every field in its first spelling and form, without unknown and null fields. Unknown fields
    /// are skipped, whatever they contain.
    pub(super) fn canonical(&self, frame: &str) -> serde_json::Result<Value> {
        let mut frame = serde_json::Deserializer::from_str(frame);
        let value = One { schema: self, kind: &self.root, at: "frame" }.deserialize(&mut frame)?;
        frame.end()?;
        Ok(value)
    }

    fn scalar(&self, kind: &Kind, value: Value, at: &str) -> Result<Value, String> {
        match (kind, value) {
            (Kind::Whole { least, most }, value) => whole(&value)
                .map_err(|why| format!("{at} {why}"))?
                .filter(|number| (least..=most).contains(&number))
                .and_then(Number::from_i128)
                .map(Value::Number)
                .ok_or_else(|| wrong(at, &value, &format!("a whole number from {least} to {most}"))),
            (Kind::Fraction, value) => match &value {
                Value::Number(_) => Ok(value),
                Value::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => Ok(value),
                Value::String(text) => number(text).map(Value::Number).ok_or_else(|| wrong(at, &value, "a number")),
                _ => Err(wrong(at, &value, "a number")),
            },
            (Kind::Bool, value @ Value::Bool(_)) | (Kind::Text, value @ Value::String(_)) => Ok(value),
            (Kind::Bytes, Value::String(text)) => BASE64
                .decode(text.replace('-', "+").replace('_', "/"))
                .map(|bytes| Value::String(BASE64_STANDARD.encode(bytes)))
                .map_err(|why| format!("{at} must be base64: {why}")),
            (Kind::Bool, value) => Err(wrong(at, &value, "true or false")),
            (Kind::Text, value) => Err(wrong(at, &value, "a string")),
            (Kind::Bytes, value) => Err(wrong(at, &value, "a string in base64")),
            (Kind::Enum(name), value) => {
                let values = self.enums.get(name).map(Vec::as_slice).unwrap_or_default();
                let found = match &value {
                    Value::String(text) => values.iter().find(|(name, _)| name == text),
                    other => {
                        let number = whole(other).ok().flatten();
                        values.iter().find(|(_, value)| number == Some((*value).into()))
                    }
                };
                found.map(|(_, number)| Value::from(*number)).ok_or_else(|| {
                    let names: Vec<_> = values.iter().map(|(name, _)| name.as_str()).collect();
                    wrong(at, &value, &format!("one of {}", names.join(", ")))
                })
            }
            // `One` reads those.
            (Kind::Message(_), _) => Err(format!("{at} must be an object")),
        }
    }
}

/// Reads one value of this kind.
#[derive(Clone, Copy)]
struct One<'a> {
    schema: &'a Schema,
    kind: &'a Kind,
    /// The path of the value, for errors.
    at: &'a str,
}

/// Reads an array of them.
struct Many<'a>(One<'a>);

/// Reads a value, or null as none.
struct Maybe<S>(S);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        if matches!(self.kind, Kind::Message(_)) {
            return value.deserialize_any(self);
        }
        let value = Value::deserialize(value)?;
        self.schema.scalar(self.kind, value, self.at).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object as {}", self.at)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        // Client frames contain no messages of other packages.
        let fields = match self.kind {
            Kind::Message(name) => self.schema.messages.get(name),
            _ => None,
        };
        let fields =
            fields.ok_or_else(|| A::Error::custom(format_args!("{} has a type that is unknown here", self.at)))?;
        let (mut all, mut seen, mut chosen) = (Map::new(), Vec::new(), HashMap::new());
        while let Some(name) = members.next_key::<Name>()? {
            let Some((name, field)) = name.text().and_then(|name| fields.get_key_value(name)) else {
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&&field.json_name) {
                return Err(A::Error::custom(format_args!("{:?} is there twice", field.json_name)));
            }
            seen.push(&field.json_name);
            let one = One { schema: self.schema, kind: &field.kind, at: name };
            let value = if field.repeated {
                members.next_value_seed(Maybe(Many(one)))?
            } else {
                members.next_value_seed(Maybe(one))?
            };
            let Some(value) = value else { continue };
            if let Some(oneof) = field.oneof
                && let Some(other) = chosen.insert(oneof, name)
            {
                return Err(A::Error::custom(format_args!(
                    "{other} and {name} are there, but only one of them may be"
                )));
            }
            all.insert(field.json_name.clone(), value);
        }
        Ok(Value::Object(all))
    }
}

impl<'de> DeserializeSeed<'de> for Many<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Many<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array as {}", self.0.at)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self.0)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Maybe<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Maybe<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(value).map(Some)
    }
}

fn kind(field: &FieldDescriptorProto) -> Kind {
    let whole = |least: i128, most: i128| Kind::Whole { least, most };
    match field.r#type() {
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => whole(i32::MIN.into(), i32::MAX.into()),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => whole(i64::MIN.into(), i64::MAX.into()),
        Type::Uint32 | Type::Fixed32 => whole(0, u32::MAX.into()),
        Type::Uint64 | Type::Fixed64 => whole(0, u64::MAX.into()),
        Type::Double | Type::Float => Kind::Fraction,
        Type::Bool => Kind::Bool,
        Type::String => Kind::Text,
        Type::Bytes => Kind::Bytes,
        Type::Enum => Kind::Enum(field.type_name().to_owned()),
        Type::Message | Type::Group => Kind::Message(field.type_name().to_owned()),
    }
}

fn wrong(at: &str, value: &Value, must: &str) -> String {
    format!("{at} is {} but must be {must}", short(value))
}

/// A short form for people: at most one line of the client's input.
fn short(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
