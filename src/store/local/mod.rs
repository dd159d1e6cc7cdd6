//! The embedded backend.

pub mod disk;
#[cfg(any(test, feature = "testing"))]
#[expect(clippy::indexing_slicing, reason = "it exists for tests, where a panic is a finding")]
pub mod faulty_disk;
