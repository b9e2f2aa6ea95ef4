"""The client side: what a program holds while it talks to its workers."""
