use super::*;

const FORMAT: Format =
    Format { kind: *b"TEST", versions: VersionRange::new(1, 2), bytes_max: 1024, repair: "mesh repair" };

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary folder")
}

#[test]
fn what_was_written_is_read() {
    let folder = folder();
    let path = folder.path().join("a");
    assert_eq!(read(&path, FORMAT).expect("no file"), None);
    replace(&path, FORMAT, b"one").expect("write");
    replace(&path, FORMAT, b"two").expect("write again");
    let contents = read(&path, FORMAT).expect("read").expect("there");
    assert_eq!((contents.version, contents.body.as_slice()), (2, &b"two"[..]));
}

#[test]
fn every_single_damaged_byte_and_every_cut_is_noticed() {
    let folder = folder();
    let path = folder.path().join("a");
    replace(&path, FORMAT, b"some contents").expect("write");
    let good = fs::read(&path).expect("bytes");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&path, &bad).expect("damage");
        let error = read(&path, FORMAT).expect_err("damage must be noticed");
        assert!(matches!(error, FileError::Damaged { .. }), "byte {at}: {error}");
        assert!(error.to_string().contains("mesh repair"));
        fs::write(&path, &good[..at]).expect("cut");
        assert!(read(&path, FORMAT).is_err(), "cut at {at}");
    }
}

#[test]
fn a_newer_version_is_refused_with_both_numbers() {
    let folder = folder();
    let path = folder.path().join("a");
    let newer = Format { versions: VersionRange::new(7, 7), ..FORMAT };
    replace(&path, newer, b"x").expect("write");
    let error = read(&path, FORMAT).expect_err("too new").to_string();
    assert!(error.contains('7') && error.contains("1..=2"), "{error}");
}

#[test]
fn a_left_over_temporary_file_does_no_harm() {
    let folder = folder();
    let path = folder.path().join("a");
    replace(&path, FORMAT, b"old").expect("write");
    fs::write(temporary(&path), b"torn").expect("torn temporary");
    assert_eq!(read(&path, FORMAT).expect("read").expect("there").body, b"old");
    replace(&path, FORMAT, b"new").expect("write");
    assert_eq!(read(&path, FORMAT).expect("read").expect("there").body, b"new");
}

#[test]
fn a_second_lock_is_refused_until_the_first_is_gone() {
    let folder = folder();
    let first = DirectoryLock::acquire(folder.path()).expect("first");
    let error = DirectoryLock::acquire(folder.path()).expect_err("held").to_string();
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
    drop(first);
    DirectoryLock::acquire(folder.path()).expect("free again");
}
