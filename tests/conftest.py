"""For all tests."""

import signal

# A shell that runs the tests in the background has them ignore Ctrl-C, and so the commands that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
