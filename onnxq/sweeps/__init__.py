"""One model at many working points: the grid, the state file, the records, the work."""
