"""What weights are multiplied with, learnt by running a model on data."""
