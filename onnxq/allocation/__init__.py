"""Bits where they matter: which tensor is stored how, so that a file meets a target."""
