"""Codebooks for the values of one tensor: one-dimensional clustering, optimal or as published."""
