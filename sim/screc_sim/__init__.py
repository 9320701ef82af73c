"""Verification of SCRec: golden model, bus models, simulator runner."""
