"""The types of the public package, checked by basedpyright."""
