//! Records: traces, verdicts and decisions as JSON Lines.
