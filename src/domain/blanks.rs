//! Blanks, line breaks and byte order marks, which people paste around a text without seeing them.

/// A text without the blanks, line breaks and byte order marks around it.
pub fn without_blanks(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}
