"""Bits where they matter: every way to spend bytes on a model, measured on tasks; see README.md."""
