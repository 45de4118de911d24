"""The published tables of cluster-based quantization, measured and drawn; see ce2_tables.py."""
