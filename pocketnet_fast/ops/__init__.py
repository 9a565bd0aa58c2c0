"""Operators: each folder holds reference, kernels and registration of one op."""
