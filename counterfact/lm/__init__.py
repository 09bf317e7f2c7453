"""A language model you can look into and change; knows no benchmark."""
