"""What operators do with a whole service: back up, restore, copy, import, apply a file, check."""
