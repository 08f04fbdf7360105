"""Sample models, and the scripts that make them."""
