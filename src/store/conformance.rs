//! Behavior every backend shows.
