"""Which task to annotate next."""
