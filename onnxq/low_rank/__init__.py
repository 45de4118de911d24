"""Weights as products of two smaller ones: which, of what rank, and what that loses."""
