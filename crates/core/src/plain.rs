//! Makes text that others chose harmless to read.

/// Removes control and format characters (Unicode Cc and Cf), which can hide or reverse the text around them
/// or control a terminal. For text that others chose, before it is shown or logged.
pub fn plain(text: &str) -> String {
    let is_format = |c: char| {
        matches!(
            u32::from(c),
            0xAD | 0x600..=0x605
                | 0x61C
                | 0x6DD
                | 0x70F
                | 0x890..=0x891
                | 0x8E2
                | 0x180E
                | 0x200B..=0x200F
                | 0x202A..=0x202E
                | 0x2060..=0x2064
                | 0x2066..=0x206F
                | 0xFEFF
                | 0xFFF9..=0xFFFB
                | 0x110BD
                | 0x110CD
                | 0x13430..=0x1343F
                | 0x1BCA0..=0x1BCA3
                | 0x1D173..=0x1D17A
                | 0xE0001
                | 0xE0020..=0xE007F
        )
    };
    text.chars().filter(|c| !c.is_control() && !is_format(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn what_hides_reverses_or_controls_is_removed_and_nothing_else() {
        assert_eq!(plain("a\u{202e}b\u{200b}c\u{1b}[2Jd\n\u{feff}"), "abc[2Jd");
        assert_eq!(
            plain("Z\u{fc}rich, \u{6771}\u{4eac} \u{20ac}5"),
            "Z\u{fc}rich, \u{6771}\u{4eac} \u{20ac}5"
        );
    }
}
