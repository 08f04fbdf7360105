"""The inputs on which models are compared, at sizes at which they run."""
