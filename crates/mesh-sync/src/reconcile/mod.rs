//! How two peers find out what the other lacks. Everything here is sans-io.
