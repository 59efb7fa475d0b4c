//! Names that people give: which are allowed, and which look the same.

use ipop_overlay::group::Label;
use unicode_normalization::UnicodeNormalization;
use unicode_security::{GeneralSecurityProfile, MixedScript};

use crate::error::Error;

/// Signs of a display name.
const DISPLAY_LEN_MAX: usize = 64;

/// Names of one skeleton look the same (Unicode Technical Standard 39, section 4), whatever their case.
pub fn skeleton(name: &str) -> String {
    let shown: String = unicode_security::skeleton(&name.to_lowercase()).collect();
    // Where a small sign's prototype is a capital (0 and O).
    let lower = shown.to_lowercase();
    unicode_security::skeleton(&lower).filter(|sign| !sign.is_whitespace()).collect()
}

/// # Errors
/// A text that is no name, with what is wrong.
pub fn label(what: &str, text: &str) -> Result<Label, Error> {
    Label::new(text.trim()).map_err(|error| Error::Invalid(format!("{what}: {error}")))
}

/// A name for people: in one script, of letters, digits, spaces and a few marks.
///
/// # Errors
/// A text that is none, with what is wrong.
pub fn display(text: &str) -> Result<String, Error> {
    let name: String = text.trim().nfc().collect();
    let is_allowed = |sign: char| sign.identifier_allowed() || matches!(sign, ' ' | '.' | '-' | ',' | '\'');
    if name.is_empty() || name.chars().count() > DISPLAY_LEN_MAX {
        return Err(Error::Invalid(format!("a display name has 1 to {DISPLAY_LEN_MAX} signs")));
    }
    if let Some(sign) = name.chars().find(|sign| !is_allowed(*sign)) {
        return Err(Error::Invalid(format!("a display name cannot have the sign {}", sign.escape_unicode())));
    }
    if !name.as_str().is_single_script() {
        return Err(Error::invalid("a display name cannot mix scripts, as Latin and Cyrillic"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_the_same_have_one_skeleton() {
        for (a, b) in [
            ("alice", "аlice"), // a Cyrillic а
            ("alice", "Alice"),
            ("alice", "a1ice"),
            ("modern", "rnodern"),
            ("bob", "b0b"),
            ("paypal", "pаypаl"),
            ("al ice", "alice"),
        ] {
            assert_eq!(skeleton(a), skeleton(b), "{a} and {b}");
        }
        assert_ne!(skeleton("alice"), skeleton("alicia"));
        assert_ne!(skeleton("node1"), skeleton("node2"));
    }

    #[test]
    fn display_names_are_of_one_script_and_no_markup() {
        for good in ["Alice Smith", "Jean-Luc O'Neil", "Ångström", "Дмитрий", "山田太郎"] {
            assert_eq!(display(good).as_deref(), Ok(good));
        }
        for bad in ["", "аlice", "<b>", "a\u{202e}b", "a\0b", "a\u{200b}b", "&amp;", &"x".repeat(65)] {
            assert!(matches!(display(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }
}
