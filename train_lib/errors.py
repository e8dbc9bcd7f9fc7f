"""What goes wrong outside the program and can be put right by its user."""


class UserError(Exception):
    """Its text says what was wrong, where, and what to do next; it is shown without a traceback."""
