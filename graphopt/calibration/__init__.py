"""What is fed: calibration inputs, images, synthetic and test ones, and statistics of what layers read."""
