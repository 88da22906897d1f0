"""The look of all pages for people: HTML files that load nothing, from templates that lie beside the code."""
