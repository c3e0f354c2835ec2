//! The high-water mark of a hybrid clock, on disk.

use std::path::{Path, PathBuf};

use super::{FileError, Format, read, replace};
use crate::{Hlc, HlcClock, VersionRange, WallTime};

const FORMAT: Format = Format {
    kind: *b"HLCM",
    versions: VersionRange::new(1, 1),
    bytes_max: 8,
    repair: "restore the file from a backup; without it timestamps may repeat, so give the node a new id instead",
};

/// Keeps the mark of one [`HlcClock`] in a file, so that a restarted node never issues a timestamp twice.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::{WallTime, fs::HighWaterMark};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("hlc");
/// let (mark, mut clock) = HighWaterMark::open(&path, Duration::from_secs(60))?;
/// mark.raise(&mut clock, WallTime(5_000))?;
/// let last = clock.issue(WallTime(5_000))?;
///
/// // After a crash, with a wall clock that was set back:
/// let (mark, mut clock) = HighWaterMark::open(&path, Duration::from_secs(60))?;
/// mark.raise(&mut clock, WallTime(1_000))?;
/// assert!(clock.issue(WallTime(1_000))? > last);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HighWaterMark {
    path: PathBuf,
}

impl HighWaterMark {
    /// Reads the mark that the last run left behind, and makes a clock that continues after it.
    ///
    /// # Errors
    ///
    /// [`FileError::Damaged`] if the file can't be trusted: a clock that starts anew could repeat timestamps.
    pub fn open(path: &Path, drift_max: std::time::Duration) -> Result<(Self, HlcClock), FileError> {
        let persisted = match read(path, FORMAT)? {
            None => None,
            Some(contents) => {
                let bytes: [u8; 8] =
                    contents.body.try_into().map_err(|body: Vec<u8>| FileError::Damaged {
                        path: path.to_owned(),
                        problem: format!("a mark has 8 bytes, it has {}", body.len()),
                        repair: FORMAT.repair,
                    })?;
                Some(Hlc::from_bits(u64::from_le_bytes(bytes)))
            }
        };
        Ok((Self { path: path.to_owned() }, HlcClock::new(persisted, drift_max)))
    }

    /// Makes the next mark durable and tells the clock. Call it before the first timestamp and whenever
    /// [`HlcClock::wants_mark`] says so.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`]; the clock keeps the mark that it had.
    pub fn raise(&self, clock: &mut HlcClock, wall: WallTime) -> Result<(), FileError> {
        let mark = clock.mark_to_persist(wall);
        replace(&self.path, FORMAT, &mark.to_bits().to_le_bytes())?;
        clock.mark_persisted(mark);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DRIFT: Duration = Duration::from_secs(60);

    #[test]
    fn a_damaged_mark_is_refused_instead_of_starting_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hlc");
        let (mark, mut clock) = HighWaterMark::open(&path, DRIFT).expect("no file yet");
        mark.raise(&mut clock, WallTime(1_000)).expect("written");
        let mut bytes = std::fs::read(&path).expect("there");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).expect("damaged");
        let error = HighWaterMark::open(&path, DRIFT).expect_err("damaged").to_string();
        assert!(error.contains("hlc") && error.contains("new id"), "{error}");
    }

    #[test]
    fn nothing_is_issued_beyond_what_is_durable() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mark, mut clock) = HighWaterMark::open(&folder.path().join("hlc"), DRIFT).expect("no file yet");
        assert!(clock.issue(WallTime(1_000)).is_err());
        mark.raise(&mut clock, WallTime(1_000)).expect("written");
        assert!(clock.issue(WallTime(1_000)).is_ok());
        let beyond = WallTime(1_000 + u64::try_from(HlcClock::MARK_AHEAD.as_millis()).expect("fits"));
        assert!(clock.wants_mark(beyond) && clock.issue(beyond).is_err());
    }
}
