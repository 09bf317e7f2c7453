"""Training of the networks that some editors need: data -> examples -> steps -> a folder that an editor loads."""
