"""python -m src.data: what a data set is to a model. Not part of src.data, which training imports."""
