"""Training with tensor-train tables; needs PyTorch, the extra ``screc[train]``."""
