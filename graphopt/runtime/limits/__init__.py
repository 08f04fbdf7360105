"""What runs may take: memory, threads and time."""
