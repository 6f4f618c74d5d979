"""Libraries that people use, each as its own documentation recommends. They need requirements-rivals.txt."""
