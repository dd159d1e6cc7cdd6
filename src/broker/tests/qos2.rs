//! qos2
