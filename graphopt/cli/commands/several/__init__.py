"""Commands for many models."""
