//! Exact parsing of whole numbers, in all forms that JSON has for them.

use serde_json::{Number, Value};

/// From here on, a floating-point number may stand for another whole number than the written one.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The whole number in this value; `None` if it is no whole number. An error if that can't be decided.
pub(super) fn whole(value: &Value) -> Result<Option<i128>, &'static str> {
    let number = match value {
        Value::Number(number) => number,
        Value::String(text) => return Ok(written(text)),
        _ => return Ok(None),
    };
    if let Some(number) = number.as_i128() {
        return Ok(Some(number));
    }
    let Some(float) = number.as_f64() else { return Ok(None) };
    if float.fract() != 0.0 || float.abs() > 2e19 {
        return Ok(None);
    }
    if float.abs() >= EXACT {
        return Err("is too large for a point or an exponent: it must be in digits alone, or in quotes");
    }
    Ok(Some(float as i128))
}

/// Parses a number in JSON's syntax, and nothing else.
pub(super) fn number(text: &str) -> Option<Number> {
    let is_bare = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    if is_bare { serde_json::from_str(text).ok() } else { None }
}

/// The whole number in quotes, exact in every digit.
fn written(text: &str) -> Option<i128> {
    number(text)?;
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{before}{behind}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let exponent = i64::from(exponent.parse::<i32>().ok()?);
    let zeros = exponent - behind.len() as i64 + (digits.len() - significant.len()) as i64;
    // No field is as wide as 30 digits.
    let zeros = u32::try_from(zeros).ok().filter(|zeros| *zeros < 30)?;
    let number = significant.parse::<i128>().ok()?.checked_mul(10_i128.checked_pow(zeros)?)?;
    Some(if is_negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_in_quotes_counts() {
        for (text, is) in [
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("18446744073709551615.00", Some(u64::MAX.into())),
            ("1844674407370955161500e-2", Some(u64::MAX.into())),
            ("1.8446744073709551615E+19", Some(u64::MAX.into())),
            ("0.000", Some(0)),
            ("-0e9", Some(0)),
            ("-12.50e1", Some(-125)),
            ("1.5", None),
            ("1e-1", None),
            ("1e99", None),
            ("1.5e-9223372036854775808", None),
            ("1e9223372036854775807", None),
            ("+1", None),
            ("007", None),
            ("", None),
            ("1.", None),
        ] {
            assert_eq!(written(text), is, "{text}");
        }
    }
}
