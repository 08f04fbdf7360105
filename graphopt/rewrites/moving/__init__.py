"""Convolutions moved to where the map has fewer pixels."""
