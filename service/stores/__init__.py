"""Models in object stores: a process of its own fetches them into a folder, which the service then serves."""
