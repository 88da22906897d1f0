"""The engine: the long-running query, in which each micro-batch takes one manifest in and makes one commit of it."""
