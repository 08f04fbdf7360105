"""Shapes and types of all values, inferred from the sizes of the inputs."""
