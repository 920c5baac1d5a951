//! `detect` and `decide` put together: pure.
