"""A convolution as a product of cheaper ones with 1x1 convolutions among them, lossless or fitted."""
