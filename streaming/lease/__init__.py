"""The right to write to an output: the lease that grants it, and the denylist of pictures that never go there."""
