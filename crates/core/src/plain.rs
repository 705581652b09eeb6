//! Text that others chose (a host, a path, a reason, a node's message) on its way to people. A terminal, a log line, a
//! chat and a page get it through [`plain`] only (R78): what would control, hide or reverse the text around it is
//! replaced by a visible escape, such as `\u{202e}`.

use std::borrow::Cow;
use std::fmt::Write;

/// For one value in a line: also a line break is escaped, so that the value cannot begin a line of its own.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, is_unfit, |out, c| out.extend(c.escape_default()))
}

/// For a whole output whose line breaks are our own. Its parts went through [`plain`]; this is for what did not.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| c != '\n' && is_unfit(c),
        |out, c| out.extend(c.escape_default()),
    )
}

/// For JSON as it is written: the same characters as JSON's own escapes (`\u202e`), so that readers get the same value
/// and a terminal gets only visible text.
pub fn plain_json(json: &str) -> Cow<'_, str> {
    // A serializer escapes C0 in strings itself; the line breaks that are left are its own.
    escaped(
        json,
        |c| c != '\n' && is_unfit(c),
        |out, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

/// Removes the same characters. For the sentence in an approval question, whose wording is fixed (approvals §8.4).
pub fn stripped(text: &str) -> String {
    text.chars().filter(|c| !is_unfit(*c)).collect()
}

fn escaped(text: &str, is_unfit: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let Some(first) = text.find(&is_unfit) else {
        return Cow::Borrowed(text);
    };
    let (fit, rest) = text.split_at(first);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(fit);
    for c in rest.chars() {
        match is_unfit(c) {
            true => escape(&mut out, c),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Control and format characters (Unicode Cc, Cf, Zl, Zp), and letters that are drawn as nothing.
fn is_unfit(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        u32::from(c),
        0x80..=0x9F
            | 0xAD
            | 0x34F
            | 0x600..=0x605
            | 0x61C
            | 0x6DD
            | 0x70F
            | 0x890..=0x891
            | 0x8E2
            | 0x115F..=0x1160
            | 0x17B4..=0x17B5
            | 0x180B..=0x180F
            | 0x200B..=0x200F
            | 0x2028..=0x202E
            | 0x2060..=0x206F
            | 0x3164
            | 0xFE00..=0xFE0F
            | 0xFEFF
            | 0xFFA0
            | 0xFFF0..=0xFFFB
            | 0x110BD
            | 0x110CD
            | 0x13430..=0x1343F
            | 0x1BCA0..=0x1BCA3
            | 0x1D173..=0x1D17A
            | 0xE0000..=0xE0FFF
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_hides_reverses_or_controls_is_shown_and_nothing_else_is_changed() {
        let hostile = "a\u{202e}b\u{200b}c\u{1b}[2J\u{9b}1A\nd\r\t\u{7f}\u{feff}\u{e0041}";
        assert_eq!(
            plain(hostile),
            "a\\u{202e}b\\u{200b}c\\u{1b}[2J\\u{9b}1A\\nd\\r\\t\\u{7f}\\u{feff}\\u{e0041}"
        );
        assert_eq!(plain_lines("a\u{9b}\nb\r\n"), "a\\u{9b}\nb\\r\n");
        assert_eq!(stripped(hostile), "abc[2J1Ad");
        let harmless = "Z\u{fc}rich, \u{6771}\u{4eac} \u{20ac}5 \\ \u{1f600}";
        for text in [plain(harmless), plain_lines(harmless), plain_json(harmless)] {
            assert!(matches!(text, Cow::Borrowed(text) if text == harmless));
        }
    }

    proptest! {
        #[test]
        fn nothing_unfit_is_left_and_json_keeps_its_value(text in any::<String>()) {
            let once = plain(&text);
            prop_assert!(!once.contains(is_unfit));
            prop_assert_eq!(plain(&once), once.as_ref());
            prop_assert!(!plain_lines(&text).replace('\n', "").contains(is_unfit));
            let json = serde_json::to_string(&text).unwrap();
            let shown = plain_json(&json);
            prop_assert!(!shown.contains(is_unfit), "{}", shown);
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }

        #[test]
        fn every_control_character_is_unfit(c in any::<char>()) {
            prop_assert!(!c.is_control() || is_unfit(c));
        }
    }
}
