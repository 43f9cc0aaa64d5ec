//! Plays: scripts of who sends what and who receives what, run against real sockets. The language:
//!
//! ```text
//! # a comment
//! alice.phone signs in                      connects, SignIn with a token, takes SignedIn
//! alice.phone signs in {"start": "..."}     the same with more fields of SignIn
//! alice.phone connects                      connects and says nothing
//! alice.phone sends {"ping": {...}}         one ClientFrame in JSON
//! alice.phone receives {"pong": {...}}      the next ServerFrame has at least these fields
//! alice.phone hears nothing                 a Ping is answered by a Pong before anything else comes
//! alice.phone is closed                     the connection ends without another frame
//! alice.phone disconnects                   the connection is cut without a word
//! ```
//!
//! `@alice` stands for the user id that alice has in this run, `"$name"` for any value, which must be the same wherever
//! the name comes again, `"*"` for any value. A line that begins with two spaces continues the one before.

use std::collections::HashMap;

use serde_json::Value;

/// One line of a play.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub number: usize,
    pub actor: Actor,
    pub action: Action,
}

/// A connection of a device of a user: `alice.phone`, or `alice.phone'` for a second one of the same device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    pub name: String,
    pub user: String,
    pub device: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Connect,
    SignIn(Value),
    Send(Value),
    Receive(Value),
    HearNothing,
    IsClosed,
    Disconnect,
}

/// Parses a play. Panics with the wrong line, because plays are part of the tests.
pub fn parse(text: &str) -> Vec<Line> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("  ") {
            let (_, before) = lines.last_mut().unwrap_or_else(|| panic!("line {}: nothing to continue", number + 1));
            before.push(' ');
            before.push_str(line.trim());
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            lines.push((number + 1, line.trim().to_owned()));
        }
    }
    lines.into_iter().map(|(number, line)| parse_line(number, &line)).collect()
}

fn parse_line(number: usize, line: &str) -> Line {
    let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("line {number}: who does what?"));
    let (user, device) = name.split_once('.').unwrap_or_else(|| panic!("line {number}: {name} is not user.device"));
    let json = |text: &str| -> Value {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("line {number}: {error}: {text}"))
    };
    let action = if let Some(more) = rest.strip_prefix("signs in") {
        Action::SignIn(if more.trim().is_empty() { Value::Object(Default::default()) } else { json(more) })
    } else if let Some(frame) = rest.strip_prefix("sends ") {
        Action::Send(json(frame))
    } else if let Some(pattern) = rest.strip_prefix("receives ") {
        Action::Receive(json(pattern))
    } else {
        match rest {
            "connects" => Action::Connect,
            "hears nothing" => Action::HearNothing,
            "is closed" => Action::IsClosed,
            "disconnects" => Action::Disconnect,
            other => panic!("line {number}: {other:?} is not an action"),
        }
    };
    let actor =
        Actor { name: name.to_owned(), user: user.to_owned(), device: device.trim_end_matches('\'').to_owned() };
    Line { number, actor, action }
}

/// The values of `$names` and `@users` in one run.
#[derive(Default)]
pub struct Bindings {
    values: HashMap<String, Value>,
    run: String,
}

impl Bindings {
    pub fn new(run: &str) -> Self {
        Self { values: HashMap::new(), run: run.to_owned() }
    }

    pub fn user(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    /// Fills in the known values; an unknown `$name` is a mistake in the play.
    pub fn fill(&self, template: &Value) -> Value {
        match template {
            Value::String(text) => match (text.strip_prefix('@'), text.strip_prefix('$')) {
                (Some(user), _) => Value::String(self.user(user)),
                (_, Some(name)) => self.values.get(name).unwrap_or_else(|| panic!("${name} is not known yet")).clone(),
                _ => template.clone(),
            },
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), self.fill(value))).collect(),
            _ => template.clone(),
        }
    }

    /// Checks that `value` has at least what `pattern` demands, and binds new names. The error says where the two
    /// differ.
    pub fn matches(&mut self, pattern: &Value, value: &Value) -> Result<(), String> {
        match (pattern, value) {
            (Value::String(any), _) if any == "*" => Ok(()),
            (Value::String(text), _) if text.starts_with('$') => {
                let known = self.values.entry(text[1..].to_owned()).or_insert_with(|| value.clone());
                if known == value { Ok(()) } else { Err(format!("{text} is {known}, got {value}")) }
            }
            (Value::String(text), _) if text.starts_with('@') => {
                let user = Value::String(self.user(&text[1..]));
                if user == *value { Ok(()) } else { Err(format!("expected {user}, got {value}")) }
            }
            (Value::Object(wanted), Value::Object(fields)) => wanted.iter().try_for_each(|(key, wanted)| {
                // Canonical JSON leaves out default values.
                let absent = match wanted {
                    Value::Bool(_) => Value::Bool(false),
                    Value::Number(_) => Value::from(0),
                    Value::String(text) if text.chars().all(|c| c.is_ascii_digit()) => Value::from("0"),
                    _ => Value::Null,
                };
                self.matches(wanted, fields.get(key).unwrap_or(&absent)).map_err(|error| format!("{key}: {error}"))
            }),
            (Value::Array(wanted), Value::Array(items)) if wanted.len() == items.len() => {
                wanted.iter().zip(items).try_for_each(|(wanted, item)| self.matches(wanted, item))
            }
            _ if pattern == value => Ok(()),
            _ => Err(format!("expected {pattern}, got {value}")),
        }
    }
}

mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_play_that_differs_is_told_where() {
        let mut bindings = Bindings::new("x");
        let pattern = json!({"accepted": {"clientId": "1", "position": {"seq": "$p"}}});
        let frame = json!({"accepted": {"clientId": "1", "position": {"seq": "4", "epoch": "9"}, "more": 1}});
        bindings.matches(&pattern, &frame).expect("matches");
        let error = bindings.matches(&json!({"accepted": {"clientId": "$p"}}), &frame).expect_err("4 is not 1");
        assert!(error.contains("clientId"), "{error}");
        assert_eq!(bindings.fill(&json!(["$p", "@bob"])), json!(["4", "bob-x"]));
        bindings.matches(&json!({"a": false, "b": "0"}), &json!({})).expect("defaults are left out");
        bindings.matches(&json!({"a": true}), &json!({})).expect_err("but only defaults");
    }
}
