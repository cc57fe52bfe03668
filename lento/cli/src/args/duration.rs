//! Durations as people write them.

use std::time::Duration;

/// `30s`, `500ms`, `1h 30m`, `2d`; a bare number is of seconds.
///
/// # Errors
/// What is wrong with it, for the person who typed it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    humantime::parse_duration(text).map_err(|why| format!("{why}; write it as 30s, 500ms or 1h"))
}

#[cfg(test)]
mod tests {
    use super::parse_duration;
    use std::time::Duration;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("soon").expect_err("not a duration").contains("30s"));
        assert!(parse_duration("-1").is_err());
    }
}
