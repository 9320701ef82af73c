"""Combiner: adds partial sums of a bag and requantises once."""
