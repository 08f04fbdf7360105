"""Channels, taps and blocks of weights that contribute nothing."""
