//! What is known of services: their methods, and the messages that these take and give.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use prost_reflect::{DescriptorPool, MethodDescriptor};

/// The largest file with descriptors that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why descriptors can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The file can't be read.
    #[error("cannot read the descriptors in {}; see transport.endpoints.<name>.descriptors", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any that makes sense.
    #[error("{} has more than {bytes_max} bytes, the most for a file with descriptors", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// What was read is no set of descriptors, or it lacks files that it imports.
    #[error(
        "{origin} is not a complete set of descriptors; \
         make it with `protoc --include_imports --descriptor_set_out=FILE`"
    )]
    Malformed {
        /// The file, or "the program's set".
        origin: String,
        /// The cause.
        #[source]
        source: prost_reflect::DescriptorError,
    },
}

/// The descriptors of any number of services. Clones share them.
///
/// ```
/// use mesh_transport::transcode::Descriptors;
/// let mut descriptors = Descriptors::default();
/// // Made by a generator, or by `protoc --include_imports --descriptor_set_out`.
/// descriptors.add(&[])?;
/// assert!(!descriptors.has_service("shop.v1.Orders"));
/// # Ok::<(), mesh_transport::transcode::DescriptorError>(())
/// ```
#[derive(Clone, Default)]
pub struct Descriptors(DescriptorPool);

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.services()).finish()
    }
}

impl Descriptors {
    /// Adds an encoded `google.protobuf.FileDescriptorSet`. Of files with the same name the
    /// first one counts.
    ///
    /// # Errors
    ///
    /// [`DescriptorError::Malformed`]; nothing was added.
    pub fn add(&mut self, encoded: &[u8]) -> Result<(), DescriptorError> {
        self.decode(encoded, || "the program's set".to_owned())
    }

    /// Adds what a file has.
    ///
    /// # Errors
    ///
    /// [`DescriptorError`] names the file; nothing was added.
    pub fn add_file(&mut self, path: &Path) -> Result<(), DescriptorError> {
        let failed = |source| DescriptorError::Read { path: path.to_owned(), source };
        let mut encoded = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut encoded).map_err(failed)?;
        if encoded.len() as u64 > FILE_BYTES_MAX {
            return Err(DescriptorError::TooLarge { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
        }
        self.decode(&encoded, || path.display().to_string())
    }

    fn decode(&mut self, encoded: &[u8], origin: impl FnOnce() -> String) -> Result<(), DescriptorError> {
        // A set that fails half way must leave nothing behind.
        let mut pool = self.0.clone();
        pool.decode_file_descriptor_set(encoded)
            .map_err(|source| DescriptorError::Malformed { origin: origin(), source })?;
        self.0 = pool;
        Ok(())
    }

    /// Whether the service `package.Name` is described.
    pub fn has_service(&self, name: &str) -> bool {
        self.0.get_service_by_name(name).is_some()
    }

    /// All services, by their full names in order.
    pub fn services(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.services().map(|service| service.full_name().to_owned()).collect();
        names.sort();
        names
    }

    /// The method that gRPC calls at this path.
    pub(super) fn method(&self, path: &str) -> Option<MethodDescriptor> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        self.0.get_service_by_name(service)?.methods().find(|known| known.name() == method)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::transcode::tests::descriptor_set;

    #[test]
    fn methods_are_found_by_their_path() {
        let mut descriptors = Descriptors::default();
        descriptors.add(&descriptor_set()).expect("a set");
        descriptors.add(&descriptor_set()).expect("the same again is no problem");
        assert_eq!(descriptors.services(), ["test.Shop"]);
        let name = |path| descriptors.method(path).map(|method| method.full_name().to_owned());
        assert_eq!(name("/test.Shop/Order").as_deref(), Some("test.Shop.Order"));
        for path in ["/test.Shop/order", "/test.Shop", "/test.Other/Order", "test.Shop/Order", "/", ""] {
            assert_eq!(name(path), None, "{path}");
        }
    }

    #[test]
    fn a_bad_file_is_named_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing.binpb");
        let mut descriptors = Descriptors::default();
        let error = descriptors.add_file(&missing).expect_err("there is none").to_string();
        assert!(error.contains("missing.binpb") && error.contains("descriptors"), "{error}");

        let broken = folder.path().join("broken.binpb");
        File::create(&broken).and_then(|mut file| file.write_all(b"syntax = \"proto3\";")).expect("written");
        let error = descriptors.add_file(&broken).expect_err("it is source").to_string();
        assert!(error.contains("broken.binpb") && error.contains("protoc"), "{error}");

        let large = folder.path().join("large.binpb");
        File::create(&large).and_then(|file| file.set_len(FILE_BYTES_MAX + 1)).expect("made");
        let error = descriptors.add_file(&large).expect_err("too large").to_string();
        assert!(error.contains("16777216"), "{error}");
        assert_eq!(descriptors.services(), [""; 0]);
    }
}
