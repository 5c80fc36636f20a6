//! What a plain scalar means by the core schema of YAML 1.2 (specification 1.2.2, section 10.3.2).

use crate::value::Value;

/// `None`: a number that is infinite, NaN or beyond 64 bits. No key takes one, so none gets into a tree.
pub(super) fn resolve(plain: &str) -> Option<Value> {
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(digits) = plain.strip_prefix("0x").filter(|digits| is_all(digits, |b| b.is_ascii_hexdigit()))
    {
        return i64::from_str_radix(digits, 16).ok().map(Value::Int);
    }
    if let Some(digits) =
        plain.strip_prefix("0o").filter(|digits| is_all(digits, |b| matches!(b, b'0'..=b'7')))
    {
        return i64::from_str_radix(digits, 8).ok().map(Value::Int);
    }
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    if is_all(unsigned, |b| b.is_ascii_digit()) {
        return plain.parse().ok().map(Value::Int);
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(plain, ".nan" | ".NaN" | ".NAN") {
        return None;
    }
    if is_float(unsigned) {
        return plain.parse().ok().filter(|x: &f64| x.is_finite()).map(Value::Float);
    }
    Some(Value::String(plain.to_owned()))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let is_digits = |s: &str| is_all(s, |b| b.is_ascii_digit());
    let is_mantissa = match mantissa.split_once('.') {
        None => is_digits(mantissa),
        Some(("", fraction)) => is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && (fraction.is_empty() || is_digits(fraction)),
    };
    is_mantissa && exponent.is_none_or(|e| is_digits(e.strip_prefix(['-', '+']).unwrap_or(e)))
}

fn is_all(s: &str, is: impl Fn(u8) -> bool) -> bool {
    !s.is_empty() && s.bytes().all(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, int) in [("0", 0), ("-7", -7), ("+3", 3), ("007", 7), ("0x1F", 31), ("0o17", 15)] {
            assert_eq!(resolve(text), Some(Value::Int(int)), "{text}");
        }
        for (text, float) in [
            ("1e-4", 1e-4),
            ("1E3", 1000.0),
            ("0.5", 0.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("-1.5e+2", -150.0),
            ("+.1", 0.1),
        ] {
            assert_eq!(resolve(text), Some(Value::Float(float)), "{text}");
        }
    }

    #[test]
    fn words_that_yaml_1_1_took_for_booleans_and_numbers_are_strings() {
        for text in [
            "no",
            "No",
            "on",
            "off",
            "yes",
            "y",
            "n",
            "tRUE",
            "nUll",
            "1_000",
            "0b11",
            "0X1F",
            "0o8",
            "0x",
            "1:30",
            ".",
            "-",
            "+",
            "e5",
            "1e",
            "1e-",
            "1.5.2",
            "1e5.5",
            "inf",
            "nan",
            "Infinity",
            "-0x1",
            ".e5",
            "--1",
            "2024-01-01",
            ".iNf",
            "-.nan",
        ] {
            assert_eq!(resolve(text), Some(Value::String(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn null_and_booleans() {
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(resolve(text), Some(Value::Null));
        }
        assert_eq!(resolve("True"), Some(Value::Bool(true)));
        assert_eq!(resolve("FALSE"), Some(Value::Bool(false)));
    }

    #[test]
    fn numbers_that_nothing_can_hold_are_none() {
        for text in
            [".inf", "-.Inf", "+.INF", ".nan", ".NaN", "1e999", "9223372036854775808", "0xFFFFFFFFFFFFFFFFF"]
        {
            assert_eq!(resolve(text), None, "{text}");
        }
    }
}
