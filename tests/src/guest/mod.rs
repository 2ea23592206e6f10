//! Handles of a scenario on the machine that it runs on.
