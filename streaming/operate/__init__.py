"""The questions of operators: the status of a stream, its quarantine, and the pictures that it has missed."""
