//! End-to-end scenarios and their traffic generator.
