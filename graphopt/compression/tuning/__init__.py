"""All weights of a network fitted together to what the original makes of the same inputs."""
