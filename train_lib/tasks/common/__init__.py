"""What several tasks share; nothing in here is a task."""
