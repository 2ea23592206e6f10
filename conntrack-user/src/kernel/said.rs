//! Problems that were said.

use std::collections::HashSet;

/// How many are remembered. Some have a name in them, and those come and go.
pub(crate) const MOST_SAID: usize = 1000;

/// What was said, so that each problem is said once.
#[derive(Debug, Default)]
pub(crate) struct Said(pub(crate) HashSet<String>);

impl Said {
    /// Leaves what was not said yet, which is from now on.
    pub(crate) fn leave_new(&mut self, problems: &mut Vec<String>) {
        if self.0.len() > MOST_SAID {
            self.0.clear();
        }
        problems.retain(|problem| self.0.insert(problem.clone()));
    }
}
