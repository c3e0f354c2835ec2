//! Entries: what they hold, how they are signed, and what makes one acceptable.
