"""Golden model: the numerics in integer numpy, and its float twin."""
