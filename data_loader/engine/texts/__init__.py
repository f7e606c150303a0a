"""Tables and texts: reading their files, tokens, and what is learned from the training part."""
