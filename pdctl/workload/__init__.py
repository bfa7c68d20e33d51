"""The load: requests over time, their lengths, and the service levels wanted."""
