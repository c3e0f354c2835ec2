//! Messages that are passed on must keep what they hold of newer versions.
//!
//! Prost drops fields that it does not know. In a `.proto` a message says that it
//! is relayed, and wherever it is part of another one the generated code gets
//! `super::Kept<Message>` in its place: a wrapper of the crate's own that holds the
//! message and the unknown rest. The wrapper asks `Relayed::FIELDS` which
//! numbers are known; that is written here, too, so that it can't go stale.

use std::fmt::Write as _;

/// The line of a message's comment.
const MARK: &str = "/// Relayed: fields that are not known are kept and passed on.";

/// A message with the mark, and the numbers of its fields.
struct Relayed {
    name: String,
    fields: Vec<u32>,
}

/// Wraps the messages that have the mark, and says what their fields are.
pub(crate) fn keep_unknown(code: &str) -> String {
    let relayed = find(code);
    let mut code = code.to_owned();
    for Relayed { name, .. } in &relayed {
        for holder in ["::prost::alloc::vec::Vec", "::core::option::Option"] {
            code = code.replace(&format!("{holder}<{name}>"), &format!("{holder}<super::Kept<{name}>>"));
        }
    }
    for Relayed { name, fields } in &relayed {
        let fields = fields.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        // Writing to a String can't fail.
        let _ = write!(
            code,
            "impl super::Relayed for {name} {{\n    const FIELDS: &'static [u32] = &[{fields}];\n}}\n"
        );
    }
    code
}

fn find(code: &str) -> Vec<Relayed> {
    let mut found = Vec::new();
    let mut lines = code.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line != MARK {
            continue;
        }
        let Some(name) = lines.by_ref().find_map(|line| line.strip_prefix("pub struct ")) else { break };
        let name = name.trim_end_matches(" {").to_owned();
        let body = lines.by_ref().take_while(|line| *line != "}");
        let fields = body.filter_map(|line| {
            let number = line.strip_prefix("#[prost(")?.split("tag = \"").nth(1)?.split('"').next()?;
            number.parse().ok()
        });
        found.push(Relayed { name, fields: fields.collect() });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = r#"
pub struct Packet {
    #[prost(message, repeated, tag = "4")]
    pub updates: ::prost::alloc::vec::Vec<Update>,
    #[prost(message, optional, tag = "6")]
    pub hello: ::core::option::Option<Hello>,
}
/// A word.
/// Relayed: fields that are not known are kept and passed on.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Update {
    /// Who.
    #[prost(string, tag = "1")]
    pub node_id: ::prost::alloc::string::String,
    #[prost(uint64, tag = "12")]
    pub age_us: u64,
}
pub struct Hello {
    #[prost(bool, tag = "1")]
    pub join: bool,
}
"#;

    #[test]
    fn a_marked_message_is_wrapped_and_its_fields_are_named() {
        let code = keep_unknown(CODE);
        assert!(code.contains("Vec<super::Kept<Update>>"), "{code}");
        assert!(code.contains("Option<Hello>"), "{code}");
        assert!(code.contains("impl super::Relayed for Update"), "{code}");
        assert!(code.contains("&[1, 12];"), "{code}");
        assert!(!code.contains("Relayed for Hello"), "{code}");
    }

    #[test]
    fn code_without_the_mark_stays_as_it_is() {
        let plain = CODE.replace(MARK, "/// Plain.");
        assert_eq!(keep_unknown(&plain), plain);
    }
}
