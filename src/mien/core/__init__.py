"""What every room shares: emotions, errors, results, images, files, the model's manifest."""
