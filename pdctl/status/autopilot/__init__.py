"""Should an engine change its role? From what-ifs, queues and earlier moves to one decision."""
