"""The parts of the trust card: what is asked of each case, of whom else, and how the answers are told."""
