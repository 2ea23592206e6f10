//! The policy over days of traffic ([`simulation`]), and beside tables of others ([`foreign`]).

mod foreign;
mod simulation;
