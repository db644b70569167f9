"""What the process and its machine give: memory, CPU limits, shared files, threads."""
