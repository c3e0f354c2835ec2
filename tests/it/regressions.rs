//! Runs that failed once, kept with all of their options.

use std::{fs, path::Path};

use mesh_sim::{Options, run};

#[test]
fn runs_that_failed_once_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no regressions in {}", folder.display());
    for path in files {
        let text = fs::read_to_string(&path).expect("readable");
        let options = Options::from_toml(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Err(violation) = run(&options) {
            panic!("{violation}\nreplay: mesh-sim --regression {}", path.display());
        }
    }
}
