"""Publisher SDK: an application's tasks in, handles that give results out."""
