"""Mail: written down first, then sent by whichever worker comes by."""
