//! The policy over days of traffic: see [`simulation`].

mod simulation;
