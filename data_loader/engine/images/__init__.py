"""Images: finding, decoding, caching and normalizing them."""
