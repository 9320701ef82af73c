"""cocotb test benches."""
