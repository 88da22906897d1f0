"""An output: tables and records in one folder, with one module for each kind of them."""
