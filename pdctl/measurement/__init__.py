"""What did it really do? Load, and measurement against prediction."""
