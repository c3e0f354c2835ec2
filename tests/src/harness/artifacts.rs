//! Where runs keep their files, and what stays of a run that failed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

/// Numbers the runs of this process.
static RUNS: AtomicU32 = AtomicU32::new(1);

/// The folder of one run. It goes when the run was fine, and stays if not.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    fine: bool,
}

impl Folder {
    /// A new folder `test-artifacts/<story>-<pid>-<number>` in the target directory.
    ///
    /// # Errors
    ///
    /// It can't be made.
    pub fn create(story: &str) -> Result<Self> {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = root()?.join(format!("{story}-{}-{run}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, fine: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run was fine: nobody needs its files.
    pub fn fine(&mut self) {
        self.fine = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.fine {
            // What can't be removed lies in the target directory, which is for such things.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// `test-artifacts` in the target directory that this program was built into.
///
/// # Errors
///
/// This program can't find itself.
pub(super) fn root() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program")?;
    // Cargo marks the top of its target directory with this file.
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let folder = target.or(program.parent()).context("this program is in no folder")?;
    Ok(folder.join("test-artifacts"))
}
