"""What can be done to convolution kernels without loss: composed, shrunk, split, placed on other grids."""
