"""What is fed: calibration inputs, images, synthetic and test ones, and the statistics of what layers read."""
