//! What was asked of a figure, and the cell of a table that says what was reached.

use std::fmt;

/// Whether a figure has to be at least or at most what was asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Asked {
    AtLeast(f64),
    AtMost(f64),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

impl Asked {
    /// The end of a table's cell: what was missed is bold, what was not measured a dash.
    pub(crate) fn cell(self, reached: Option<f64>, digits: usize) -> String {
        let Some(reached) = reached else {
            return " - |".to_owned();
        };
        let holds = match self {
            Self::AtLeast(least) => reached >= least,
            Self::AtMost(most) => reached <= most,
        };
        let bold = if holds { "" } else { "**" };
        format!(" {bold}{reached:.digits$}{bold} |")
    }
}
