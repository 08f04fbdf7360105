"""Calibration inputs from where people have them: their own functions, and whatever yields samples."""
