"""Real updates: facts whose object was replaced between two dumps of WikiData, as records whose new object is true."""
