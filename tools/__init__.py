"""Tools of the repository that users of the package do not need."""
