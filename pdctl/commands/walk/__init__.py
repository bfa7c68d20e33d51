"""The guided walk: its questions, and how a terminal asks them."""
