//! Policy: from verdicts to decisions.
