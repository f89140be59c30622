"""Parameters and the order of operations."""
