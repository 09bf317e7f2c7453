"""What holds of the whole repository: imports, pages, golden numbers, devices."""
