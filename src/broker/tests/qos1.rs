//! qos1
