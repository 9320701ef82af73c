"""Memory-centric core: gather, dequantise, pool."""
