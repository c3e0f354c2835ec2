//! The parts of the gRPC protocol that both ends need: deadlines, statuses in
//! headers, and where messages begin and end.

use std::time::Duration;

use bytes::Buf;
use http::HeaderMap;
use tonic::Status;

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The deadline that a request carries; `None` without one or with one that can't
/// be read, as the protocol has it ignored then.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(TIMEOUT_HEADER)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    // At most eight digits, by the protocol.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The trailers that end a stream with `status`.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    // Fails only for metadata that is too large, and these statuses have none.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// Follows the length prefixes through a body, without keeping its bytes.
#[derive(Debug, Default)]
pub(crate) struct MessageScanner {
    prefix: [u8; 5],
    prefix_bytes: usize,
    left: u64,
}

impl MessageScanner {
    /// Advances over `data`.
    ///
    /// # Errors
    ///
    /// The length of the first message that is longer than `limit`.
    pub(crate) fn advance(&mut self, mut data: &[u8], limit: u64) -> Result<(), u64> {
        while !data.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(data.len() as u64);
                self.left -= skipped;
                data.advance(usize::try_from(skipped).unwrap_or(data.len()));
                continue;
            }
            let wanted = (self.prefix.len() - self.prefix_bytes).min(data.len());
            self.prefix[self.prefix_bytes..self.prefix_bytes + wanted].copy_from_slice(&data[..wanted]);
            self.prefix_bytes += wanted;
            data.advance(wanted);
            if self.prefix_bytes == self.prefix.len() {
                let [_compressed, length @ ..] = self.prefix;
                let length = u64::from(u32::from_be_bytes(length));
                if length > limit {
                    return Err(length);
                }
                self.left = length;
                self.prefix_bytes = 0;
            }
        }
        Ok(())
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn inside_message(&self) -> bool {
        self.left > 0 || self.prefix_bytes > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT_HEADER, value.parse().unwrap());
        headers
    }

    #[test]
    fn deadlines_have_at_most_eight_digits_and_a_unit() {
        assert_eq!(timeout(&header("250m")), Some(Duration::from_millis(250)));
        assert_eq!(timeout(&header("99999999H")), Some(Duration::from_secs(99_999_999 * 3600)));
        for odd in ["", "m", "123456789S", "-1S", "1x", "1", "1.5S"] {
            assert_eq!(timeout(&header(odd)), None, "{odd:?}");
        }
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0_u32, 3, 200] {
            body.push(0);
            body.extend(length.to_be_bytes());
            body.extend(vec![7; length as usize]);
        }
        for cut in 1..body.len() {
            let mut scanner = MessageScanner::default();
            for part in body.chunks(cut) {
                scanner.advance(part, 200).unwrap();
            }
            assert!(!scanner.inside_message(), "cut {cut}");
            scanner.advance(&body[..7], 200).unwrap();
            assert!(scanner.inside_message());
        }
        assert_eq!(MessageScanner::default().advance(&body, 199), Err(200));
    }
}
