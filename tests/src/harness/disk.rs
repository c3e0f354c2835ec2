//! A small disk that can run full.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// A file system of a few kilobytes, in memory. It is unmounted when this value goes.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of so many KiB on a folder, which is made. Needs [`Need::SmallDisk`](super::Need).
    ///
    /// # Errors
    ///
    /// It can't be mounted.
    pub fn mount(path: &Path, kibibytes: u32) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let size = format!("size={kibibytes}k,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "mesh-test"]).arg(path);
        let done = mount.output().context("cannot start mount")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "cannot mount a tmpfs on {}: {}", path.display(), said.trim());
        Ok(Self { path: path.to_owned() })
    }

    /// Writes into a file until not a byte is left.
    ///
    /// # Errors
    ///
    /// Writing fails for another reason.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler()).context("cannot make the file that fills the disk")?;
        // Large pieces first, then what is left.
        for size in [16 * 1024, 512, 1] {
            let piece = vec![b'#'; size];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    ///
    /// # Errors
    ///
    /// The file can't be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("cannot remove the file that fills the disk")
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still hold a file.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).output();
    }
}
