"""The networks, the generator file, and the upscaler that runs a generator on an image of any size."""
