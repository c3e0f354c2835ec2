//! Where entries are kept.
