"""What makes a step fast: kernels, memory format, torch.compile, shortcuts through torch."""
