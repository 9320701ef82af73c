"""Compute-centric core: MLP, interaction, sigmoid."""
