//! wills
