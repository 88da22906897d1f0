"""The offline job: featurize a sample of the pictures, fit StandardScaler and PCA, save the model."""
