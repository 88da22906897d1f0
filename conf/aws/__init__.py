"""AWS: connections, credentials, and explanations of errors."""
