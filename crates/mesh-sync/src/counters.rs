//! What an engine counts. Plain numbers; `metrics` turns them into Prometheus text.
