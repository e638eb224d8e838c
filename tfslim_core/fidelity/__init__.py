"""What a model promises to those who call it, and whether another one keeps it: `tfslim diff`."""
