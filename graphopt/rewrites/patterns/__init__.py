"""What several rewrites look for in a graph and build: chains, compositions, roles of channels, positions."""
