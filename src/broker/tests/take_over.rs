//! `take_over`
