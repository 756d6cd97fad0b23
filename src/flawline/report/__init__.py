"""What a line did on a test split: figures, pictures, plots and the HTML page."""
