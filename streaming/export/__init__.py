"""Export: compacts the table of features into a snapshot that never changes."""
