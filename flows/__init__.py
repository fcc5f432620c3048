"""What happens and in which order: one deployable flow a file, each a story on one screen."""
