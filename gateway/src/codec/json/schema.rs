//! The shape of client frames, from the compiled descriptors, and how a JSON value becomes the one form of it that the
//! generated code reads.

use std::{collections::HashMap, sync::LazyLock};

use carillon_proto::pb::DESCRIPTORS;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Map, Number, Value};

const PACKAGE: &str = "carillon.client.v1";

pub(super) static CLIENT_FRAME: LazyLock<Schema> = LazyLock::new(|| Schema::of("ClientFrame"));

pub(super) struct Schema {
    messages: HashMap<String, Message>,
    /// Names of enum values.
    enums: HashMap<String, Vec<String>>,
    root: String,
}

/// By both spellings of each field's name.
type Message = HashMap<String, Field>;

#[derive(Clone)]
struct Field {
    json_name: String,
    kind: Kind,
    repeated: bool,
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
        // Compiled in: they are what the build made.
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the build's own descriptors");
        let mut schema = Self { messages: HashMap::new(), enums: HashMap::new(), root: format!(".{PACKAGE}.{root}") };
        for file in files.file.iter().filter(|file| file.package() == PACKAGE) {
            file.message_type.iter().for_each(|message| schema.add(message));
            file.enum_type.iter().for_each(|named| schema.add_enum(named));
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
            };
            fields.insert(field.name().to_owned(), known.clone());
            fields.insert(field.json_name().to_owned(), known);
        }
        self.messages.insert(format!(".{PACKAGE}.{}", message.name()), fields);
    }

    fn add_enum(&mut self, named: &EnumDescriptorProto) {
        let names = named.value.iter().map(|value| value.name().to_owned()).collect();
        self.enums.insert(format!(".{PACKAGE}.{}", named.name()), names);
    }

    /// The same frame with every field in its first spelling and form, and without what is unknown or null.
    pub(super) fn canonical(&self, value: Value) -> Result<Value, String> {
        self.message(&self.root, value, "frame")
    }

    fn message(&self, name: &str, value: Value, at: &str) -> Result<Value, String> {
        let Value::Object(members) = value else { return Err(format!("{at} must be an object")) };
        // A message of another package: none that a client sends has one.
        let fields = self.messages.get(name).ok_or_else(|| format!("{at} has a type that is unknown here"))?;
        let mut all = Map::new();
        for (name, value) in members {
            let Some(field) = fields.get(&name) else { continue };
            if value.is_null() {
                continue;
            }
            let value = match (field.repeated, value) {
                (true, Value::Array(items)) => {
                    let items = items.into_iter().map(|item| self.value(&field.kind, item, &name));
                    Value::Array(items.collect::<Result<_, _>>()?)
                }
                (true, _) => return Err(format!("{name} must be an array")),
                (false, value) => self.value(&field.kind, value, &name)?,
            };
            if all.insert(field.json_name.clone(), value).is_some() {
                return Err(format!("{name:?} is there in both spellings"));
            }
        }
        Ok(Value::Object(all))
    }

    fn value(&self, kind: &Kind, value: Value, at: &str) -> Result<Value, String> {
        match (kind, value) {
            (Kind::Message(name), value) => self.message(name, value, at),
            (Kind::Whole { least, most }, value) => whole(&value)
                .filter(|number| (least..=most).contains(&number))
                .and_then(Number::from_i128)
                .map(Value::Number)
                .ok_or_else(|| format!("{at} is {} but must be a whole number from {least} to {most}", short(&value))),
            (Kind::Fraction, value) => match &value {
                Value::Number(_) => Ok(value),
                Value::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => Ok(value),
                Value::String(text) => number(text).map(Value::Number).ok_or_else(|| wrong(at, &value, "a number")),
                _ => Err(wrong(at, &value, "a number")),
            },
            (Kind::Bool, value @ Value::Bool(_)) | (Kind::Text | Kind::Bytes, value @ Value::String(_)) => Ok(value),
            (Kind::Bool, value) => Err(wrong(at, &value, "true or false")),
            (Kind::Text, value) => Err(wrong(at, &value, "a string")),
            (Kind::Bytes, value) => Err(wrong(at, &value, "a string in base64")),
            (Kind::Enum(name), Value::String(text)) => {
                let names = self.enums.get(name).map(Vec::as_slice).unwrap_or_default();
                if names.contains(&text) {
                    Ok(Value::String(text))
                } else {
                    Err(format!("{at} is {text:?} but must be one of {}", names.join(", ")))
                }
            }
            (Kind::Enum(_), value) => whole(&value)
                .and_then(|number| i32::try_from(number).ok())
                .map(Value::from)
                .ok_or_else(|| wrong(at, &value, "a name or a number of its enum")),
        }
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

/// The whole number that this is, if it is one.
fn whole(value: &Value) -> Option<i128> {
    let number = match value {
        Value::Number(number) => number.clone(),
        Value::String(text) => number(text)?,
        _ => return None,
    };
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    let float = number.as_f64()?;
    // Larger ones can't be told apart, and no field is wider.
    (float.fract() == 0.0 && float.abs() < 2e19).then_some(float as i128)
}

/// A number as JSON writes it, and nothing else.
fn number(text: &str) -> Option<Number> {
    let is_bare = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    if is_bare { serde_json::from_str(text).ok() } else { None }
}

fn wrong(at: &str, value: &Value, must: &str) -> String {
    format!("{at} is {} but must be {must}", short(value))
}

/// For people: not more than a line of what a client sent.
fn short(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
