"""What several rewrites look for in a graph and build: views of operators, regions, and what is in them."""
