//! Rust source with its comments and literals blanked out, for rules about calls.

/// The same text, byte positions and lines kept, in which every byte of a comment,
/// string or character literal is a space.
///
/// So `"todo!"` in a message does not look like a call. Raw strings, byte strings,
/// nested comments and lifetimes are told apart.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let blank = blank_length(rest, kept.last().copied());
        if blank == 0 {
            kept.push(rest[0]);
            at += 1;
        } else {
            let end = (at + blank).min(bytes.len());
            kept.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8(kept).expect("only whole literals and comments were replaced, by ASCII")
}

/// How many bytes from here are comment or literal.
fn blank_length(rest: &[u8], before: Option<u8>) -> usize {
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !before.is_some_and(is_word) => {
            raw_string(&rest[1..]).map_or(0, |n| n + 1)
        }
        [b'b', b'r', ..] if !before.is_some_and(is_word) => raw_string(&rest[2..]).map_or(0, |n| n + 2),
        // A lifetime has no closing quote right after its first character.
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', ..] => character(rest),
        _ => 0,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest.iter().take_while(|b| **b == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return None; // A raw identifier.
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = &rest[hashes + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| hashes + 1 + end + close.len()))
}

fn character(rest: &[u8]) -> usize {
    // One character of up to four bytes, then the closing quote.
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]).into_owned();
    let Some(first) = text.chars().next() else { return 0 };
    let close = 1 + first.len_utf8();
    if rest.get(close) == Some(&b'\'') { close + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, kept: &[&str], gone: &[&str]) {
        let code = code_only(source);
        assert_eq!(code.len(), source.len());
        assert_eq!(code.lines().count(), source.lines().count());
        for word in kept {
            assert!(code.contains(word), "{word:?} is missing from {code:?}");
        }
        for word in gone {
            assert!(!code.contains(word), "{word:?} is still in {code:?}");
        }
    }

    #[test]
    fn comments_and_strings_are_blank() {
        check("let a = 1; // two\nlet b = \"th\\\"ree\"; four", &["let a", "let b", "four"], &["two", "ree"]);
        check("a /* b /* c */ d */ e", &["a", "e"], &["b", "c", "d"]);
        check("x r#\"one \" two\"# y br\"three\" z", &["x", "y", "z"], &["one", "two", "three"]);
    }

    #[test]
    fn lifetimes_and_characters_are_told_apart() {
        check(
            "fn f<'a>(x: &'a str) { g('\"'); h('\\''); k('é'); } end",
            &["'a", "f<", "end", "h("],
            &["é", "\""],
        );
        check("r#type = 1; for_r\"s\"", &["r#type", "for_r"], &[]);
    }
}
