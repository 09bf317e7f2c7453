"""What editors share: batches of requests, context templates, the search for values, the frame of hypernetworks."""
