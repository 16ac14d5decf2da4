"""What is wrong with annotations and images, and what can be fixed."""
