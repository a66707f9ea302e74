"""Lists from CSV files: reading them, showing how far they are, telling what is wrong with them."""
