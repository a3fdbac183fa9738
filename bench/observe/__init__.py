"""What gmpy_rt's instruments cost: one script each."""
