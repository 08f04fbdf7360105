"""What outputs hold: class scores or other numbers, and a row for each sample or not."""
