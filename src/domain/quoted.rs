//! How an error quotes a value that came from outside.

/// The longest value that an error repeats, in bytes. Tokens, auth codes and app secrets are longer.
pub const MAX_QUOTED: usize = 20;

/// A value in quotes. A long one is told by its length alone: somebody may have put a token or an app secret in the wrong place.
pub fn quoted(text: &str) -> String {
    if text.len() > MAX_QUOTED {
        return format!("{} characters", text.chars().count());
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_may_be_a_secret_is_told_by_its_length() {
        assert_eq!(quoted("refrehs \"x\"\n"), r#""refrehs \"x\"\n""#);
        assert_eq!(quoted("TTR_0123456789abcdef0"), "21 characters");
        assert_eq!(quoted(&"ệ".repeat(40)), "40 characters");
    }
}
