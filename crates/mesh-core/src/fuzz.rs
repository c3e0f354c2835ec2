//! What fuzzers call, and the same calls as ordinary tests.
//!
//! A target takes any bytes, decodes them, and panics if a promise is broken: what was
//! decoded encodes to the same, what was refused has an error. Every crate lists its
//! own as `TARGETS`; `cargo xtask fuzz` runs them, and [`exercise`] runs them in tests.

use std::{fs, path::Path};

use crate::{
    ClusterName, FencingToken, NodeId, ProtocolVersion, Role, SpiffeId, TrustDomain, VersionRange,
    fs::{Format, parse},
    store::Key,
};

/// A name, which is also that of the folder of its corpus, and what is called.
pub type Target = (&'static str, fn(&[u8]));

/// The targets of this crate.
pub const TARGETS: &[Target] = &[("core_file", file), ("core_names", names)];

const FORMAT: Format =
    Format { kind: *b"FUZZ", versions: VersionRange::new(2, 3), bytes_max: 1 << 20, repair: "none" };

/// Files on disk, damaged in every way, and whole ones with any body.
pub fn file(data: &[u8]) {
    let check = |bytes: &[u8]| {
        let path = Path::new("fuzzed");
        match parse(path, FORMAT, bytes) {
            Ok(contents) => {
                assert!(FORMAT.versions.contains(ProtocolVersion(contents.version)));
                assert_eq!(contents.body, bytes[bytes.len() - contents.body.len()..]);
            }
            Err(error) => assert!(error.to_string().contains("fuzzed"), "the file is named"),
        }
    };
    check(data);
    // No fuzzer guesses a checksum: with a header that fits, what follows it is reached.
    let (version, body) = data.split_first().map_or((2, data), |(first, rest)| (u32::from(*first % 6), rest));
    let whole = FORMAT.header(version, body).into_iter().chain(body.iter().copied()).collect::<Vec<_>>();
    let taken = parse(Path::new("fuzzed"), FORMAT, &whole);
    assert_eq!(taken.is_ok(), FORMAT.versions.contains(ProtocolVersion(version)));
    check(&whole);
}

/// Names and numbers as text: what is accepted is written the same way.
pub fn names(data: &[u8]) {
    fn check<
        T: std::str::FromStr<Err: std::fmt::Display> + std::fmt::Display + PartialEq + std::fmt::Debug,
    >(
        text: &str,
    ) {
        match text.parse::<T>() {
            Ok(name) => {
                let again = name.to_string();
                assert_eq!(again.parse::<T>().ok(), Some(name), "{text:?} is written as {again:?}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let text = String::from_utf8_lossy(data);
    check::<NodeId>(&text);
    check::<Role>(&text);
    check::<ClusterName>(&text);
    check::<TrustDomain>(&text);
    check::<SpiffeId>(&text);
    check::<FencingToken>(&text);
    check::<Key>(&text);
}

/// Runs targets over their corpus in `fuzz/corpus`, over the same bytes with small damage, and over
/// random bytes. The same on every run.
///
/// # Panics
///
/// If a target panics, or has no corpus: then nothing would be known of it.
pub fn exercise(targets: &[Target]) {
    for (name, target) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut inputs = corpus(&folder);
        assert!(!inputs.is_empty(), "{} holds no input", folder.display());
        let mut random = Random(0x5eed);
        for input in inputs.clone() {
            inputs.extend((0..8).map(|_| damaged(&input, &mut random)));
        }
        inputs.extend((0..200).map(|length| (0..length).map(|_| random.next() as u8).collect()));
        for input in &inputs {
            target(input);
        }
    }
}

fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).collect()
}

fn damaged(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut input = input.to_vec();
    let at = random.next() as usize % (input.len() + 1);
    match random.next() % 3 {
        0 => input.truncate(at),
        1 => input.insert(at, random.next() as u8),
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
    }
    input
}

/// xorshift64*: enough to vary inputs, and without a dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn decoders_hold_over_their_corpus() {
        super::exercise(super::TARGETS);
    }
}
