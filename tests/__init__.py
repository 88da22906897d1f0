"""The test suite; each test's name and docstring state the promise that it keeps."""
