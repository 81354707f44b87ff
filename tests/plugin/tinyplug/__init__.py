"""A plug-in: see pyproject.toml."""
