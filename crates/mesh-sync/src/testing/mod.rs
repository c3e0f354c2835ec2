//! How to find out whether a store keeps its promises.
