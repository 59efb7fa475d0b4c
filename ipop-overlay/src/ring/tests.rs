//! Small rings, driven by hand.
