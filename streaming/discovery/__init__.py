"""Discovery: finds new pictures in an input, by listing it or by event notifications."""
