"""The registry: bundles of models, and CURRENT, which names the one in use."""
