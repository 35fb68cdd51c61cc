"""Worker SDK: decorated functions in, releases executed and reported out."""
