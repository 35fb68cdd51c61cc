"""What TacoQ costs."""
