//! Patterns for values, and the names that a scene gives to values.

use std::collections::HashMap;

use serde_json::Value;

/// The values of the `$names` of one run of a scene.
#[derive(Debug, Default)]
pub struct Names {
    values: HashMap<String, Value>,
}

impl Names {
    /// Puts the values of the names into a frame or a line. `now_ms`: milliseconds since 1970, for `$now`, `$now+N` and `$now-N`.
    pub fn fill(&self, template: &Value, now_ms: u64) -> Result<Value, String> {
        Ok(match template {
            Value::String(text) if text.starts_with('$') => self.value(&text[1..], now_ms)?,
            Value::Array(items) => {
                items.iter().map(|item| self.fill(item, now_ms)).collect::<Result<Vec<_>, _>>()?.into()
            }
            Value::Object(fields) => {
                let filled = fields.iter().map(|(key, value)| Ok((key.clone(), self.fill(value, now_ms)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            _ => template.clone(),
        })
    }

    /// Like [`Names::fill`], for a pattern, in which a name may be new.
    pub(crate) fn fill_known(&self, pattern: &Value, now_ms: u64) -> Result<Value, String> {
        Ok(match pattern {
            Value::String(text) if text.starts_with("$now") => self.value(&text[1..], now_ms)?,
            Value::Array(items) => {
                items.iter().map(|item| self.fill_known(item, now_ms)).collect::<Result<Vec<_>, _>>()?.into()
            }
            Value::Object(fields) => {
                let filled = fields.iter().map(|(key, value)| Ok((key.clone(), self.fill_known(value, now_ms)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            _ => pattern.clone(),
        })
    }

    fn value(&self, name: &str, now_ms: u64) -> Result<Value, String> {
        if let Some(change) = name.strip_prefix("now") {
            let moved = change.parse::<i64>().ok().and_then(|change| now_ms.checked_add_signed(change));
            let at = if change.is_empty() { Some(now_ms) } else { moved };
            return at.map(|at| at.to_string().into()).ok_or_else(|| format!("${name} is no time"));
        }
        self.values.get(name).cloned().ok_or_else(|| format!("${name} has no value yet"))
    }

    /// Checks that `value` has at least what `pattern` asks for, and gives values to new names. The error says where the two differ.
    pub fn matches(&mut self, pattern: &Value, value: &Value) -> Result<(), String> {
        match (pattern, value) {
            (Value::String(any), Value::Null) if any == "*" => Err("is missing".to_owned()),
            (Value::String(any), _) if any == "*" => Ok(()),
            (Value::String(text), _) if text.starts_with('$') => {
                if value.is_null() {
                    return Err("is missing".to_owned());
                }
                let known = self.values.entry(text[1..].to_owned()).or_insert_with(|| value.clone());
                if known == value { Ok(()) } else { Err(format!("expected {known} ({text}), got {value}")) }
            }
            (Value::Object(wanted), Value::Object(fields)) => wanted.iter().try_for_each(|(key, wanted)| {
                let absent = default_of(wanted);
                self.matches(wanted, fields.get(key).unwrap_or(&absent)).map_err(|error| format!("{key}: {error}"))
            }),
            (Value::Array(wanted), Value::Array(items)) if wanted.len() == items.len() => {
                wanted.iter().zip(items).enumerate().try_for_each(|(at, (wanted, item))| {
                    self.matches(wanted, item).map_err(|error| format!("{at}: {error}"))
                })
            }
            _ if pattern == value => Ok(()),
            (_, Value::Null) => Err(format!("expected {pattern}, but it is missing")),
            _ => Err(format!("expected {pattern}, got {value}")),
        }
    }
}

/// The value of this kind that canonical JSON leaves out.
fn default_of(wanted: &Value) -> Value {
    match wanted {
        Value::Bool(_) => false.into(),
        Value::Number(_) => 0.into(),
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => "0".into(),
        Value::String(text) if text.is_empty() => "".into(),
        Value::Array(_) => Value::Array(Vec::new()),
        Value::String(_) | Value::Object(_) | Value::Null => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pattern_asks_for_its_fields_and_no_others() {
        let mut names = Names::default();
        let frame = json!({"send": {"clientId": "7-1", "to": {"user": "bob"}, "more": [1, 2]}});
        names.matches(&json!({"send": {"clientId": "$id", "more": [1, 2]}}), &frame).expect("has that");
        names.matches(&json!({"send": {"clientId": "$id", "after": "", "x": false}}), &frame).expect("the same id");
        let other = json!({"send": {"clientId": "7-2"}});
        let why = names.matches(&json!({"send": {"clientId": "$id"}}), &other).expect_err("another id");
        assert_eq!(why, "send: clientId: expected \"7-1\" ($id), got \"7-2\"");
        for (pattern, why) in [
            (json!({"send": {"after": "$other"}}), "after: is missing"),
            (json!({"send": {"to": {"group": "*"}}}), "group: is missing"),
            (json!({"ping": {}}), "ping: expected {}, but it is missing"),
            (json!({"send": {"more": [1]}}), "more: expected [1], got [1,2]"),
            (json!({"send": {"more": [1, 3]}}), "more: 1: expected 3, got 2"),
        ] {
            let told = names.matches(&pattern, &frame).expect_err("differs");
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn names_and_times_are_filled_in() {
        let mut names = Names::default();
        names.matches(&json!("$id"), &json!("a")).expect("any");
        let filled = names.fill(&json!(["$id", {"t": "$now+5"}, "$now-1", "$now", 4]), 100);
        assert_eq!(filled, Ok(json!(["a", {"t": "105"}, "99", "100", 4])));
        names.fill(&json!("$unknown"), 100).expect_err("nobody has named it");
        names.fill(&json!("$now-101"), 100).expect_err("before 1970");
    }
}
