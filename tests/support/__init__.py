"""What tests and benchmarks share: places, pictures, models, servers, and programs to run."""
