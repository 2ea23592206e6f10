//! Many answers made one: what `-o json` prints, and what text and page are made of.

pub(crate) mod change;
pub(crate) mod doctor;
pub(crate) mod fold;
pub(crate) mod incidents;
pub(crate) mod journal;
pub(crate) mod limit;
pub(crate) mod report;
pub(crate) mod top;

/// The answer of one node.
pub(crate) struct OfNode<T> {
    pub(crate) node: String,
    pub(crate) answer: T,
}
