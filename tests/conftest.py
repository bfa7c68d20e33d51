"""What every test relies on."""

import signal

# started in the background by a script, a process inherits an ignored SIGINT, and so do those it
# starts: Ctrl-C would do nothing in the tests of Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
