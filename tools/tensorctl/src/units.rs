//! Figures as people read them. What is not known is a dash.

use serde_json::Value;

/// What stands where a figure cannot be had.
pub const UNKNOWN: &str = "-";

/// A figure, or the dash.
pub fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.into(), show)
}

/// `1234567` as `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest binary unit that leaves a whole part.
pub fn bytes(value: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value} B")
    } else {
        format!("{scaled:.1} {}", units[unit])
    }
}

/// Three digits that say something: `1,234`, `12.3`, `0.123`.
pub fn significant(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => UNKNOWN.into(),
        size if size >= 100.0 => count(value.round() as u64),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Microseconds as milliseconds.
pub fn milliseconds(us: u64) -> String {
    format!("{:.1}", us as f64 / 1_000.0)
}

/// Seconds as `3 d 4 h`, `5 h 6 min`, `7 min 8 s` or `9 s`.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A ratio with two decimals; nothing where there is nothing to divide by.
pub fn ratio(part: Option<u64>, whole: Option<u64>) -> Option<f64> {
    match (part, whole) {
        (Some(part), Some(whole)) if whole > 0 => Some(part as f64 / whole as f64),
        _ => None,
    }
}

/// A JSON value as one word of a table.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => UNKNOWN.into(),
        Value::String(text) if text.is_empty() => UNKNOWN.into(),
        // A client names itself and its command; what would move the cursor is not for a terminal.
        Value::String(text) => text
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(3 << 29)],
            ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]
        );
        assert_eq!(
            [
                duration(9),
                duration(428),
                duration(18_360),
                duration(273_600)
            ],
            ["9 s", "7 min 8 s", "5 h 6 min", "3 d 4 h"]
        );
        assert_eq!(
            [1234.4, 12.34, 1.234, 0.1234, f64::NAN].map(significant),
            ["1,234", "12.3", "1.23", "0.123", "-"]
        );
        assert_eq!(
            (
                ratio(Some(1), Some(0)),
                ratio(None, Some(1)),
                ratio(Some(3), Some(2))
            ),
            (None, None, Some(1.5))
        );
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(word(&"a\u{1b}[2Jb".into()), "a?[2Jb");
        assert_eq!(
            [word(&Value::Null), word(&"".into()), word(&7.into())],
            ["-", "-", "7"]
        );
    }
}
