"""The compute-centric core."""
