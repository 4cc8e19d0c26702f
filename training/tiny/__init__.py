"""Research on the small model: how it was made, and what each part of the method gives it."""
