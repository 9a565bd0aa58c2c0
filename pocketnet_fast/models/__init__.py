"""The networks as plain PyTorch modules, their genotypes, the registry of names, and weight files."""
