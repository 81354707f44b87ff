"""Recordings of event cameras: reading, cutting into frames, playing back."""
