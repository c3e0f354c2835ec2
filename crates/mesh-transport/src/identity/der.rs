//! The few fields of a certificate that the TLS library does not hand out.
//!
//! Reads nothing but lengths and tags (X.690, RFC 5280 section 4.1); trust never
//! depends on it, since the chain was or will be verified by `webpki`. Every read
//! is bounded: a certificate comes from a peer.

use std::fmt::Write as _;

/// Serial number, validity and subject of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) serial: String,
    pub(crate) not_before_s: u64,
    pub(crate) not_after_s: u64,
    pub(crate) subject: String,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;

/// Longest subject that is written to a log.
const SUBJECT_CHARS_MAX: usize = 200;

/// The fields of a DER certificate, or `None` if it is not one.
pub(crate) fn fields(certificate: &[u8]) -> Option<Fields> {
    let mut outer = Reader(certificate).expect(SEQUENCE)?;
    let mut tbs = outer.expect(SEQUENCE)?;
    if tbs.peek() == Some(EXPLICIT_VERSION) {
        tbs.next()?;
    }
    let serial = hex(tbs.expect(INTEGER)?.0);
    tbs.expect(SEQUENCE)?; // signature algorithm
    tbs.expect(SEQUENCE)?; // issuer
    let mut validity = tbs.expect(SEQUENCE)?;
    let not_before_s = time(validity.next()?)?;
    let not_after_s = time(validity.next()?)?;
    let subject = name(tbs.expect(SEQUENCE)?);
    Some(Fields { serial, not_before_s, not_after_s, subject })
}

/// Lower-case hexadecimal of at most 64 bytes, without the sign byte that DER puts before a high bit.
fn hex(bytes: &[u8]) -> String {
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    bytes.iter().take(64).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `CN=a, O=b` with everything unprintable replaced, since it goes to a log.
fn name(mut sequence: Reader<'_>) -> String {
    let mut text = String::new();
    while let Some(mut set) = sequence.expect(SET) {
        let Some(mut attribute) = set.expect(SEQUENCE) else { break };
        let (Some(oid), Some((_, value))) = (attribute.expect(OID), attribute.next()) else { break };
        let label = match oid.0 {
            [0x55, 4, 3] => "CN",
            [0x55, 4, 6] => "C",
            [0x55, 4, 10] => "O",
            [0x55, 4, 11] => "OU",
            _ => "?",
        };
        let separator = if text.is_empty() { "" } else { ", " };
        let value: String = String::from_utf8_lossy(value)
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .take(SUBJECT_CHARS_MAX)
            .collect();
        let _ = write!(text, "{separator}{label}={value}");
        if text.len() > SUBJECT_CHARS_MAX {
            break;
        }
    }
    if text.is_empty() { "(no subject)".to_owned() } else { text }
}

/// Seconds since the Unix epoch of a UTCTime or GeneralizedTime.
fn time((tag, value): (u8, &[u8])) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, rest) = match tag {
        // RFC 5280 section 4.1.2.5.1: two-digit years from 50 on belong to the last century.
        UTC_TIME => (number(0, 2).map(|y| if y >= 50 { 1900 + y } else { 2000 + y })?, 2),
        GENERALIZED_TIME => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |index: usize| number(rest + 2 * index, rest + 2 * index + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    Some(days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01, counting years from March so that the leap day comes last.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let before_year = year * 365 + year / 4 - year / 100 + year / 400;
    before_year + (month * 153 + 2) / 5 + day - 1 - 719_468
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<Reader<'a>> {
        if self.peek()? != tag {
            return None;
        }
        self.next().map(|(_, value)| Reader(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(time((UTC_TIME, b"700101000000Z")), Some(0));
        assert_eq!(time((UTC_TIME, b"260228235959Z")), Some(1_772_323_199));
        assert_eq!(time((GENERALIZED_TIME, b"20240229000000Z")), Some(1_709_164_800));
        assert_eq!(time((GENERALIZED_TIME, b"20241301000000Z")), None);
        assert_eq!(time((UTC_TIME, b"26022823595")), None);
    }

    #[test]
    fn cut_and_random_bytes_are_refused_without_a_panic() {
        let mut seed = 7u32;
        for length in 0..400usize {
            let bytes: Vec<u8> = (0..length)
                .map(|at| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if at % 3 == 0 { 0x30 } else { (seed >> 24) as u8 }
                })
                .collect();
            let _ = fields(&bytes);
        }
        assert_eq!(fields(b""), None);
    }
}
