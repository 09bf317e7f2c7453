"""Other languages than English: how names join sentences, and data sets in one language made from another's."""
