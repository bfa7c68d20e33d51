"""What is asked? Requests over time, their lengths, and the service levels wanted."""
