"""The tensor-train reconstructor: rows of a table rebuilt from its TT cores."""
