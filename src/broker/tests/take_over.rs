//! take_over
