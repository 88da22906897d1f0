"""The report is one HTML page that shows what a fit gave."""
