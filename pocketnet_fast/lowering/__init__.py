"""From a trained module to a simplified plan of fused steps."""
