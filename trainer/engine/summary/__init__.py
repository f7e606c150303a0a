"""What a run says at its start and at its end."""
