"""What a competition needs around training; nothing outside this folder imports it."""
