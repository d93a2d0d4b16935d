"""From numbers to bytes and back: packed bits, entropy coders, types."""
