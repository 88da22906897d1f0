"""The application on Amazon EMR: package, deploy, submit, watch, stop."""
