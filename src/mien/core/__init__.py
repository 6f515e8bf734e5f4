"""What every room shares: emotions, errors, results, images, the model's manifest. Nothing heavy."""
