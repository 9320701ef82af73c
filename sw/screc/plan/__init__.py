"""The planner: which rows in which tier, and which cores."""
